// What a person decides about rows. A row of a file has one decision, wherever it is made.

const OUT = "out"; // it is left out
const STAYS = "stays"; // it stays as it is
const RELABELLED = "relabelled"; // it gets another label
const STORE = `lit-metric-decisions ${first.title} ${first.made}`;
const STEPS = 200; // that can be undone

const decisions = new Map(); // by the key of a row: {what, label, row}
const knownRows = new Map(); // by the same key: {file, row, of_split, list, given_label, shown_text}
const steps = []; // what was decided about each changed row before, for undoing

const rowKey = (file, row) => `${row} ${file}`;
const decisionOf = (key) => decisions.get(key)?.what || "";
const decidedAs = (what) => [...decisions.values()].filter((each) => each.what === what).map(({ row, label }) => ({ ...row, label }));

// A browser keeps decisions for this page if it lets a page from a disk keep anything.
let kept = true;
function keepDecisions() {
  try {
    localStorage.setItem(STORE, JSON.stringify([...decisions]));
  } catch {
    kept = false;
  }
}

function recallDecisions() {
  try {
    for (const [key, decision] of JSON.parse(localStorage.getItem(STORE) || "[]")) decisions.set(key, decision);
  } catch {
    kept = false;
  }
}

function showDecisions() {
  keepDecisions();
  for (const each of document.querySelectorAll(".deciding, .decided")) each.refresh();
}

const put = (key, decision) => (decision ? decisions.set(key, decision) : decisions.delete(key));

// Decide about rows, {key: {what, label}}; an empty `what` takes a decision back.
function decide(changes) {
  const same = (key) => decisionOf(key) === changes[key].what && (decisions.get(key)?.label || "") === (changes[key].label || "");
  const changed = Object.keys(changes).filter((key) => !same(key));
  if (changed.length) steps.push(changed.map((key) => [key, decisions.get(key) || null]));
  if (steps.length > STEPS) steps.shift();
  for (const [key, { what, label = "" }] of Object.entries(changes)) {
    put(key, what && { what, label, row: knownRows.get(key) });
  }
  showDecisions();
}

function undo() {
  for (const [key, decision] of steps.pop() || []) put(key, decision);
  showDecisions();
}

// A file of corrections gives one label to a row of the only data set.
const relabels = (row) => first.kind === "labels" && row.given_label !== "";

// The number of letters to change, add or remove, at most 3.
function distance(one, other) {
  if (Math.abs(one.length - other.length) > 2) return 3;
  let above = Array.from({ length: other.length + 1 }, (_, i) => i);
  for (let i = 0; i < one.length; i++) {
    const line = [i + 1];
    for (let j = 0; j < other.length; j++) line.push(Math.min(line[j] + 1, above[j + 1] + 1, above[j] + Number(one[i] !== other[j])));
    above = line;
  }
  return Math.min(3, above[other.length]);
}

// A label that is written nearly like this one.
function similarLabel(label) {
  const plain = (name) => name.toLowerCase().replace(/[\s_-]+/g, "_");
  const wanted = plain(label);
  if (wanted.length < 4) return null;
  const scored = data.late.labels.map((name) => [distance(wanted, plain(name)), name]).sort((a, b) => a[0] - b[0]);
  if (scored.length && scored[0][0] < 3) return scored[0][1];
  return data.late.labels.find((name) => plain(name).startsWith(wanted)) || null;
}

// What is to be said of the label that somebody types for a row.
function saidOfLabel(typed, row) {
  if (!typed) return "Undecided until you type a label.";
  if (typed === row.given_label) return "That is its label: it is kept.";
  return data.late.labels.includes(typed) ? "" : "No item has this label: it makes a new class. ";
}

// The choice of what happens to a row. `suggested` is another label, null without one.
function decisionChoice(key, suggested) {
  const row = knownRows.get(key);
  const options = [["", "undecided"], [OUT, "leave out"], [STAYS, "is right: keep"]];
  if (relabels(row) && suggested) options.push(["suggested", `label it ${suggested}`]);
  if (relabels(row)) options.push(["other", "label it …"]);
  const select = el("select", { "aria-label": "what to do with this row", class: "decision" }, options.map(([name, words]) => el("option", { value: name }, visible(short(words, 80)))));
  const other = el("input", { list: "label-names", "aria-label": "new label", placeholder: "new label", class: "new-label" });
  const hint = el("p", { class: "muted small label-hint", role: "status" });
  let choosing = false; // a label that is still to be typed
  const typed = () => {
    const label = other.value.trim();
    decide({ [key]: label === row.given_label ? { what: STAYS } : label ? { what: RELABELLED, label } : { what: "" } });
  };
  const correct = (label) => {
    other.value = label;
    typed();
  };
  select.addEventListener("change", () => {
    const which = select.value;
    choosing = which === "other";
    decide({ [key]: which === "suggested" ? { what: RELABELLED, label: suggested } : { what: choosing ? "" : which } });
    if (choosing) other.focus();
  });
  other.addEventListener("change", typed);
  other.addEventListener("input", () => node.refresh());
  other.addEventListener("keydown", (event) => {
    if (event.key === "Enter") typed();
    if (event.key === "Escape") {
      other.value = "";
      choosing = false;
      decide({ [key]: { what: "" } });
      select.focus();
    }
  });
  const node = el("div", { class: "deciding" }, select, other, hint);
  node.refresh = () => {
    const { what = "", label = "" } = decisions.get(key) || {};
    if (what && document.activeElement !== other) choosing = false; // it was decided elsewhere, or typed to the end
    const shown = choosing || (what === RELABELLED && label !== suggested) ? "other" : what === RELABELLED ? "suggested" : what;
    const said = [...select.options].find((option) => option.value === shown)?.textContent || "";
    select.value = shown;
    select.title = said;
    other.hidden = shown !== "other";
    if (document.activeElement !== other) other.value = what === RELABELLED ? label : "";
    const typing = other.value.trim();
    const similar = other.hidden || data.late.labels.includes(typing) ? null : similarLabel(typing);
    if (other.hidden) hint.replaceChildren(what === RELABELLED ? `→ ${visible(label)}` : "");
    else hint.replaceChildren(saidOfLabel(typing, row));
    if (similar) hint.append("Did you mean ", button(short(similar, 80), () => correct(similar), { class: "quiet similar", onmousedown: (event) => event.preventDefault() }), "?"); // the box keeps the focus
    hint.hidden = !hint.textContent;
  };
  node.refresh();
  return node;
}

// The same for an item that is shown, if it is a row of a file; null if it isn't.
function itemDecision(i) {
  if (data.file[i] < 0) return null;
  rowsOfLists(); // so that it is known which lists have it
  const key = rowKey(item.file(i), data.row[i]);
  const names = item.labelNames(i);
  if (!knownRows.has(key)) knownRows.set(key, { file: item.file(i), row: data.row[i], of_split: item.split(i), list: "", given_label: names.length === 1 ? names[0] : "", shown_text: short(item.text(i), 300) });
  const { list, suggested } = knownRows.get(key);
  const total = el("span", { class: "muted small decided" });
  total.refresh = () => (total.textContent = decisions.size ? `${plural(decisions.size, "row")} decided; ` : "");
  total.refresh();
  return el("div", { class: "item-decision" }, el("span", { class: "muted small" }, `What to do with this row${list ? `, which is in ${list.replaceAll("; ", ", ")}` : ""}: `), decisionChoice(key, suggested || null),
    el("span", { class: "small" }, total, el("a", { href: "#decided" }, "save decisions")));
}

const shellWord = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// How to train again, with other options and under another name.
function fitAgain(suffix, options) {
  const folder = (first.run.config && first.run.folder ? first.run.folder : "RUN").replace(/[\\/]+$/, "");
  const name = `${folder.split(/[\\/]/).pop()}-${suffix}`;
  return ["lit-metric fit --config", shellWord(`${folder}/config.yaml`), "--name", shellWord(name), ...options].join(" ");
}

// How to train again with what was decided.
function trainAgain(out, labelled) {
  return fitAgain("corrected", [...(out ? ["--data.exclude exclude.csv"] : []), ...(labelled ? ["--data.corrections corrections.csv"] : [])]);
}

const EXCLUDE = ["file", "row", "of_split", "list", "given_label", "shown_text"];
const CORRECT = ["file", "row", "of_split", "given_label", "new_label", "shown_text"];
const listed = (names, rows) => csv(names, rows.map((row) => names.map((name) => (name === "new_label" ? row.label : row[name]))));

// All that was decided, and the two files that hold it. `held`: whether validation is held out of the training file.
function decisionBar(held) {
  const out = button("", () => download("exclude.csv", listed(EXCLUDE, decidedAs(OUT))), { class: "export", "data-file": "exclude.csv" });
  const labelled = button("", () => download("corrections.csv", listed(CORRECT, decidedAs(RELABELLED))), { class: "export", "data-file": "corrections.csv" });
  const back = button("", undo, { class: "quiet undo", title: "Take back the last step" });
  const status = el("p", { class: "total" });
  const how = el("code");
  const copyHow = button("Copy", (event) => copy(how.textContent, event.currentTarget), { class: "quiet copy", "aria-label": "Copy the command" });
  const again = el("details", { class: "again" }, el("summary", {}, "How to train again with these files"),
    el("p", { class: "muted small" }, "Move them into the folder in which this run was started, and call it there. If there was a file of that name already, the browser has called the new one exclude (1).csv or the like."),
    el("p", { class: "option" }, how, copyHow));
  const warned = el("p", { class: "muted small warned" });
  const node = el("div", { id: "decided", class: "decided bar-below", role: "group", "aria-label": "What was decided" }, el("div", { class: "tools" }, status, out, labelled, back), warned, again);
  node.refresh = () => {
    const [left, stay, anew] = [decidedAs(OUT), decidedAs(STAYS), decidedAs(RELABELLED)];
    const made = [...new Set(anew.map((row) => row.label))].filter((label) => !data.late.labels.includes(label));
    status.textContent = `Decided: ${plural(left.length, "row")} left out, ${whole(stay.length)} kept, ${whole(anew.length)} labelled anew${made.length ? ` (${plural(made.length, "new class", "new classes")}: ${visible(short(made.join(", "), 120))})` : ""}. All others stay as they are.`;
    out.textContent = `Save exclude.csv (${whole(left.length)})`;
    labelled.textContent = `Save corrections.csv (${whole(anew.length)})`;
    out.disabled = !left.length;
    labelled.disabled = !anew.length;
    const last = steps.at(-1)?.length || 0;
    back.textContent = last > 1 ? `Undo (${whole(last)} rows)` : "Undo";
    back.disabled = !steps.length;
    again.hidden = !left.length && !anew.length;
    how.textContent = trainAgain(left.length, anew.length);
    const measured = [...left, ...anew].filter((row) => row.of_split && !isTrain(row.of_split)).length;
    warned.textContent = [
      measured ? `This changes ${plural(measured, "row")} of a split that is measured, so results of the next run can't be compared with those of this page.` : "",
      left.length && held ? "Validation is held out anew, so it will have other rows." : "",
      left.length && first.kind === "several data sets" ? "In a mixture, each data set has an exclude of its own: give it the rows of its files." : "",
    ].filter(Boolean).join(" ");
    warned.hidden = !warned.textContent;
  };
  node.refresh();
  return node;
}
