// What the page shows: a little at once, the rest inflated after the first paint.

const first = JSON.parse(byId("first").textContent);
const [BEFORE, AFTER] = first.names;
const data = { count: first.items, late: null };

const TYPES = { int8: Int8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array, float64: Float64Array };

async function inflate(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The first bytes of all values, then the second ones, and so on; little end first.
function joined(bytes, type, count) {
  const size = type.BYTES_PER_ELEMENT;
  const values = new type(count);
  const target = new Uint8Array(values.buffer);
  for (let plane = 0; plane < size; plane++) {
    for (let i = 0, from = plane * count, to = plane; i < count; i++, to += size) target[to] = bytes[from + i];
  }
  return values;
}

// An array, a string or an object by its name; null if the page has none.
async function read(name) {
  const node = byId(`bulk-${name}`);
  if (!node) return null;
  const { kind, count } = node.dataset;
  const bytes = await inflate(node.textContent);
  node.remove();
  if (kind === "json") return JSON.parse(new TextDecoder().decode(bytes));
  if (kind === "text") return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  return joined(bytes, TYPES[kind], Number(count));
}

const ARRAYS = [
  "lengths", "texts", "label_offsets", "label_ids", "split", "role", "file", "row", "correct_before",
  "correct_after", "together_before", "together_after", "map_before", "map_after", "neighbours_before", "neighbours_after", "scores_before", "scores_after",
];

async function readAll() {
  data.late = await read("late");
  for (const name of ARRAYS) data[name] = await read(name);
  data.starts = new Uint32Array(data.count + 1);
  for (let i = 0; i < data.count; i++) data.starts[i + 1] = data.starts[i] + data.lengths[i];
  data.columns = data.late.columns;
  for (const [place, column] of data.columns.entries()) column.values = await read(`column-${place}`);
  data.width = data.count ? (data.neighbours_after || data.neighbours_before || []).length / data.count : 0;
  data.labelled = data.label_ids.length > 0;
}

const item = {
  text: (i) => data.texts.slice(data.starts[i], data.starts[i + 1]),
  labels: (i) => data.label_ids.subarray(data.label_offsets[i], data.label_offsets[i + 1]),
  labelNames: (i) => Array.from(item.labels(i), (label) => data.late.labels[label]),
  split: (i) => data.late.splits[data.split[i]] || "",
  role: (i) => data.late.roles[data.role[i]] || "",
  file: (i) => (data.file[i] < 0 ? "" : data.late.files[data.file[i]]),
  key: (i) => (data.late.keys ? data.late.keys[i] : `${item.file(i)}:${data.row[i]}`),
  share: (i, j) => {
    const others = item.labels(j);
    return item.labels(i).some((label) => others.includes(label));
  },
  // Whether two items belong together by their labels; null if one of them has none.
  together: (i, j) => (item.labels(i).length && item.labels(j).length ? item.share(i, j) : null),
};

// [{place, score, rank, together}] of an item, nearest first; null without neighbours. Whether a neighbour
// belongs together with the item is null where nobody knows.
function near(i, when) {
  const places = data[`neighbours_${when}`];
  if (!places) return null;
  const known = data[`together_${when}`];
  const found = [];
  for (let k = i * data.width; k < (i + 1) * data.width && places[k] >= 0; k++) {
    const together = known ? (known[k] < 0 ? null : known[k] === 1) : item.together(i, places[k]);
    found.push({ place: places[k], score: data[`scores_${when}`] ? data[`scores_${when}`][k] / 1000 : null, rank: found.length + 1, together });
  }
  return found;
}

let lowered = null;

// Whether a split is that of the training items, also of a data set of a mixture (NAME/train).
const isTrain = (split) => split.split("/").pop() === "train";

// Places of the items whose text or label has all the words, in order.
function search(words, most = Infinity) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return [];
  lowered ||= Array.from({ length: data.count }, (_, i) => item.text(i).toLowerCase());
  const labels = data.late.labels.map((label) => label.toLowerCase());
  const found = [];
  const place = words.trim().match(/^(?:(\S+)\s+)?row\s+(\d+)$/i); // as a row is named elsewhere
  if (place) {
    for (let i = 0; i < data.count && found.length < most; i++) {
      if (data.file[i] >= 0 && data.row[i] === Number(place[2]) && (!place[1] || item.split(i).toLowerCase() === place[1].toLowerCase())) found.push(i);
    }
    if (found.length) return found;
  }
  for (let i = 0; i < data.count && found.length < most; i++) {
    const has = (word) => lowered[i].includes(word) || item.labels(i).some((label) => labels[label].includes(word));
    if (wanted.every(has)) found.push(i);
  }
  return found;
}

// What it means that two items belong together, by what is known of the items.
const LABELS = { yes: "same label", no: "other label", count: (right, asked) => `${right} of ${asked} share a label`, lead: "✓ shares a label with it." };
const PAIRS = { yes: "known pair", no: "no known pair", count: (right, asked) => `${right} of ${asked} are known pairs`, lead: "✓ was given as a pair with it. Others may belong to it, too, without having been given." };
const KINDS = {
  labels: LABELS,
  "several labels": LABELS,
  judgements: { yes: "relevant", no: "not judged relevant", count: (right, asked) => `${right} of ${asked} are relevant`, lead: "✓ was judged relevant to it. Others may not have been judged." },
  triples: { yes: "known fact", no: "no known fact", count: (right, asked) => `${right} of ${asked} are known facts`, lead: "✓ is a known fact with it. Others may be true, too." },
  "several data sets": { yes: "belongs together", no: "not known to", count: (right, asked) => `${right} of ${asked} belong together`, lead: "✓ belongs together with it, by what is known in its data set." },
};
const TOGETHER = KINDS[first.kind] || PAIRS;

const labelTags = (names) => names.map((name) => el("span", { class: "label" }, textOf(name)));
