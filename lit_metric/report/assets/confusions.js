// Confusions: classes that take each other's neighbours; each class in figures; flips between two runs.

const className = (label) => (label < 0 ? el("span", { class: "muted" }, "–") : nameOf(data.late.labels[label]));

function pairSide(title, i) {
  return el("div", { class: "side" }, el("p", { class: "muted small" }, title), el("p", {}, textOf(short(item.text(i), 600))),
    el("div", { class: "facts" }, labelTags(item.labelNames(i)), button("Neighbours", () => openItem(i), { class: "quiet" })));
}

const examplePairs = (pairs, count) => pairs.length
  ? el("ul", { class: "pairs" }, pairs.map(([one, other]) => el("li", {}, pairSide("item", one), pairSide("its nearest", other))),
    pairs.length < count ? el("li", { class: "muted small" }, `${whole(pairs.length)} of ${whole(count)}.`) : null)
  : note("No examples were kept.");

function confusionTable() {
  const { confusions } = data.late;
  if (!confusions.length) return missing("confusions", "No item has an item of another class as its nearest.");
  const most = Math.max(...confusions.map((row) => row.count));
  const highest = Math.max(...confusions.map((row) => row.rate));
  const columns = [
    { name: "first", label: "items of", value: (row) => data.late.labels[row.first], show: (row) => className(row.first) },
    { name: "second", label: "are nearest to", value: (row) => data.late.labels[row.second], show: (row) => className(row.second) },
    { name: "count", label: "items", numeric: true, value: (row) => row.count, show: (row) => meter(row.count / most, figure(row.count, whole(row.count)), "bad") },
    { name: "rate", label: "share of the class", numeric: true, value: (row) => row.rate, show: (row) => meter(row.rate / highest, figure(row.rate, percent(row.rate)), "bad") },
    { name: "before", label: `items, ${BEFORE}`, numeric: true, value: (row) => row.before_count, show: (row) => figure(row.before_count, whole(row.before_count)) },
    { name: "change", label: "change", numeric: true, value: (row) => row.count - row.before_count, show: (row) => signed(row.count - row.before_count, 0) },
  ];
  const options = { caption: `Pairs of classes, ${AFTER}${first.measured_split ? `, of ${visible(first.measured_split)} items` : ""}`, page: 10, sort: "count", detail: (row) => examplePairs(row.examples, row.count) };
  const made = table(columns, confusions, options);
  made.id = "confusion-table";
  return made;
}

function classTable() {
  const { classes } = data.late;
  if (!classes.length) return missing("classes", "The items have no labels.");
  const share = (name, label, hint) => ({ name, label, hint, numeric: true, value: (row) => row[name], show: (row) => meter(row[name], figure(row[name], percent(row[name]))) });
  const plain = (name, label, hint) => ({ name, label, hint, numeric: true, value: (row) => row[name], show: (row) => figure(row[name], row[name] === null ? "–" : percent(row[name])) });
  const columns = [
    { name: "label", label: "class", value: (row) => data.late.labels[row.label], show: (row) => className(row.label) },
    { name: "size", label: "items", numeric: true, value: (row) => row.size, show: (row) => figure(row.size, whole(row.size)) },
    { name: "train_size", label: "in training", numeric: true, value: (row) => row.train_size, show: (row) => figure(row.train_size, row.train_size ? whole(row.train_size) : "–") },
    share("recall", "recall", "share of the items of the class whose nearest has its label"),
    share("precision", "precision", "share of the items with a nearest of the class that are of it"),
    plain("recall_before", `recall, ${BEFORE}`),
    plain("precision_before", `precision, ${BEFORE}`),
    { name: "spread", label: "spread", hint: "mean cosine distance of its items from their middle", numeric: true, value: (row) => row.spread, show: (row) => figure(row.spread, fixed(row.spread, 3)) },
    { name: "nearest", label: "nearest class", value: (row) => data.late.labels[row.nearest] || "", show: (row) => className(row.nearest) },
    { name: "nearest_cosine", label: "its cosine", numeric: true, value: (row) => row.nearest_cosine, show: (row) => figure(row.nearest_cosine, fixed(row.nearest_cosine, 3)) },
  ];
  const made = table(columns, classes, { caption: "Each class; the worst recall first", page: 15, sort: "recall", down: false });
  made.id = "class-table";
  const find = el("input", { type: "search", placeholder: "Part of a class's name", oninput: () => {
    const wanted = find.value.toLowerCase();
    made.use(classes.filter((row) => data.late.labels[row.label].toLowerCase().includes(wanted)));
  } });
  return el("div", {}, el("h3", {}, "Class by class"), el("p", { class: "muted small" }, "Recall: of the items of the class, how many have a nearest item of the class. Precision: of the items whose nearest item is of the class, how many are of it. Spread: how far its items lie from their middle (1 − cosine, on average); 0 if all are equal."), classes.length > 15 ? el("label", { class: "field" }, el("span", {}, "Find a class"), find) : null, made);
}

function renderConfusions() {
  const section = byId("confusions");
  if (!data.labelled) return void section.append(missing("confusions", "The items have no labels."));
  section.append(el("p", { class: "lead" }, "Each item is given the label of its nearest neighbour. Where that label is another class's, the two are confused."),
    confusionTable(), classTable());
}

function renderFlips() {
  const { comparison } = first;
  if (!comparison) return;
  const section = byId("flips");
  section.hidden = false;
  const { gained, lost, p_value: chance } = comparison;
  const clear = chance < 0.05 ? "The difference is larger than chance explains" : "Chance alone explains a difference of this size";
  section.append(el("p", { class: "lead", id: "mcnemar" }, `From ${comparison.first} to ${comparison.second}, the nearest neighbour of `, figure(gained, plural(gained, "item")), " became right and that of ",
    figure(lost, whole(lost)), " became wrong. ", clear, " (McNemar's exact test, p = ", figure(chance, general(chance)), ")."));
  const columns = [
    { name: "item", label: "item", value: (flip) => item.text(flip.item), show: (flip) => button(textOf(short(item.text(flip.item), 160)), () => openItem(flip.item), { class: "item" }) },
    ...(data.labelled ? [{ name: "labels", label: "labels", value: (flip) => item.labelNames(flip.item).join(" | "), show: (flip) => labelTags(item.labelNames(flip.item)) }] : []),
    { name: "first", label: comparison.first, value: (flip) => Number(flip.first_right), show: (flip) => verdict(flip.first_right) },
    { name: "second", label: comparison.second, value: (flip) => Number(flip.second_right), show: (flip) => verdict(flip.second_right) },
  ];
  const made = table(columns, comparison.flips, { caption: "Items that flipped, the most surprising first", page: 20 });
  made.id = "flip-table";
  section.append(comparison.flips.length ? made : note("No item flipped."));
}
