// Problems in the data: lists to look at. A person decides about rows, and saves what was decided.

const shownCell = (value) =>
  value === null ? "–" : typeof value === "number" ? figure(value, general(value)) : Array.isArray(value) ? textOf(value.join(" | ")) : typeof value === "boolean" ? (value ? "yes" : "no") : textOf(value);

const FIRST = ["shown_text"];
const PLACE = ["of_split", "file", "row"]; // shown as one column
const BOUNDS = { suspicion: "suspicion of at least", cosine_of_both: "cosine of at least" };
const SUGGESTIONS = ["suggested_label", "label_of_copied", "label_there"];

// What filters a list: by split, and by the size of a number. `changed` is called after every change.
function listFilters(list, rows, changed) {
  const split = list.columns.indexOf("of_split");
  const bound = list.columns.findIndex((name) => name in BOUNDS);
  const chosen = { split: "", least: -Infinity };
  const tools = [];
  const splits = split < 0 ? [] : [...new Set(rows.map(({ cells }) => cells[split]))].sort();
  if (splits.length > 1) {
    const options = splits.map((name) => [name, `${name} (${whole(rows.filter(({ cells }) => cells[split] === name).length)})`]);
    tools.push(choice("split", [["", `all (${whole(rows.length)})`], ...options], "", (value) => ((chosen.split = value), changed()), { class: "of-split" }));
  }
  const values = bound < 0 ? [] : rows.map(({ cells }) => cells[bound]).filter((value) => typeof value === "number");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (values.length > 1 && low < high) {
    const step = 10 ** Math.floor(Math.log10((high - low) / 20));
    const start = Math.floor(low / step) * step;
    const said = el("output", {}, general(low));
    const slide = (event) => {
      chosen.least = Number(event.target.value);
      said.textContent = general(chosen.least);
      changed();
    };
    const slider = el("input", { type: "range", class: "least", "aria-label": BOUNDS[list.columns[bound]], min: start, max: high, step, oninput: slide });
    slider.value = start;
    tools.push(el("label", { class: "field" }, el("span", {}, `${BOUNDS[list.columns[bound]]} `, said), slider));
  }
  const passes = ({ cells }) => (!chosen.split || cells[split] === chosen.split) && (chosen.least === -Infinity || cells[bound] >= chosen.least);
  return { tools, passes };
}

// The rows of a list: their cells, item, key, and what a file says about them. A row has a key if it can be named.
function listRows(list) {
  const named = list.export !== "" && list.columns.includes("file") && list.columns.includes("row");
  return list.rows.map((cells, i) => {
    const cell = (name) => cells[list.columns.indexOf(name)] ?? "";
    const place = list.items[i] ?? -1;
    const given = cell("given_label") || cell("own_label");
    const suggested = SUGGESTIONS.map(cell).find((label) => label && label !== given) || null;
    const row = { cells, item: place, key: named ? rowKey(cell("file"), cell("row")) : "", suggested };
    if (named) {
      const known = listedRows.get(row.key) || {};
      const either = (name, value) => value || known[name] || "";
      listedRows.set(row.key, { file: cell("file"), row: cell("row"), of_split: either("of_split", cell("of_split")), list: known.list ? `${known.list}; ${list.name}` : list.name, given_label: either("given_label", given), shown_text: either("shown_text", cell("shown_text")) });
    }
    return row;
  });
}

// Where a row is: one column for its split, file and number.
function placeColumn(list) {
  const [split, file, row] = PLACE.map((name) => list.columns.indexOf(name));
  const name = (cells) => String(cells[file]).split(/[\\/]/).pop();
  return {
    name: "place", label: "where",
    value: ({ cells }) => `${split < 0 ? "" : cells[split]} ${cells[file]} ${String(cells[row]).padStart(10, "0")}`,
    show: ({ cells }) => el("span", { title: visible(cells[file]) }, split < 0 ? "" : el("strong", {}, `${cells[split]} `), el("span", { class: "muted small" }, nameOf(name(cells)), cells[row] === "" ? "" : `, row ${cells[row]}`)),
  };
}

function listColumns(list, rows) {
  const numeric = list.columns.map((_, i) => rows.some(({ cells }) => typeof cells[i] === "number") && rows.every(({ cells }) => cells[i] === null || typeof cells[i] === "number"));
  const placed = list.columns.includes("file") && list.columns.includes("row");
  const order = [...list.columns.keys()].filter((i) => !placed || !PLACE.includes(list.columns[i]));
  order.sort((one, other) => FIRST.includes(list.columns[other]) - FIRST.includes(list.columns[one]));
  const columns = order.map((i) => ({ name: `column-${i}`, label: list.columns[i].replace("shown_", "").replaceAll("_", " "), numeric: numeric[i], value: ({ cells }) => cells[i], show: ({ cells }) => (/(^|_)label/.test(list.columns[i]) && cells[i] ? nameOf(String(cells[i])) : shownCell(cells[i])) }));
  if (placed) columns.push(placeColumn(list));
  if (rows.some((row) => row.key)) columns.unshift({ name: "decision", label: "what to do", show: (row) => (row.key ? decisionChoice(row.key, row.suggested) : "") });
  columns.push({ name: "open", label: "on this page", show: (row) => (row.item >= 0 ? button("Neighbours", () => openItem(row.item), { class: "quiet" }) : el("span", { class: "muted" }, "not shown")) });
  return columns;
}

// What to do with all rows that a list shows, and the list as a file.
function listTools(list, shownRows) {
  const undecided = () => shownRows().filter((row) => row.key && !decisionOf(row.key));
  const out = () => shownRows().filter((row) => decisionOf(row.key) === OUT);
  // A list that somebody goes through in a spreadsheet; what was decided to stay isn't in it.
  const rest = () => shownRows().filter((row) => ![STAYS, RELABELLED].includes(decisionOf(row.key)));
  const all = (rows, what) => decide(Object.fromEntries(rows.map((row) => [row.key, { what }])));
  const leave = button("", () => all(undecided(), OUT), { class: "quiet leave-all" });
  const back = button("", () => all(out(), ""), { class: "quiet take-back" });
  const save = button("", () => download(list.export, csv(list.columns, rest().map(({ cells }) => cells))), { class: "quiet export-list", "data-file": list.export, title: "The rows shown, without those that you keep or label anew, for a spreadsheet. --data.exclude leaves out every row of the file." });
  const node = el("div", { class: "tools decided" }, leave, back, save);
  node.refresh = () => {
    leave.textContent = `Leave out the ${whole(undecided().length)} undecided that are shown`;
    leave.disabled = !undecided().length;
    back.textContent = `Take back the ${whole(out().length)} left out`;
    back.hidden = !out().length;
    save.textContent = `Export ${list.export} (${whole(rest().length)})`;
    save.disabled = !rest().length;
  };
  node.refresh();
  return node;
}

function problemList(list, rows, open) {
  const total = Math.max(list.total, rows.length);
  const part = el("details", { class: "problem", "data-name": list.name, open });
  part.append(el("summary", {}, el("strong", {}, visible(list.name)), " ", el("span", { class: "count", "data-value": total }, whole(total))), el("p", { class: "lead" }, textOf(list.explanation)));
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

// Whether items of another split stand in the file of the training items.
function heldOut() {
  const files = new Set();
  const train = data.late.splits.indexOf("train");
  for (let i = 0; i < data.count; i++) if (data.split[i] === train) files.add(data.file[i]);
  for (let i = 0; i < data.count; i++) if (data.split[i] !== train && data.file[i] >= 0 && files.has(data.file[i])) return true;
  return false;
}

function renderProblems() {
  const section = byId("problems");
  const { problems } = data.late;
  if (!problems.length) return section.append(missing("problems", "Nothing was searched for."));
  recallDecisions();
  const rows = problems.map(listRows); // of all lists, as a row may be in several
  const lists = problems.map((list, place) => problemList(list, rows[place], place === 0));
  section.append(el("p", { class: "lead" }, "Rows that a person should look at. The lists are suspicions, most certain first. Rows are counted from 1, without a header.",
    heldOut() ? " Items of a split that was held out stand in the file of the training items." : ""));
  if (listedRows.size) {
    section.append(el("p", { class: "lead" }, "Decide about as many rows as you like: a row has one decision, in whichever list you make it, and a row without one stays in the data as it is. Then save exclude.csv and corrections.csv below, and train again.",
      kept ? " This browser keeps your decisions for this page." : " Decisions are lost when the page is closed: this browser keeps nothing for it."));
  }
  section.append(el("datalist", { id: "label-names" }, data.late.labels.slice(0, 2000).map((name) => el("option", { value: name }))), ...lists);
  if (listedRows.size) section.append(decisionBar());
}
