// Attention: the weight of each tag or token, by head, before and after.

function shaded(parts, weights) {
  const most = Math.max(...weights, 1e-9);
  return el("p", { class: "shaded" }, parts.map((part, i) => {
    const strength = weights[i] / most;
    return [
      el("span", { class: strength > 0.55 ? "piece strong" : "piece", style: { "--share": `${Math.round(100 * strength)}%` }, "data-weight": weights[i], title: percent(weights[i]) },
        textOf(part), el("sub", {}, percent(weights[i], 0))),
      " ",
    ];
  }));
}

const meanOf = (heads) => heads[0].map((_, part) => heads.reduce((sum, head) => sum + head[part], 0) / heads.length);

function attentionView(each, head) {
  const of = (heads) => (head === "mean" ? meanOf(heads) : heads[Number(head)]);
  const side = (name, heads) =>
    el("div", { class: "list" }, el("h4", {}, visible(name)), heads && heads.length ? shaded(each.parts, of(heads)) : note("Its weights are unknown."));
  return [el("div", { class: "chosen" }, el("p", { class: "full", tabindex: "0" }, textOf(item.text(each.item))), itemFacts(each.item)),
    el("div", { class: "two" }, side(BEFORE, each.before), side(AFTER, each.after))];
}

function renderAttention() {
  const section = byId("attention");
  const { attention } = data.late;
  if (!attention.length) return section.append(missing("attention", "The encoder's pooling has no weights."));
  let place = 0;
  let head = "mean";
  const view = el("div", { id: "attention-view" });
  const heads = el("span");
  const show = () => view.replaceChildren(...attentionView(attention[place], head));
  const choose = (value) => {
    place = Number(value);
    head = "mean";
    const count = attention[place].after.length;
    const options = [["mean", count > 1 ? "mean of heads" : "the only head"], ...(count > 1 ? attention[place].after.map((_, i) => [i, `head ${i + 1}`]) : [])];
    heads.replaceChildren(choice("Head", options, "mean", (chosen) => ((head = chosen), show()), { id: "attention-head" }));
    show();
  };
  const kind = attention[0].kind;
  section.append(
    el("p", { class: "lead" }, `How much each of the ${kind} counts in the vector of an item. The weights of an item sum to 100%; the darkest has the most.`),
    el("div", { class: "tools" }, choice("Item", attention.map((each, i) => [i, item.text(each.item) || "(empty)"]), 0, choose, { id: "attention-item" }), heads),
    view);
  choose(0);
}
