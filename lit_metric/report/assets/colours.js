// How the points of the map are coloured, and the legend that explains it.

const HUES = ["#2f7ed8", "#e8743b", "#19a979", "#945ecf", "#d6a300", "#ed4a7b", "#13a4b4", "#8a6d3b", "#6c8893", "#bf399e", "#7a9a01"];
const GREY = "#9aa0a6";
const GOOD = "#1f77d0";
const BAD = "#e4572e";
const SHOWN_LABELS = HUES.length;

const abgr = (hex) => {
  const [red, green, blue] = [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
};

// Names of everything that can colour the points, with the words for it.
function colourings() {
  const found = [];
  // A mixture is coloured by its data sets, whose labels may be of different kinds.
  const sets = first.kind === "several data sets" ? data.columns.findIndex((column) => column.name === "data set") : -1;
  if (sets >= 0) found.push([`column-${sets}`, "data set"]);
  if (data.labelled) found.push(["label", "label"]);
  if (data.late.splits.length > 1) found.push(["split", "split"]);
  if (data.late.roles.length > 1) found.push(["role", "role"]);
  for (const [when, name] of [["after", AFTER], ["before", BEFORE]]) {
    if (data[`correct_${when}`].some((value) => value >= 0)) found.push([`correct_${when}`, `right or wrong, ${name}`]);
  }
  if (found.some(([name]) => name.startsWith("correct"))) found.push(["changed", "became right or wrong"]);
  data.columns.forEach((column, place) => place !== sets && found.push([`column-${place}`, `column ${column.name}`]));
  return found;
}

// Groups: {names, of: place of each item's group or -1, hues}. A scale: {low, high, values}.
function groupsOf(name, wanted) {
  const count = data.count;
  const of = new Int32Array(count).fill(-1);
  if (name === "split" || name === "role") {
    of.set(data[name]);
    return frequent(name === "split" ? data.late.splits : data.late.roles, of, []);
  }
  if (name === "label") return frequentLabels(wanted);
  if (name.startsWith("correct")) {
    const values = data[name];
    for (let i = 0; i < count; i++) of[i] = values[i] < 0 ? -1 : 1 - values[i];
    return { names: ["✓ right", "✗ wrong"], of, hues: [GOOD, BAD], rest: "not asked" };
  }
  if (name === "changed") {
    for (let i = 0; i < count; i++) {
      const [was, is] = [data.correct_before[i], data.correct_after[i]];
      of[i] = was < 0 || is < 0 ? -1 : was === is ? (is ? 2 : 3) : is ? 0 : 1;
    }
    return { names: ["✓ became right", "✗ became wrong", "right in both", "wrong in both"], of, hues: [GOOD, BAD, "#8fbce6", "#e9b8a6"], rest: "not asked" };
  }
  const column = data.columns[Number(name.slice(7))];
  if (column.strings) {
    of.set(column.values);
    return frequent(column.strings, of, wanted);
  }
  const known = column.values.filter((value) => !Number.isNaN(value));
  const [low, high] = known.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  return { scale: true, low, high, values: column.values };
}

// The wanted names and then the most frequent ones get a hue, as far as there are hues.
function ranked(counts, wanted) {
  const order = [...counts.keys()].filter((place) => counts[place] > 0).sort((one, other) => counts[other] - counts[one]);
  return [...wanted, ...order.filter((place) => !wanted.includes(place))];
}

function frequent(names, of, wanted) {
  const counts = new Array(names.length).fill(0);
  for (const place of of) if (place >= 0) counts[place]++;
  const order = ranked(counts, wanted);
  const shown = order.slice(0, SHOWN_LABELS);
  const group = new Int32Array(names.length).fill(-1);
  shown.forEach((place, rank) => (group[place] = rank));
  return {
    names: shown.map((place) => names[place] || "(none)"),
    of: of.map((place) => (place < 0 ? -1 : group[place])),
    hues: HUES,
    rest: order.length > shown.length ? `${order.length - shown.length} others` : "none",
    all: names,
  };
}

// By the first label of an item that has a hue.
function frequentLabels(wanted) {
  const names = data.late.labels;
  const counts = new Array(names.length).fill(0);
  for (const label of data.label_ids) counts[label]++;
  const order = ranked(counts, wanted);
  const group = new Int32Array(names.length).fill(-1);
  const shown = order.slice(0, SHOWN_LABELS);
  shown.forEach((place, rank) => (group[place] = rank));
  const of = new Int32Array(data.count).fill(-1);
  for (let i = 0; i < data.count; i++) {
    for (const label of item.labels(i)) {
      if (group[label] >= 0) {
        of[i] = group[label];
        break;
      }
    }
  }
  return { names: shown.map((place) => names[place]), of, hues: HUES, rest: order.length > shown.length ? `${order.length - shown.length} other labels` : "no label", all: names };
}

// Fills colours of all items.
function paint(groups, colours) {
  if (groups.scale) {
    const steps = Array.from({ length: 256 }, (_, i) => {
      const [red, green, blue] = colourParts(d3.interpolateViridis(i / 255));
      return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
    });
    const { low, high, values } = groups;
    for (let i = 0; i < colours.length; i++) {
      colours[i] = Number.isNaN(values[i]) ? abgr(GREY) : steps[Math.round((255 * (values[i] - low)) / (high - low || 1))];
    }
    return;
  }
  const hues = groups.hues.map(abgr);
  const grey = abgr(GREY);
  for (let i = 0; i < colours.length; i++) colours[i] = groups.of[i] < 0 ? grey : hues[groups.of[i]];
}

const colourParts = (text) =>
  text.startsWith("#") ? [1, 3, 5].map((from) => parseInt(text.slice(from, from + 2), 16)) : text.match(/\d+/g).map(Number);

// isolate(group) is called with the group that alone stays bright, null for all.
function legend(groups, isolated, isolate) {
  const list = el("ul", { class: "legend", "aria-label": "Legend" });
  if (groups.scale) {
    const bar = el("span", { class: "ramp" }, Array.from({ length: 32 }, (_, i) => el("span", { style: { background: d3.interpolateViridis(i / 31) } })));
    list.append(el("li", {}, general(groups.low), bar, general(groups.high), el("span", { class: "muted" }, " grey: no value")));
    return list;
  }
  const counts = new Array(groups.names.length + 1).fill(0);
  for (const place of groups.of) counts[place < 0 ? groups.names.length : place]++;
  const entry = (place, name, hue, count) =>
    el("li", {}, button([el("span", { class: "swatch", style: { background: hue } }), textOf(short(name, 40)), el("span", { class: "muted" }, ` ${whole(count)}`)],
      () => isolate(isolated === place ? null : place), { class: "quiet", "aria-pressed": String(isolated === place), title: "Show this alone" }));
  groups.names.forEach((name, place) => list.append(entry(place, name, groups.hues[place], counts[place])));
  const rest = counts[groups.names.length];
  if (rest) list.append(entry(-1, groups.rest, GREY, rest));
  return list;
}
