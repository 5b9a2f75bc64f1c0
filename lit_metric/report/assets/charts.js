// Small charts as SVG. Each says in words what it shows.

const WIDTH = 360;
const HEIGHT = 190;
const EDGE = { left: 50, right: 12, top: 10, bottom: 26 };
const POINTS = 600;

const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

function axes(x, y, [left, right], [low, high]) {
  const parts = [];
  for (const tick of d3.ticks(low, high, 4)) {
    parts.push(svg("line", { class: "grid", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(tick), y2: y(tick) }));
    parts.push(svg("text", { class: "tick", x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, general(tick)));
  }
  for (const tick of d3.ticks(left, right, 5)) {
    parts.push(svg("text", { class: "tick", x: x(tick), y: HEIGHT - 8, "text-anchor": "middle" }, general(tick)));
  }
  return parts;
}

const chart = (label, ...children) =>
  svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label }, ...children);

function lineChart({ name, steps, values }) {
  const every = Math.ceil(values.length / POINTS);
  const points = values
    .map((value, i) => [steps[i], value, i])
    .filter(([, value, i]) => value !== null && (i % every === 0 || i === values.length - 1));
  const figureOf = (words) => el("figure", {}, el("figcaption", {}, textOf(name), el("span", { class: "muted" }, ` ${words}`), meaning(name) ? el("div", { class: "muted small" }, meaning(name)) : null));
  if (!points.length) return figureOf("no values");
  const range = (place) => [Math.min(...points.map((p) => p[place])), Math.max(...points.map((p) => p[place]))];
  const [[left, right], [low, high]] = [range(0), range(1)];
  const x = scale(left, right, EDGE.left, WIDTH - EDGE.right);
  const y = scale(low, high, HEIGHT - EDGE.bottom, EDGE.top);
  const path = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const last = points[points.length - 1];
  const marks = points.length <= 40
    ? points.map(([step, value]) => svg("circle", { class: "dot", cx: x(step), cy: y(value), r: 2.5 }, svg("title", {}, `step ${step}: ${general(value)}`)))
    : [];
  const words = `${general(points[0][1])} at step ${points[0][0]}, ${general(last[1])} at step ${last[0]}`;
  const made = figureOf(`ends at ${general(last[1])}`);
  made.append(chart(`${name}: ${words}`, axes(x, y, [left, right], [low, high]), svg("path", { class: "line", d: path }), marks));
  return made;
}

// Two histograms over the same bins, as shares of their own sums.
function histograms(low, high, series, caption) {
  const share = series.map(({ counts }) => {
    const sum = counts.reduce((total, each) => total + each, 0) || 1;
    return counts.map((count) => count / sum);
  });
  const most = Math.max(...share.flat(), 1e-9);
  const x = scale(low, high, EDGE.left, WIDTH - EDGE.right);
  const y = scale(0, most, HEIGHT - EDGE.bottom, EDGE.top);
  const bars = series.flatMap(({ kind, counts, name }, which) => {
    const step = (high - low) / (counts.length || 1);
    return counts.map((count, bin) => {
      const [from, to] = [x(low + bin * step), x(low + (bin + 1) * step)];
      const top = y(share[which][bin]);
      return svg(
        "rect",
        { class: `bar ${kind}`, x: from + 0.5, width: Math.max(to - from - 1, 0.5), y: top, height: HEIGHT - EDGE.bottom - top, "data-count": count },
        svg("title", {}, `${name}: ${whole(count)} between ${general(low + bin * step)} and ${general(low + (bin + 1) * step)}`),
      );
    });
  });
  const legend = series.map(({ kind, name }) => el("span", { class: "key" }, el("span", { class: `swatch ${kind}` }), name));
  return el("figure", {}, el("figcaption", {}, caption, " ", legend), chart(caption, axes(x, y, [low, high], [0, most]), bars));
}

// One bar in parts, with a list that says the same.
function partsBar(parts) {
  const total = parts.reduce((sum, part) => sum + part.seconds, 0) || 1;
  const bar = el("div", { class: "stack", "aria-hidden": "true" });
  const list = el("ul", { class: "keys" });
  parts.forEach(({ name, seconds }, place) => {
    bar.append(el("span", { class: `part hue${place % 8}`, style: { width: `${(100 * seconds) / total}%` } }));
    const words = el("span", { "data-value": seconds }, `${name} ${duration(seconds)} `);
    list.append(el("li", {}, el("span", { class: `swatch hue${place % 8}` }), words, el("span", { class: "muted" }, percent(seconds / total, 0))));
  });
  return el("div", {}, bar, list);
}

// A share as a bar behind its number.
const meter = (share, shown, kind = "") =>
  el("span", { class: "meter" }, el("span", { class: `fill ${kind}`, style: { width: `${100 * Math.max(0, Math.min(1, share || 0))}%` } }), el("span", { class: "over" }, shown));
