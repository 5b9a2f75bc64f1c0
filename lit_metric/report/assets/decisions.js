// What a person decides about rows. A row of a file has one decision, whichever lists it is in.

const OUT = "out"; // it is left out
const STAYS = "stays"; // it stays as it is
const RELABELLED = "relabelled"; // it gets another label
const STORE = `lit-metric-decisions ${first.title} ${first.made}`;

const decisions = new Map(); // by the key of a row: {what, label}
const listedRows = new Map(); // by the same key: what the files to save say about the row

const rowKey = (file, row) => `${row} ${file}`;
const decisionOf = (key) => decisions.get(key)?.what || "";
const decidedAs = (what) => [...listedRows].filter(([key]) => decisionOf(key) === what).map(([key, row]) => ({ ...row, label: decisions.get(key).label }));

// A browser keeps decisions for this page if it lets a page from a disk keep anything.
let kept = true;
function keepDecisions() {
  try {
    localStorage.setItem(STORE, JSON.stringify([...decisions].map(([key, { what, label }]) => [key, what, label])));
  } catch {
    kept = false;
  }
}

function recallDecisions() {
  try {
    for (const [key, what, label] of JSON.parse(localStorage.getItem(STORE) || "[]")) decisions.set(key, { what, label });
  } catch {
    kept = false;
  }
}

// Decide about rows, {key: {what, label}}; an empty `what` takes a decision back.
function decide(changes) {
  for (const [key, { what, label = "" }] of Object.entries(changes)) {
    if (what) decisions.set(key, { what, label });
    else decisions.delete(key);
  }
  keepDecisions();
  for (const each of byId("problems").querySelectorAll(".deciding, .decided")) each.refresh();
}

// The choice of what happens to a row. `suggested` is another label, null without one.
function decisionChoice(key, suggested) {
  // A list of corrections gives one label to a row of the only data set.
  const relabels = first.kind === "labels" && listedRows.get(key).given_label !== "";
  const options = [["", "undecided"], [OUT, "leave out"], [STAYS, "is right: keep"]];
  if (relabels && suggested) options.push(["suggested", `label it ${suggested}`]);
  if (relabels) options.push(["other", "label it …"]);
  const select = el("select", { "aria-label": "what to do with this row", class: "decision" }, options.map(([name, words]) => el("option", { value: name }, visible(short(words, 60)))));
  const other = el("input", { list: "label-names", "aria-label": "new label", placeholder: "new label", class: "new-label" });
  const hint = el("p", { class: "muted small label-hint", role: "status" });
  const typed = () => {
    const label = other.value.trim();
    decide({ [key]: { what: label ? RELABELLED : "", label } });
  };
  select.addEventListener("change", () => {
    const which = select.value;
    choosing = which === "other";
    if (choosing) return typed();
    decide({ [key]: which === "suggested" ? { what: RELABELLED, label: suggested } : { what: which } });
  });
  other.addEventListener("input", typed);
  let choosing = false; // a label that is still to be typed
  const node = el("div", { class: "deciding" }, select, other, hint);
  node.refresh = () => {
    const { what = "", label = "" } = decisions.get(key) || {};
    const shown = what === RELABELLED ? (label === suggested && !choosing ? "suggested" : "other") : what || (choosing ? "other" : "");
    choosing &&= shown === "other";
    select.value = shown;
    other.hidden = shown !== "other";
    if (document.activeElement !== other) other.value = shown === "other" ? label : "";
    const unknown = shown === "other" && label && !data.late.labels.includes(label);
    hint.textContent = other.hidden ? "" : !label ? "Undecided until you type a label." : unknown ? "No item has this label so far: it makes a new class." : "";
    hint.hidden = !hint.textContent;
  };
  node.refresh();
  return node;
}

const shellWord = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

// How to train again with what was decided.
function trainAgain(out, labelled) {
  const config = first.run.config && first.run.folder ? `${first.run.folder.replace(/\/$/, "")}/config.yaml` : "config.yaml";
  const options = [out ? " --data.exclude exclude.csv" : "", labelled ? " --data.corrections corrections.csv" : ""];
  return `lit-metric fit --config ${shellWord(config)}${options.join("")}`;
}

// All that was decided, over all lists, and the two files that hold it.
function decisionBar() {
  const where = ["file", "row", "of_split"];
  const text = ["given_label", "shown_text"];
  const cells = (row, names) => names.map((name) => row[name]);
  const exclude = [...where, "list", ...text];
  const correct = [...where, "given_label", "new_label", "shown_text"];
  const out = button("", () => download("exclude.csv", csv(exclude, decidedAs(OUT).map((row) => cells(row, exclude)))), { class: "export", "data-file": "exclude.csv" });
  const labelled = button("", () => download("corrections.csv", csv(correct, decidedAs(RELABELLED).map((row) => cells({ ...row, new_label: row.label }, correct)))), { class: "export", "data-file": "corrections.csv" });
  const forget = button("Forget all decisions", () => decide(Object.fromEntries([...decisions.keys()].map((key) => [key, { what: "" }]))), { class: "quiet forget" });
  const status = el("p", { class: "total" });
  const how = el("code");
  const copyHow = button("Copy", (event) => copy(how.textContent, event.currentTarget), { class: "quiet copy", "aria-label": "Copy the command" });
  const again = el("p", { class: "option" }, how, copyHow);
  const warned = el("p", { class: "muted small" });
  const node = el("div", { class: "decided bar-below", role: "group", "aria-label": "What was decided" }, status, el("div", { class: "tools" }, out, labelled, forget), again, warned);
  node.refresh = () => {
    const [left, stay, anew] = [decidedAs(OUT), decidedAs(STAYS), decidedAs(RELABELLED)];
    status.textContent = `Decided, over all lists: ${plural(left.length, "row")} left out, ${whole(stay.length)} kept, ${whole(anew.length)} labelled anew. All others stay as they are.`;
    out.textContent = `Export exclude.csv (${whole(left.length)})`;
    labelled.textContent = `Export corrections.csv (${whole(anew.length)})`;
    out.disabled = !left.length;
    labelled.disabled = !anew.length;
    forget.disabled = !decisions.size;
    again.hidden = !left.length && !anew.length;
    how.textContent = trainAgain(left.length, anew.length);
    const measured = left.filter((row) => row.of_split && row.of_split !== "train").length;
    const mixture = first.kind === "several data sets" && left.length ? "In a mixture, each data set has an exclude of its own: give it the rows of its files." : "";
    warned.textContent = [measured ? `${plural(measured, "row")} left out ${measured === 1 ? "is" : "are"} of a split that is measured, which gets smaller: its results can't be compared with those of this page.` : "", mixture].filter(Boolean).join(" ");
    warned.hidden = !warned.textContent;
  };
  node.refresh();
  return node;
}
