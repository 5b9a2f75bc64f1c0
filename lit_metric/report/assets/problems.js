// Problems in the data: lists to look at. A person decides about rows, and saves what was decided.

const shownCell = (value) =>
  value === null ? "–" : typeof value === "number" ? figure(value, general(value)) : Array.isArray(value) ? textOf(value.join(" | ")) : typeof value === "boolean" ? (value ? "yes" : "no") : textOf(value);

const PLACE = ["of_split", "file", "row"]; // shown as one column
const OTHER = ["other_text", "other_label", "other_split", "other_row"]; // of the item that a row is like; one column, too
const BOUNDS = { suspicion: "suspicion, at least:", cosine: "cosine, at least:" };
const HEADS = { shown_text: "text", nearest_of_suggested: "the nearest with that label", what_is_odd: "what is odd" };

// What filters a list: by split, equal texts, words, what is decided, and the size of a number. `changed` is called after every change.
function listFilters(list, rows, changed) {
  const place = (name) => list.columns.indexOf(name);
  const tests = {};
  const use = (name, test) => ((tests[name] = test), changed());
  const tools = [];
  const counted = (name, words, test) => [name, `${words} (${whole(rows.filter(test).length)})`];
  const split = place("of_split");
  const splits = split < 0 ? [] : [...new Set(rows.map(({ cells }) => cells[split]))].sort();
  if (splits.length > 1) {
    tools.push(choice("split", [["", "all"], ...splits.map((name) => [name, name])], "", (value) => use("split", value && (({ cells }) => cells[split] === value)), { class: "of-split" }));
  }
  const equal = place("equal_texts");
  const same = ({ cells }) => cells[equal] === true;
  if (equal >= 0 && rows.some(same) && !rows.every(same)) {
    tests.equal = same; // the others are only alike
    tools.push(choice("texts", [counted("equal", "equal ones", same), counted("", "all, also alike ones", () => true)], "equal", (value) => use("equal", value && same), { class: "of-texts" }));
  }
  if (rows.some((row) => row.key)) {
    const undecided = (row) => !decisionOf(row.key);
    tools.push(choice("shown", [["", "all"], ["undecided", "undecided"], ["decided", "decided"]], "", (value) => use("state", value && ((row) => undecided(row) === (value === "undecided"))), { class: "of-state" }));
  }
  if (rows.length > 20) {
    const words = el("input", { type: "search", class: "of-words", placeholder: "Text or label", oninput: () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      use("words", wanted.length && (({ cells }) => wanted.every((word) => cells.some((cell) => String(cell).toLowerCase().includes(word)))));
    } });
    tools.push(el("label", { class: "field" }, el("span", {}, "with the words"), words));
  }
  const bound = list.columns.findIndex((name) => name in BOUNDS);
  const values = bound < 0 ? [] : rows.map(({ cells }) => cells[bound]).filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (values.length > 1 && low < high) {
    const step = 10 ** Math.floor(Math.log10((high - low) / 20));
    const lowest = Math.floor(low / step) * step;
    const said = el("output", {});
    // At its left end also rows without a number pass.
    const slide = () => {
      const least = Number(slider.value);
      said.textContent = least > lowest ? general(least) : "any";
      tests.least = least > lowest && (({ cells }) => cells[bound] >= least);
    };
    const slider = el("input", { type: "range", class: "least", "aria-label": BOUNDS[list.columns[bound]], min: lowest, max: high, step, oninput: () => (slide(), changed()) });
    // Strong suspicions first; the others are as likely wrong as right.
    const strong = list.certain_means === "strong" && list.certain > 0 ? values.sort((one, other) => other - one)[Math.min(list.certain, values.length) - 1] : lowest;
    slider.value = Math.floor(strong / step) * step;
    slide();
    tools.push(el("label", { class: "field" }, el("span", {}, `${BOUNDS[list.columns[bound]]} `, said), slider));
  }
  const passes = (row) => Object.values(tests).every((test) => !test || test(row));
  return { tools, passes };
}

// The rows of a list: their cells, item, key, and another label. A row has a key if a file can name it.
function listRows(list) {
  const named = list.export !== "" && list.columns.includes("file") && list.columns.includes("row");
  return list.rows.map((cells, i) => {
    const cell = (name) => cells[list.columns.indexOf(name)] ?? "";
    const given = cell("given_label");
    const suggested = [cell("suggested_label"), cell("other_label")].find((label) => label && label !== given) || null;
    const key = named ? rowKey(cell("file"), cell("row")) : "";
    if (named) {
      const known = knownRows.get(key) || {};
      const either = (name) => cell(name) || known[name] || "";
      knownRows.set(key, { file: cell("file"), row: cell("row"), of_split: either("of_split"), list: known.list ? `${known.list}; ${list.name}` : list.name, suggested: known.suggested || suggested, given_label: either("given_label"), shown_text: either("shown_text") });
    }
    return { cells, item: list.items[i] ?? -1, key, suggested };
  });
}

// The rows of all lists, as a row may be in several.
let allRows = null;
const rowsOfLists = () => (allRows ||= data.late.problems.map(listRows));

// Where a row is: one column for its split, file and number, and the other lists that it is in.
function placeColumn(list) {
  const [split, file, row] = PLACE.map((name) => list.columns.indexOf(name));
  const name = (cells) => String(cells[file]).split(/[\\/]/).pop();
  const others = (key) => (knownRows.get(key)?.list || "").split("; ").filter((each) => each && each !== list.name);
  return {
    name: "place", label: "where",
    value: ({ cells }) => `${split < 0 ? "" : cells[split]} ${cells[file]} ${String(cells[row]).padStart(10, "0")}`,
    show: ({ cells, key }) => [
      el("div", {}, split < 0 ? "" : el("strong", {}, `${cells[split]} `), cells[row] === "" ? "" : el("span", { class: "nowrap" }, `row ${cells[row]}`)),
      el("div", { class: "muted small", title: visible(cells[file]) }, visible(short(name(cells), 40))),
      others(key).length ? el("div", { class: "muted small also" }, `also in ${others(key).join(", ")}`) : null,
    ],
  };
}

// The item that a row is like: its text, its label, and where it is.
function otherColumn(list) {
  const [text, label, split, row] = OTHER.map((name) => list.columns.indexOf(name));
  const own = list.columns.indexOf("of_split");
  return {
    name: "other", label: "is like",
    value: ({ cells }) => cells[text],
    show: ({ cells }) => [textOf(String(cells[text])), el("div", { class: "facts" }, label >= 0 && cells[label] ? labelTags([cells[label]]) : null,
      el("span", { class: "muted" }, `${visible(split < 0 ? cells[own] ?? "" : cells[split])} row ${cells[row]}`))],
  };
}

function listColumns(list, rows) {
  const numeric = list.columns.map((_, i) => rows.some(({ cells }) => typeof cells[i] === "number") && rows.every(({ cells }) => cells[i] === null || typeof cells[i] === "number"));
  const joins = [[PLACE.slice(1), PLACE, placeColumn], [["other_text", "other_row"], OTHER, otherColumn]].filter(([needs]) => needs.every((name) => list.columns.includes(name)));
  const joined = joins.flatMap(([, names]) => names);
  const order = [...list.columns.keys()].filter((i) => !joined.includes(list.columns[i]));
  order.sort((one, other) => Number(list.columns[other] === "shown_text") - Number(list.columns[one] === "shown_text"));
  const columns = order.map((i) => ({ name: `column-${i}`, label: HEADS[list.columns[i]] || list.columns[i].replaceAll("_", " "), numeric: numeric[i], value: ({ cells }) => cells[i], show: ({ cells }) => (/(^|_)label/.test(list.columns[i]) && cells[i] ? nameOf(String(cells[i])) : shownCell(cells[i])) }));
  for (const [, , column] of joins.reverse()) columns.push(column(list));
  const opener = (row) => (row.item >= 0 ? button("Neighbours", (event) => openItem(row.item, true, event.currentTarget), { class: "quiet opener" }) : el("span", { class: "muted" }, "not shown"));
  // Under the choice, where it takes no width of its own.
  if (rows.some((row) => row.key)) columns.unshift({ name: "decision", label: "what to do", show: (row) => [row.key ? decisionChoice(row.key, row.suggested) : null, opener(row)] });
  else columns.push({ name: "open", label: "", show: opener });
  return columns;
}

// What to do with all rows that the filters leave, and the list as a file.
function listTools(list, filtered) {
  const suggests = list.columns.includes("suggested_label");
  const parts = () => {
    const rows = filtered();
    const undecided = rows.filter((row) => row.key && !decisionOf(row.key));
    return {
      undecided,
      suggested: undecided.filter((row) => suggests && row.suggested && relabels(knownRows.get(row.key))),
      decided: rows.filter((row) => row.key && decisionOf(row.key)),
      // What somebody goes through in a spreadsheet; what was decided to stay isn't in it.
      rest: rows.filter((row) => ![STAYS, RELABELLED].includes(decisionOf(row.key))),
    };
  };
  const all = (rows, decision) => decide(Object.fromEntries(rows.map((row) => [row.key, decision(row)])));
  const leave = button("", () => all(parts().undecided, () => ({ what: OUT })), { class: "quiet leave-all" });
  const label = button("", () => all(parts().suggested, (row) => ({ what: RELABELLED, label: row.suggested })), { class: "quiet label-all" });
  const back = button("", () => all(parts().decided, () => ({ what: "" })), { class: "quiet back-all" });
  const save = button("", () => download(list.export, csv(list.columns, parts().rest.map(({ cells }) => cells))), { class: "quiet export-list", "data-file": list.export, title: "For a spreadsheet: the rows of this filter, without those that you keep or label anew. It isn't exclude.csv, which holds decisions only." });
  const node = el("div", { class: "tools decided" }, leave, label, back, save);
  node.refresh = () => {
    const [left, anew, taken, open] = Object.values(parts()).map((rows) => rows.length);
    leave.textContent = `Leave out all ${whole(left)} undecided rows of this filter`;
    leave.disabled = !left;
    label.textContent = `Label all ${whole(anew)} as suggested`;
    label.hidden = !anew;
    back.textContent = `Take back ${plural(taken, "decision")} of this filter`;
    back.hidden = !taken;
    save.textContent = `Save ${plural(open, "open row")} for a spreadsheet: ${list.export}`;
    save.disabled = !open;
  };
  node.refresh();
  return node;
}

function problemList(list, rows, open) {
  const total = Math.max(list.total, rows.length);
  const part = el("details", { class: "problem", "data-name": list.name, open });
  const done = el("span", { class: "muted decided done" });
  done.refresh = () => {
    const decided = rows.filter((row) => row.key && decisionOf(row.key)).length;
    done.textContent = decided ? `, ${whole(decided)} decided` : "";
  };
  done.refresh();
  part.append(el("summary", {}, el("strong", {}, visible(list.name)), " ", el("span", { class: "count", "data-value": total }, problemCount(list, total)), done), el("p", { class: "lead" }, textOf(list.explanation)));
  if (!rows.length) return part.append(note("None were found.")), part;
  if (total > rows.length) part.append(note(`The page holds the first ${whole(rows.length)} of ${whole(total)}; so does its CSV file.`));
  let made = null;
  const { tools, passes } = listFilters(list, rows, () => {
    if (made) made.use(rows.filter(passes));
    actions?.refresh();
  });
  const actions = rows.some((row) => row.key) ? listTools(list, () => rows.filter(passes)) : null;
  if (tools.length) part.append(el("div", { class: "tools" }, tools));
  if (actions) part.append(actions);
  // The table is built when the list is opened for the first time.
  const fill = () => {
    if (part.open && !made) part.append((made = table(listColumns(list, rows), rows.filter(passes), { caption: list.name, page: 20, class: "cells" })));
  };
  part.addEventListener("toggle", fill);
  fill();
  return part;
}

// Whether items of another split were held out of the file of the training items.
function heldOut() {
  const train = data.late.splits.map(isTrain);
  const files = new Set();
  for (let i = 0; i < data.count; i++) if (train[data.split[i]]) files.add(data.file[i]);
  for (let i = 0; i < data.count; i++) if (!train[data.split[i]] && data.file[i] >= 0 && files.has(data.file[i])) return true;
  return false;
}

function renderProblems() {
  const section = byId("problems");
  const { problems } = data.late;
  const decidable = data.file.some((file) => file >= 0);
  if (!problems.length) section.append(missing("problems", "Nothing was searched for."));
  const rows = rowsOfLists();
  const held = heldOut();
  const lists = problems.map((list, place) => problemList(list, rows[place], place === 0));
  if (problems.length) {
    section.append(el("p", { class: "lead" }, "Rows that a person should look at. The lists are suspicions, most certain first. Row 1 is the first row of data in its file.",
      held ? " Validation rows were held out of the training file, so they have its name." : ""));
  }
  if (decidable) {
    section.append(el("p", { class: "lead" }, "Decide about as many rows as you like, here or in Neighbours. A row has one decision, in whichever list you make it, and a row without one stays in the data as it is. Then save both files below, and train again.",
      kept ? " This browser keeps your decisions for this page." : " Decisions are lost when the page is closed: this browser keeps nothing for it."));
    section.append(el("datalist", { id: "label-names" }, data.late.labels.slice(0, 2000).map((name) => el("option", { value: name }))));
  }
  section.append(...lists);
  if (decidable) section.append(decisionBar(held));
}
