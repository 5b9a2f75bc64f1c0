// Problems in the data: lists to look at, each of which can be saved as CSV.

const shownCell = (value) =>
  value === null ? "–" : typeof value === "number" ? figure(value, general(value)) : Array.isArray(value) ? textOf(short(value.join(" | "), 300)) : typeof value === "boolean" ? String(value) : textOf(short(value, 300));

function problemList(list, place) {
  const rows = list.rows.map((cells, i) => ({ cells, item: list.items[i] ?? -1 }));
  const numeric = list.columns.map((_, i) => rows.some(({ cells }) => typeof cells[i] === "number") && rows.every(({ cells }) => cells[i] === null || typeof cells[i] === "number"));
  const columns = list.columns.map((name, i) => ({ name: `column-${i}`, label: name.replaceAll("_", " "), numeric: numeric[i], value: ({ cells }) => cells[i], show: ({ cells }) => shownCell(cells[i]) }));
  columns.push({ name: "open", label: "on this page", show: (row) => (row.item >= 0 ? button("Neighbours", () => openItem(row.item), { class: "quiet" }) : el("span", { class: "muted" }, "not shown")) });
  const total = Math.max(list.total, rows.length);
  const part = el("details", { class: "problem", "data-name": list.name, open: place === 0 });
  part.append(el("summary", {}, el("strong", {}, visible(list.name)), " ", el("span", { class: "count", "data-value": total }, whole(total))), el("p", { class: "lead" }, textOf(list.explanation)));
  if (!rows.length) return part.append(note("None were found.")), part;
  if (total > rows.length) part.append(note(`The page holds the first ${whole(rows.length)} of ${whole(total)}; so does its CSV file.`));
  const usable = list.columns.includes("file") && list.columns.includes("row");
  part.append(
    el("div", { class: "tools" }, button(`Export ${list.export}`, () => download(list.export, csv(list.columns, list.rows)), { class: "export", "data-file": list.export }),
      usable ? el("span", { class: "muted small" }, "All rows of this file will be left out. So first delete from it the rows that are right after all. Then: ", el("code", {}, `lit-metric fit … --data.exclude ${list.export}`)) : null));
  // The table is built when the list is opened for the first time.
  const fill = () => {
    if (part.open && !part.querySelector("table")) part.append(table(columns, rows, { caption: list.name, page: 20, class: "cells" }));
  };
  part.addEventListener("toggle", fill);
  fill();
  return part;
}

function renderProblems() {
  const section = byId("problems");
  const { problems } = data.late;
  if (!problems.length) return section.append(missing("problems", "Nothing was searched for."));
  section.append(el("p", { class: "lead" }, "Rows that a person should look at. The lists are suspicions, most certain first. Rows are counted from 1, without a header. CSV files are UTF-8 with a byte order mark, and cells that a spreadsheet would take for formulas begin with an apostrophe."),
    ...problems.map(problemList));
}
