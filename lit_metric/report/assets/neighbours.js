// Neighbours: what was near before, and what is near now.

const MOST_FOUND = 50;

// The split and the row of an item, such as "train row 12".
const whereIs = (i) => (data.file[i] < 0 ? item.split(i) : `${item.split(i)} row ${data.row[i]}`);

// One list; `other` is the list at the other time, to say where a neighbour was.
function neighbourList(title, found, other, open) {
  const list = el("ol", { class: "near" });
  for (const each of found) {
    const was = other && other.find(({ place }) => place === each.place);
    list.append(
      el("li", {},
        el("span", { class: "rank", "aria-label": `rank ${each.rank}` }, each.rank),
        el("div", { class: "what" },
          button(textOf(short(item.text(each.place), 300)), () => open(each.place), { class: "item", "data-place": each.place }),
          el("div", { class: "facts" }, labelTags(item.labelNames(each.place)), verdict(each.together, [TOGETHER.yes, TOGETHER.no]),
            el("span", { class: "muted" }, whereIs(each.place)), other ? el("span", { class: "muted" }, was ? `rank ${was.rank} in the other list` : "not in the other list") : null)),
        el("span", { class: "score", title: "cosine" }, fixed(each.score, 3))));
  }
  const right = found.filter((each) => each.together).length;
  const asked = found.filter((each) => each.together !== null).length;
  return el("div", { class: "list" }, el("h4", {}, visible(title), asked ? el("span", { class: "muted" }, ` ${TOGETHER.count(right, asked)}`) : null),
    found.length ? list : note("No neighbours were searched for it."));
}

function bothLists(before, after, open) {
  const lists = [];
  if (before) lists.push(neighbourList(BEFORE, before, after, open));
  if (after) lists.push(neighbourList(AFTER, after, before, open));
  return lists.length ? el("div", { class: "two lists" }, lists) : missing("neighbours", "No neighbours were searched.");
}

function itemFacts(i) {
  const facts = el("div", { class: "facts" }, labelTags(item.labelNames(i)));
  const right = (when, name) => {
    const value = data[`correct_${when}`][i];
    return value < 0 ? null : el("span", {}, `${name}: `, verdict(value === 1, ["nearest is right", "nearest is wrong"]));
  };
  facts.append(...[right("before", BEFORE), right("after", AFTER)].filter(Boolean));
  const place = [item.split(i), item.role(i), item.key(i)].filter(Boolean).join(" · ");
  facts.append(el("span", { class: "muted" }, visible(place)));
  return facts;
}

// The whole of one item: its text, its facts and its neighbours; `open` is called for a neighbour.
const itemView = (i, open) => [
  el("div", { class: "chosen" }, el("p", { class: "full", tabindex: "0" }, textOf(item.text(i))), itemFacts(i), itemDecision(i)),
  bothLists(near(i, "before"), near(i, "after"), open),
];

// `from` is the button of another part of the page, to which a reader may go back.
function openItem(i, jump = true, from = null) {
  const view = byId("neighbour-view");
  const back = from ? button("Back to the list", () => (from.scrollIntoView({ block: "center" }), from.focus({ preventScroll: true })), { class: "quiet back" }) : "";
  view.replaceChildren(back, ...itemView(i, (other) => openItem(other, false, from)),
    data.map_after || data.map_before ? button("Show on the map", () => pickOnMap(i, true), { class: "quiet" }) : "");
  view.dataset.place = i;
  const box = byId("search");
  if (box && document.activeElement !== box) box.value = "";
  if (jump) {
    byId("neighbours").scrollIntoView({ block: "start" });
    view.focus({ preventScroll: true });
  }
  announce(`Neighbours of ${short(item.text(i), 80)}`);
}

function openQuery(query) {
  const joinedList = (places, scores) => places.map((place, k) => ({ place, score: scores[k], rank: k + 1, together: null }));
  byId("neighbour-view").replaceChildren(
    el("div", { class: "chosen" }, el("p", { class: "full" }, textOf(query.text)), el("p", { class: "muted" }, "A text that was asked for; nothing is known of what belongs to it.")),
    bothLists(joinedList(query.before, query.scores_before), joinedList(query.after, query.scores_after), (other) => openItem(other, false)));
}

// A box that searches texts while one types; arrows and Enter choose.
function searchBox(label, choose) {
  const id = "search-options";
  const options = el("ul", { id, role: "listbox", "aria-label": "Items found", class: "options", hidden: true });
  const input = el("input", { type: "search", id: "search", role: "combobox", "aria-expanded": "false", "aria-controls": id, "aria-autocomplete": "list", autocomplete: "off", placeholder: data.labelled ? "Words of a text or a label, or train row 12" : "Words of a text, or train row 12" });
  let found = [];
  let active = -1;
  let timer = 0;

  function open(shown) {
    options.hidden = !shown;
    input.setAttribute("aria-expanded", String(shown));
    if (!shown) mark(-1);
  }
  function mark(place) {
    active = place;
    [...options.children].forEach((each, i) => each.setAttribute("aria-selected", String(i === place)));
    if (place >= 0) {
      input.setAttribute("aria-activedescendant", options.children[place].id);
      options.children[place].scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  }
  function take(place) {
    open(false);
    input.value = short(item.text(found[place]), 80);
    choose(found[place]);
  }
  function look() {
    found = search(input.value, MOST_FOUND + 1);
    const more = found.length > MOST_FOUND;
    found = found.slice(0, MOST_FOUND);
    options.replaceChildren(...found.map((i, place) =>
      el("li", { role: "option", id: `option-${place}`, "aria-selected": "false", "data-place": i, onmousedown: (event) => (event.preventDefault(), take(place)) },
        textOf(short(item.text(i), 160)), " ", labelTags(item.labelNames(i)), " ", el("span", { class: "muted small" }, whereIs(i)))));
    if (input.value.trim() && !found.length) options.append(el("li", { class: "muted", role: "option", "aria-disabled": "true" }, "Nothing has these words."));
    open(input.value.trim() !== "");
    announce(found.length ? `${found.length}${more ? " or more" : ""} found` : "Nothing found");
    mark(-1);
  }
  input.addEventListener("input", () => (clearTimeout(timer), (timer = setTimeout(look, 120))));
  input.addEventListener("blur", () => open(false));
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") open(false);
    else if (event.key === "Enter") {
      clearTimeout(timer);
      if (active < 0) look(); // what is found may be of fewer letters
      if (found.length) take(Math.max(active, 0));
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && found.length) {
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (options.hidden) open(true);
      mark((active + step + found.length) % found.length);
    } else return;
    event.preventDefault();
  });
  return el("div", { class: "search" }, el("label", { for: "search" }, label), input, options);
}

function renderNeighbours() {
  const section = byId("neighbours");
  if (!data.count) return section.append(missing("neighbours", "The report shows no items."));
  section.append(el("p", { class: "lead" }, `Pick an item to see what was near it (${BEFORE}) and what is near it now (${AFTER}). ${TOGETHER.lead} Items of ${visible(first.measured_split || "the measured split")} search what they are measured against; all others search the items of their own split.`),
    searchBox("Find an item", (i) => openItem(i, false)));
  if (data.late.queries.length) {
    section.append(el("div", { class: "chips" }, el("span", { class: "muted" }, "Asked for: "),
      data.late.queries.map((query) => button(textOf(short(query.text, 80)), () => openQuery(query), { class: "chip query" }))));
  }
  section.append(el("div", { id: "neighbour-view", tabindex: "-1" }));
  if (data.late.queries.length) openQuery(data.late.queries[0]);
  else {
    const wrong = data.correct_after.indexOf(0);
    const view = byId("neighbour-view");
    openItemQuietly(view, wrong >= 0 ? wrong : 0);
  }
}

function openItemQuietly(view, i) {
  view.replaceChildren(...itemView(i, (other) => openItem(other, false)));
  view.dataset.place = i;
}
