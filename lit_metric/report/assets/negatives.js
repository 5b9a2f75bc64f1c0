// Mined negatives through time: one version of the table at a time, chosen by a slider.

function fateWords(candidate) {
  const { fate } = candidate;
  const kind = fate === "drawn" ? "drawn" : fate === "kept" ? "kept" : "dropped";
  const sign = { drawn: "● ", kept: "○ ", dropped: "✗ " }[kind];
  return el("span", { class: `fate ${kind}` }, el("span", { "aria-hidden": "true" }, sign), visible(fate));
}

function anchorView(anchor) {
  const [best, mean, worst] = anchor.positives;
  const columns = [
    { name: "score", label: "score", numeric: true, value: (c) => c.score, show: (c) => meter(c.score, figure(c.score, fixed(c.score, 3))) },
    { name: "text", label: "candidate", value: (c) => c.text, show: (c) => textOf(short(c.text, 400)) },
    ...(anchor.candidates.some((c) => c.label) ? [{ name: "label", label: "label", value: (c) => c.label, show: (c) => (c.label ? labelTags([c.label]) : "–") }] : []),
    { name: "fate", label: "fate", value: (c) => c.fate, show: fateWords },
    { name: "false", label: "likely false?", value: (c) => Number(c.false_negative), numeric: true, show: (c) => (c.false_negative ? el("span", { class: "bad" }, "⚠ yes: ", visible(c.reason)) : "no") },
  ];
  return el("div", {},
    el("div", { class: "chosen" }, el("p", { class: "full", tabindex: "0" }, textOf(anchor.text)),
      el("div", { class: "facts" }, anchor.label ? labelTags([anchor.label]) : null,
        el("span", { class: "muted" }, mean === null ? "No positives were scored." : `Its positives score ${fixed(best, 3)} at best, ${fixed(mean, 3)} on average, ${fixed(worst, 3)} at worst.`))),
    anchor.candidates.length ? table(columns, anchor.candidates, { caption: "Its candidates, most similar first", page: 20, sort: "score" }) : note("No candidate was found."));
}

function versionFacts(version, place, versions) {
  const dropped = Object.entries(version.dropped);
  // Where the use of others is known, a version without one came too late.
  const unused = version.batch === null && versions.some((each) => each.batch !== null);
  const never = place === versions.length - 1 ? "none: training ended before" : "none: a later version came first";
  const rows = [
    ["First used at batch", unused ? never : version.batch === null ? "unknown" : figure(version.batch, whole(version.batch))],
    ...(unused ? [] : [
      ["Age of its weights then", version.staleness === null ? "unknown" : figure(version.staleness, plural(version.staleness, "batch", "batches"))],
      ["Training waited for it", version.stall_seconds === null ? "unknown" : figure(version.stall_seconds, duration(version.stall_seconds))],
    ]),
    ["Candidates of the version before", version.overlap === null ? (place ? "unknown" : "first version") : figure(version.overlap, percent(version.overlap))],
    ["Dropped by filters", dropped.length ? dropped.map(([name, count], i) => [i ? ", " : "", textOf(name), " ", figure(count, whole(count))]) : "none"],
  ];
  return el("dl", { class: "facts-list" }, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function overlapChart(versions) {
  const known = versions.filter((version) => version.overlap !== null);
  if (known.length < 2) return null;
  return lineChart({ name: "overlap with the version before", steps: known.map((v) => v.version), values: known.map((v) => v.overlap) });
}

function renderNegatives() {
  const section = byId("negatives");
  const { negatives } = data.late;
  if (!negatives || !negatives.versions.length) return section.append(missing("negatives", "The run mined no negatives. A run with data.miner in its config does."));
  const { versions } = negatives;
  const share = negatives.false_negative_share;
  section.append(
    el("p", { class: "lead" }, "Candidates that were mined as hard negatives for a sample of anchors. A false negative belongs with its anchor, and training pushes it away."),
    el("p", { id: "false-share", class: "big-line" }, share === null ? "It is unknown how many are false." : ["Likely false: ", figure(share, percent(share)), " of the kept candidates."]),
    el("p", { class: "muted" }, "The rule: ", textOf(negatives.rule)));
  const slider = el("input", { type: "range", id: "version", min: 0, max: versions.length - 1, step: 1, value: versions.length - 1, "aria-describedby": "version-name" });
  const name = el("output", { id: "version-name", for: "version" });
  const anchors = el("span");
  const body = el("div", { id: "version-body" });
  let chosen = 0;

  function show() {
    const place = Number(slider.value);
    const version = versions[place];
    name.textContent = `version ${version.version} (${place + 1} of ${versions.length})`;
    slider.setAttribute("aria-valuetext", name.textContent);
    chosen = Math.min(chosen, Math.max(version.anchors.length - 1, 0));
    const view = el("div", { id: "anchor" });
    const open = () => view.replaceChildren(version.anchors.length ? anchorView(version.anchors[chosen]) : note("No anchor of this version was sampled."));
    anchors.replaceChildren(version.anchors.length
      ? choice("Anchor", version.anchors.map((anchor, i) => [i, `${i + 1}: ${anchor.text || "(empty)"}`]), chosen, (value) => ((chosen = Number(value)), open()), { id: "anchor-choice" })
      : "");
    const series = [
      { kind: "positive", name: "positives", counts: version.positive_histogram },
      { kind: "negative", name: "candidates", counts: version.negative_histogram },
    ];
    const empty = !version.positive_histogram.length && !version.negative_histogram.length;
    body.replaceChildren(el("div", { class: "two" }, versionFacts(version, place, versions), empty ? note("No scores were kept.") : histograms(version.low, version.high, series, "Scores, as shares of each kind")), view);
    open();
  }
  slider.addEventListener("input", show);
  section.append(el("div", { class: "tools" }, el("label", { class: "field" }, el("span", {}, "Version"), slider), name, anchors), body);
  const chart = overlapChart(versions);
  if (chart) section.append(el("div", { class: "charts" }, chart));
  show();
}
