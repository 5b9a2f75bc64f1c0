// At a glance: what the data are, what training changed, whether the space is sound, where time went.

const missing = (part, otherwise) => note(first.missing[part] || otherwise);
const card = (title, ...children) => el("div", { class: "card" }, el("h3", {}, title), ...children);

function better(row) {
  const { value, low, high } = row.change;
  if (value === null || !row.better) return "";
  const up = row.better === "higher" ? value > 0 : value < 0;
  if (low !== null && low <= 0 && high >= 0) return "no clear change";
  return value === 0 ? "no change" : up ? "better" : "worse";
}

// What the names of metrics mean, for somebody who meets them here.
const MEANINGS = [
  [/^hit_rate@(\d+)$/, (k) => (k === "1" ? "share of queries whose nearest item is right" : `share of queries with a right item among their ${k} nearest`)],
  [/^recall@(\d+)$/, (k) => `share of the right items that are among the ${k} nearest`],
  [/^precision@(\d+)$/, (k) => (k === "1" ? "share of nearest items that are right" : `share of the ${k} nearest items that are right`)],
  [/^map@r$/, () => "looks at as many nearest items as there are right ones: it is 1 if all of them are right, and falls with each wrong one, most with those that come first"],
  [/^r_precision$/, () => "share of right items among as many nearest ones as there are right ones"],
  [/mrr$/, () => "mean of 1 / rank of the first right item"],
  [/^ndcg@(\d+)$/, (k) => `how well the ${k} nearest items are ordered by relevance; 1 is perfect`],
  [/^knn(\d+)_accuracy$/, (k) => (k === "1" ? "share of items whose nearest labelled item has their label" : `share of items that a vote of their ${k} nearest labelled items classifies right`)],
  [/^knn(\d+)_(accuracy|f1)_macro$/, (k, what) => `${what === "f1" ? "F1" : what} of k-NN with k = ${k}, as a mean over classes`],
  [/^knn(\d+)_accuracy_(tail|medium|head)$/, (k, part) => `accuracy of k-NN with k = ${k} on ${{ tail: "rare", medium: "middle-sized", head: "frequent" }[part]} classes`],
  [/^effective_rank$/, () => "how many directions of the space the queries use; it also counts weak directions, so it is larger than the effective dimensions below"],
  [/^mean$/, () => "mean of the main metrics of the data sets"],
  [/^spearman$/, () => "rank correlation of cosines with the given scores"],
];

// The same of what a run logs.
const LOGGED = [
  [/^train\/(.*\/)?loss$/, () => "what training makes small, in each batch"],
  [/^train\/loss_epoch$/, () => "mean loss of each epoch"],
  [/^train\/(.*\/)?anchors_used$/, () => "share of anchors that the loss learned from"],
  [/^train\/mean_norm$/, () => "mean length of the vectors, before they are made unit vectors"],
  [/^train\/mean_pairwise_cosine$/, () => "mean cosine of random pairs; near 1, all vectors point the same way"],
  [/^train\/pairwise_spread$/, () => "how far apart random pairs lie; near 0, all vectors are the same"],
  [/^lr\//, () => "learning rate"],
  [/^mining\/staleness$/, () => "how many batches old the weights are that hard negatives were mined with"],
  [/^mining\/delay$/, () => "how long after its snapshot of the weights a table of negatives came into use"],
  [/^mining\/overlap$/, () => "share of the mined negatives that the table before had, too"],
  [/^mining\/encoded$/, () => "share of the items that were encoded for this table"],
  [/^mining\/without$/, () => "anchors without any mined negative"],
  [/^mining\/stall_seconds$/, () => "seconds that training waited for mining"],
  [/^mining\/(.*_)?seconds$/, () => "seconds that mining took, beside training or in its place"],
  [/^mining\/rejected\/(.*)$/, (filter) => `candidates that the filter ${filter} dropped`],
];

function meaning(given) {
  const name = given.split("/").pop(); // of a mixture, NAME/METRIC
  for (const [pattern, words] of LOGGED) {
    const found = given.match(pattern);
    if (found) return words(...found.slice(1));
  }
  for (const [pattern, words] of MEANINGS) {
    const found = name.match(pattern);
    if (found) return words(...found.slice(1));
  }
  return "";
}

function headline() {
  const main = first.metrics.find((row) => row.change.value !== null && row.better);
  if (!main) return null;
  const words = better(main);
  const sign = { better: "▲ ", worse: "▼ " }[words] || "";
  const clear = words === "better" || words === "worse";
  const over = main.queries ? ` over ${plural(main.queries, "query", "queries")} of the ${first.measured_split || "measured"} split` : "";
  return el(
    "div",
    { class: "headline" },
    el("p", {}, el("strong", {}, visible(main.name)), el("span", { class: "muted" }, over)),
    el("p", { class: "big" }, fixed(main.before.value), el("span", { class: "muted" }, " → "), el("strong", {}, fixed(main.after.value))),
    el("p", { class: { better: "good", worse: "bad" }[words] || null }, `${sign}${clear ? `${words} than` : `${words} from`} ${BEFORE}: `, signed(main.change.value),
      main.change.low === null ? "" : el("span", { class: "muted" }, ` (95% interval ${signed(main.change.low)} … ${signed(main.change.high)})`)),
    meaning(main.name) ? el("p", { class: "muted small" }, `${main.name}: ${meaning(main.name)}.`) : null,
  );
}

// How many rows a list of problems has, and how many of them are beyond much doubt.
const problemCount = (list, total) => (list.certain === null ? whole(total) : `${whole(list.certain)} ${list.certain_means} of ${whole(total)}`);

function inShort() {
  const list = el("ul", { class: "short" });
  for (const each of first.advice.slice(0, 3)) list.append(el("li", {}, el("a", { href: "#advice" }, textOf(each.what)), " ", el("span", { class: "muted" }, textOf(each.evidence))));
  if (!first.advice.length) list.append(el("li", {}, first.missing.advice || "No rule found anything to change."));
  const counts = first.problems.filter((each) => each.total > 0);
  const found = el("ul", { class: "chips" });
  for (const each of counts) found.append(el("li", {}, el("a", { href: "#problems", class: "chip" }, el("strong", { "data-value": each.total }, problemCount(each, each.total)), ` ${each.name}`)));
  return el("div", { class: "headline" }, el("p", { class: "muted" }, "What to do next"), list, counts.length ? found : null);
}

// Without an interval, nobody knows whether chance made the change.
function judgement({ words, change }) {
  const unsure = change.low === null && (words === "better" || words === "worse");
  const kind = unsure ? "muted" : { better: "good", worse: "bad" }[words] || "muted";
  return el("span", { class: kind }, { better: "▲ ", worse: "▼ " }[words] || "", words || "–", unsure ? " (no interval)" : "");
}

function metricsTable() {
  if (!first.metrics.length) return missing("metrics", "No metrics were measured.");
  const rows = first.metrics.map((row) => ({ ...row, words: better(row) }));
  const columns = [
    { name: "name", label: "metric", value: (row) => row.name, show: (row) => [el("code", {}, visible(row.name)), meaning(row.name) ? el("div", { class: "muted small" }, meaning(row.name)) : null] },
    { name: "before", label: BEFORE, numeric: true, value: (row) => row.before.value, show: (row) => interval(row.before) },
    { name: "after", label: AFTER, numeric: true, value: (row) => row.after.value, show: (row) => interval(row.after) },
    { name: "change", label: "change", numeric: true, value: (row) => row.change.value, show: (row) => interval(row.change, signed) },
    { name: "words", label: "verdict", value: (row) => row.words, show: judgement },
    { name: "queries", label: "queries", numeric: true, value: (row) => row.queries, show: (row) => figure(row.queries, row.queries ? whole(row.queries) : "–") },
  ];
  const made = table(columns, rows, { caption: "Metrics, with 95% intervals by bootstrap over queries", page: 6, down: false });
  made.id = "metrics";
  return made;
}

function sizeBars(sizes) {
  if (!sizes.length) return null;
  const groups = Math.min(sizes.length, 60);
  const bars = Array.from({ length: groups }, (_, i) => sizes[Math.floor((i * sizes.length) / groups)]);
  return el("span", { class: "spark", role: "img", "aria-label": `sizes of classes from ${whole(sizes[0])} to ${whole(sizes[sizes.length - 1])}` },
    bars.map((size) => el("span", { style: { height: `${Math.max(4, (100 * size) / sizes[0])}%` } })));
}

function splitsTable() {
  if (!first.splits.length) return missing("splits", "The data could not be read.");
  const labelled = first.splits.some((split) => split.classes);
  const columns = [
    { name: "name", label: "split", value: (s) => s.name },
    { name: "items", label: "items", numeric: true, value: (s) => s.items, show: (s) => figure(s.items, whole(s.items)) },
    { name: "shown", label: "shown here", numeric: true, value: (s) => s.items_shown, show: (s) => figure(s.items_shown, whole(s.items_shown)) },
    ...(labelled ? [{ name: "classes", label: "classes", numeric: true, value: (s) => s.classes, show: (s) => figure(s.classes, s.classes ? whole(s.classes) : "–") },
    { name: "sizes", label: "items of a class, largest … smallest", show: (s) => s.class_sizes.length ? [sizeBars(s.class_sizes), ` ${whole(s.class_sizes[0])} … ${whole(s.class_sizes[s.class_sizes.length - 1])}${s.classes > s.class_sizes.length ? " (of the largest)" : ""}`] : "–" }] : []),
    { name: "lengths", label: "tokens: median (5% … 95%, longest)", show: (s) => s.length_quantiles.length === 7 ? `${general(s.length_quantiles[3])} (${general(s.length_quantiles[1])} … ${general(s.length_quantiles[5])}, ${general(s.length_quantiles[6])})` : "–" },
    { name: "cut", label: "too long, cut", numeric: true, hint: "items longer than the encoder reads", value: (s) => s.cut, show: (s) => figure(s.cut, s.items ? `${whole(s.cut)} (${percent(s.cut / s.items)})` : whole(s.cut)) },
  ];
  const made = table(columns, first.splits, { caption: "The data" });
  made.id = "splits";
  return made;
}

const HEALTH = [
  ["mean_cosine", "Mean cosine of random pairs", "1 if all vectors point the same way", (v) => (v > 0.9 ? "collapsed: nearly all vectors point the same way" : v > 0.6 ? "crowded: vectors lie in a narrow cone" : "spread out")],
  ["effective_dimensions", "Effective dimensions", "how many directions of the space the shown items vary along, each by its share of the variance", (v) => (v < 4 ? "very few directions are used" : v < 16 ? "few directions are used" : "many directions are used")],
  ["hubness", "Hubness", "whether a few items are among the nearest of very many others, as hubs: 0 if all are so equally often, above 3 if a few are everywhere (the skewness of the counts)", (v) => (v > 3 ? "strong: a few items are neighbours of very many" : v > 1.5 ? "some items are neighbours of many" : "even: no item is everybody's neighbour")],
  ["never_found", "Never found", "share of items that are among the 10 nearest of no other item", (v) => (v > 0.3 ? "many items are hard to find" : v > 0.1 ? "some items are hard to find" : "nearly all items can be found")],
];

function health() {
  if (!first.health) return card("Is the space sound?", missing("health", "It was not measured."));
  const show = (name, value) => (name === "never_found" ? percent(value) : name === "effective_dimensions" ? fixed(value, 1) : fixed(value, 3));
  const columns = [
    { name: "what", label: "", show: (row) => [row[1], el("div", { class: "muted small" }, row[2])] },
    ...[BEFORE, AFTER].map((label, place) => ({ name: label, label, numeric: true, show: (row) => figure(first.health[row[0]][place], show(row[0], first.health[row[0]][place])) })),
    { name: "words", label: `${AFTER}, in words`, show: (row) => (first.health[row[0]][1] === null ? "–" : row[3](first.health[row[0]][1])) },
  ];
  const made = card("Is the space sound?", table(columns, HEALTH, { caption: "Collapse and hubness" }));
  made.id = "health";
  return made;
}

function timeCard() {
  const { run } = first;
  const speed = run.texts_per_second ? `, ${general(run.texts_per_second)} texts a second` : "";
  const writing = Object.entries(first.seconds_to_write);
  return card(
    "Time",
    el("p", {}, run.seconds ? [figure(run.seconds, duration(run.seconds)), `: ${plural(run.steps, "step")}, ${plural(run.texts, "text")}${speed}`] : "Unknown."),
    run.parts.length ? partsBar(run.parts) : null,
    writing.length ? el("p", { class: "muted small" }, `Writing this page: ${writing.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ")}.`) : null,
  );
}

const listing = (title, text, open = false) =>
  el("details", { open }, el("summary", {}, title), el("div", { class: "listing" }, copyButton(text, title), el("pre", { tabindex: "0" }, visible(text))));

function curvesCard() {
  const { curves } = first.run;
  const part = el("details", { class: "curves", open: true }, el("summary", {}, `Curves over steps (${curves.length})`));
  const rank = (name) => (/loss/.test(name) ? 0 : /^(val|validation)/.test(name) ? 1 : /^(lr|mining)/.test(name) ? 3 : 2);
  const ordered = [...curves].sort((one, other) => rank(one.name) - rank(other.name));
  const grid = el("div", { class: "charts" }, ordered.slice(0, 6).map(lineChart));
  const measured = first.measured_split || "measured";
  if (measured !== "validation" && curves.some((curve) => curve.name.startsWith("val/"))) {
    part.append(el("p", { class: "muted small" }, `Curves of val/… are of validation items, the table above is of ${visible(measured)} items. They search other items, so their heights can't be compared: look at where a curve rises or falls.`));
  }
  part.append(curves.length ? grid : missing("curves", "The run logged no values."));
  if (curves.length > 6) {
    const rest = button(`Show ${curves.length - 6} more`, () => (grid.append(...ordered.slice(6).map(lineChart)), rest.remove()), { class: "more" });
    part.append(rest);
  }
  return part;
}

function precision() {
  if (!first.precision) return "";
  const half = first.precision === "float32" ? "" : " Neighbours that are nearly equally near may change places. Metrics that the run has written are shown as it wrote them.";
  const width = { bfloat16: " (numbers of 16 bits, which are faster and coarser)", float32: " (numbers of 32 bits)" }[first.precision] || "";
  return el("p", { id: "precision", class: "muted small" }, `The vectors behind this page were computed in ${first.precision}${width}.${half}`);
}

function renderGlance() {
  const { run } = first;
  byId("title").replaceChildren(textOf(first.title));
  const when = first.made.slice(0, 16).replace("T", " ");
  const kinds = first.kind === "several data sets" ? "A mixture of data sets. " : first.kind ? `Data with ${first.kind}. ` : "";
  const measured = first.measured_split ? `Measured on the ${first.measured_split} split. ` : "";
  byId("subtitle").textContent = `What a text encoder learned: ${BEFORE} beside ${AFTER}. ${kinds}${measured}${run.ended ? `Training ended by ${run.ended}. ` : ""}Written ${when}.`;
  const section = byId("glance");
  section.append(el("div", { class: "two" }, headline(), inShort()));
  for (const words of run.warnings) section.append(el("p", { class: "note warning" }, "⚠ ", textOf(words)));
  section.append(metricsTable(), splitsTable(), precision(), el("div", { class: "two" }, health(), timeCard()), curvesCard());
  if (run.command) section.append(listing("The command", run.command));
  if (run.config) section.append(listing("The configuration (config.yaml)", run.config));
  byId("footer").textContent = `Written by lit-metric ${first.version} from ${run.folder}. This file makes no request to anyone; it holds the texts that it shows.`;
}

// What to train again with: the whole command, if nothing is left for the reader to fill in.
function advised(option) {
  const lists = option.startsWith("--data.exclude");
  const filled = lists || / \d+$/.test(option);
  const words = lists ? trainAgain(true, option.includes("corrections.csv")) : filled ? fitAgain("again", [option]) : option;
  return el("p", { class: "option" }, el("code", {}, visible(words)), copyButton(words, filled ? "the command" : "the option"));
}

function renderAdvice() {
  const section = byId("advice");
  if (!first.advice.length) return section.append(missing("advice", "No rule found anything to change. That is no proof that nothing can be better."));
  const list = el("ol", { class: "advice" });
  for (const each of first.advice) {
    list.append(el("li", {}, el("p", {}, el("strong", {}, textOf(each.what))), el("p", {}, el("span", { class: "muted" }, "Because: "), textOf(each.evidence)),
      each.option ? advised(each.option) : null));
  }
  section.append(list);
}
