// Elements, numbers, words and files. Texts of the data become text nodes only, never HTML.

const byId = (id) => document.getElementById(id);

function make(create, tag, props, children) {
  const node = create(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, props = {}, ...children) => make((name) => document.createElement(name), tag, props, children);
const svg = (tag, props = {}, ...children) =>
  make((name) => document.createElementNS("http://www.w3.org/2000/svg", name), tag, props, children);

const button = (text, onclick, props = {}) => el("button", { type: "button", onclick, ...props }, text);

// Control characters are shown by their pictures, such as ␀; line breaks and tabs stay.
const visible = (text) =>
  String(text)
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421");

const textOf = (text, props = {}) =>
  text === ""
    ? el("span", { class: "muted" }, "(empty)")
    : el("bdi", { dir: "auto", ...props, class: `text ${props.class || ""}`.trim() }, visible(text));

// Names such as card_not_working may break after their signs.
const nameOf = (name) =>
  el("bdi", { dir: "auto", class: "name" }, visible(short(name, 80)).split(/(?<=[_/.:-])/).flatMap((piece) => [piece, el("wbr")]));

const short = (text, length = 120) => (text.length > length ? `${text.slice(0, length)}…` : text);

const whole = (value) => (value === null || value === undefined ? "–" : Number(value).toLocaleString("en-US"));
const fixed = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value, digits = 4) =>
  value === null || value === undefined ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : "±"}${Math.abs(value).toFixed(digits)}`;
const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)}%`);
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

function general(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return Math.abs(value) < 1e4 ? String(value) : whole(value);
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// The exact number goes with what is shown of it.
const figure = (value, shown) => el("span", { class: "figure", "data-value": value ?? "" }, shown);

const interval = (each, show = fixed) =>
  el(
    "span",
    { class: "nowrap" },
    figure(each.value, show(each.value)),
    each.low !== null && each.high !== null
      ? el("span", { class: "muted small", "data-low": each.low, "data-high": each.high }, ` (${show(each.low)} … ${show(each.high)})`)
      : null,
  );

function announce(text) {
  byId("said").textContent = text;
}

const note = (text) => el("p", { class: "note" }, text);

// Right and wrong by a sign and a word, not by colour alone.
function verdict(right, words = ["right", "wrong"]) {
  if (right === null) return el("span", { class: "muted" }, "");
  return el("span", { class: right ? "good" : "bad" }, el("span", { "aria-hidden": "true" }, right ? "✓ " : "✗ "), right ? words[0] : words[1]);
}

function choice(label, options, value, onchange, props = {}) {
  const select = el("select", { ...props, onchange: (event) => onchange(event.target.value) });
  for (const [name, words] of options) select.append(el("option", { value: name }, visible(short(String(words), 60))));
  select.value = value;
  return el("label", { class: "field" }, el("span", {}, label), select);
}

// A row of buttons of which one is pressed.
function segments(label, options, value, onchange) {
  const group = el("div", { class: "segments", role: "group", "aria-label": label });
  const press = (name) => {
    for (const each of group.children) each.setAttribute("aria-pressed", String(each.dataset.value === name));
  };
  for (const [name, words] of options) {
    group.append(button(words, () => (press(name), onchange(name)), { "data-value": name }));
  }
  press(value);
  group.press = press;
  return group;
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { "aria-hidden": "true", class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    from.focus();
  }
  announce("Copied");
  from.textContent = "Copied";
  setTimeout(() => (from.textContent = "Copy"), 1500);
}

const copyButton = (text, what) =>
  button("Copy", (event) => copy(text, event.currentTarget), { class: "quiet copy", "aria-label": `Copy ${what}` });

// A cell that a spreadsheet would take for a formula gets an apostrophe before it. lit-metric takes it off
// where it compares a list with a file; the cells that name a file and a row stay as they are.
function csvCell(value, guard) {
  if (value === null || value === undefined) return "";
  let text = Array.isArray(value) ? value.join(" | ") : String(value);
  if (guard && typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const namesRows = (column) => /(^|_)(file|row)$/.test(column);

function csv(columns, rows) {
  const lines = [columns, ...rows].map((row, line) =>
    row.map((value, place) => csvCell(value, line === 0 || !namesRows(columns[place]))).join(","),
  );
  return `${lines.join("\r\n")}\r\n`;
}

// UTF-8 with a byte order mark: without it, some spreadsheets read another encoding.
function download(name, text) {
  const link = el("a", { download: name, class: "hidden" });
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  announce(`${name} was saved`);
}

const nextFrame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
