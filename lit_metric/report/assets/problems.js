// Problems in the data: lists to look at. A person decides about rows, and saves them as CSV.

const shownCell = (value) =>
  value === null ? "–" : typeof value === "number" ? figure(value, general(value)) : Array.isArray(value) ? textOf(short(value.join(" | "), 300)) : typeof value === "boolean" ? String(value) : textOf(short(value, 300));

const FIRST = ["shown_text"];
const LAST = ["of_split", "file", "row"];
const OUT = "out"; // the decision about a row: it is left out, stays as it is, or gets another label
const STAYS = "stays";
const RELABELLED = "relabelled";
const BOUNDS = { suspicion: "suspicion of at least", cosine_of_both: "cosine of at least" };

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
  const kept = ({ cells }) => (!chosen.split || cells[split] === chosen.split) && (chosen.least === -Infinity || cells[bound] >= chosen.least);
  return { tools, kept };
}

// The choice of what happens to a row; other labels can be typed.
function decision(row, suggested, changed) {
  const options = [[OUT, "leave out"], [STAYS, "is right: keep"]];
  if (suggested !== null) options.push(["suggested", `label it ${suggested}`], ["other", "label it …"]);
  const other = el("input", { list: "label-names", "aria-label": "new label", placeholder: "new label", class: "new-label" });
  const decide = () => {
    const which = select.value;
    other.hidden = which !== "other";
    row.label = which === "suggested" ? suggested : which === "other" ? other.value.trim() : "";
    row.decision = row.label ? RELABELLED : which === STAYS ? STAYS : OUT;
    changed();
  };
  const now = row.decision !== RELABELLED ? row.decision : row.label === suggested ? "suggested" : "other";
  const select = el("select", { "aria-label": "what to do with this row", class: "decision", onchange: decide }, options.map(([name, words]) => el("option", { value: name }, visible(short(words, 60)))));
  select.value = now;
  other.value = now === "other" ? row.label : "";
  other.hidden = now !== "other";
  other.addEventListener("input", decide);
  return [select, suggested === null ? null : other];
}

function problemList(list, place) {
  const rows = list.rows.map((cells, i) => ({ cells, item: list.items[i] ?? -1, decision: OUT, label: "" }));
  const at = (name) => list.columns.indexOf(name);
  const numeric = list.columns.map((_, i) => rows.some(({ cells }) => typeof cells[i] === "number") && rows.every(({ cells }) => cells[i] === null || typeof cells[i] === "number"));
  // What a person decides by comes first, and where it is comes last.
  const late = (i) => LAST.indexOf(list.columns[i]) + 1 - FIRST.includes(list.columns[i]);
  const order = [...list.columns.keys()].sort((one, other) => late(one) - late(other));
  const columns = order.map((i) => ({ name: `column-${i}`, label: list.columns[i].replaceAll("_", " "), numeric: numeric[i], value: ({ cells }) => cells[i], show: ({ cells }) => (/(^|_)label/.test(list.columns[i]) && cells[i] ? nameOf(String(cells[i])) : shownCell(cells[i])) }));
  const total = Math.max(list.total, rows.length);
  const part = el("details", { class: "problem", "data-name": list.name, open: place === 0 });
  part.append(el("summary", {}, el("strong", {}, visible(list.name)), " ", el("span", { class: "count", "data-value": total }, whole(total))), el("p", { class: "lead" }, textOf(list.explanation)));
  if (!rows.length) return part.append(note("None were found.")), part;
  if (total > rows.length) part.append(note(`The page holds the first ${whole(rows.length)} of ${whole(total)}; so does its CSV file.`));
  const usable = list.export !== "" && at("file") >= 0 && at("row") >= 0;
  const relabels = usable && at("given_label") >= 0 && at("suggested_label") >= 0;
  const relabelled = () => rows.filter((row) => row.decision === RELABELLED);
  const left = () => rows.filter((row) => kept(row) && row.decision === OUT);
  const status = el("p", { class: "muted small decided" });
  const corrections = relabels
    ? button("Export corrections.csv", () => download("corrections.csv", csv(["file", "row", "given_label", "new_label", "shown_text"], relabelled().map(({ cells, label }) => [cells[at("file")], cells[at("row")], cells[at("given_label")], label, cells[at("shown_text")]]))), { class: "export", "data-file": "corrections.csv" })
    : null;
  const say = () => {
    const [out, stay, labelled] = [left().length, rows.filter((row) => row.decision === STAYS).length, relabelled().length];
    if (corrections) corrections.disabled = !labelled;
    status.textContent = `${plural(out, "row")} of the table will be left out${stay ? `, ${whole(stay)} kept as they are` : ""}${labelled ? `, ${whole(labelled)} labelled anew` : ""}.`;
  };
  let shown = null;
  const { tools, kept } = listFilters(list, rows, () => {
    if (shown) shown.use(rows.filter(kept));
    say();
  });
  if (usable) columns.unshift({ name: "decision", label: "what to do", show: (row) => decision(row, relabels ? row.cells[at("suggested_label")] : null, say) });
  columns.push({ name: "open", label: "on this page", show: (row) => (row.item >= 0 ? button("Neighbours", () => openItem(row.item), { class: "quiet" }) : el("span", { class: "muted" }, "not shown")) });
  if (tools.length) part.append(el("div", { class: "tools" }, tools));
  if (usable) {
    part.append(
      status,
      el("div", { class: "tools" }, button(`Export ${list.export}`, () => download(list.export, csv(list.columns, left().map(({ cells }) => cells))), { class: "export", "data-file": list.export }), el("code", {}, `lit-metric fit … --data.exclude ${list.export}`),
        corrections, corrections ? el("code", {}, "lit-metric fit … --data.corrections corrections.csv") : null),
    );
  }
  say();
  // The table is built when the list is opened for the first time.
  const fill = () => {
    if (part.open && !shown) part.append((shown = table(columns, rows.filter(kept), { caption: list.name, page: 20, class: "cells" })));
  };
  part.addEventListener("toggle", fill);
  fill();
  return part;
}

function renderProblems() {
  const section = byId("problems");
  const { problems } = data.late;
  if (!problems.length) return section.append(missing("problems", "Nothing was searched for."));
  section.append(el("p", { class: "lead" }, "Rows that a person should look at. The lists are suspicions, most certain first. Decide what to do with each row, and save the lists: they hold the rows that the filters show and that are to be left out; corrections.csv holds all new labels. Decisions are lost when the page is closed. Rows are counted from 1, without a header. CSV files are UTF-8 with a byte order mark, and cells that a spreadsheet would take for formulas begin with an apostrophe."),
    el("datalist", { id: "label-names" }, data.late.labels.slice(0, 2000).map((name) => el("option", { value: name }))),
    ...problems.map(problemList));
}
