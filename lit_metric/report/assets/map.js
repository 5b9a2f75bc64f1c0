// The map: both times side by side, with one zoom, one selection and one picked item.

const MOST_LISTED = 200;
const map = { plots: [], hovered: -1, picked: -1, selected: [], isolated: null, tool: "pan", line: null, wanted: [], colouring: "", waiting: false, moving: false };

function surface(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function redraw() {
  if (map.waiting) return;
  map.waiting = true;
  requestAnimationFrame(() => {
    map.waiting = false;
    const background = abgr(surface("--plot"));
    for (const { scatter } of map.plots) scatter.draw(background, map.moving);
    drawOverlays();
  });
}

function drawOverlays() {
  const colour = surface("--ink");
  for (const { scatter, when } of map.plots) {
    const neighbours = map.picked >= 0 ? near(map.picked, when) : null;
    const cross = scatter.overlay.matches(":focus-visible");
    const line = map.line && map.line.scatter === scatter ? map.line.points : null;
    if (scatter.image) scatter.drawOver({ hovered: map.hovered, picked: map.picked, neighbours, line, colour, cross });
  }
}

// Which points are bright, plain or dim: a selection comes before the legend.
function relevel() {
  const { levels } = map.style;
  const isolated = map.isolated;
  for (let i = 0; i < levels.length; i++) {
    const group = map.groups.scale ? 0 : map.groups.of[i];
    levels[i] = (isolated === null ? group < 0 : group !== isolated) ? DIM : PLAIN;
  }
  if (map.selected.length) {
    levels.fill(DIM);
    for (const i of map.selected) levels[i] = BRIGHT;
  }
  redraw();
}

function recolour(name = map.colouring) {
  map.colouring = name;
  map.isolated = null;
  map.groups = groupsOf(name, map.wanted);
  paint(map.groups, map.style.colours);
  showLegend();
  relevel();
}

function showLegend() {
  byId("map-legend").replaceChildren(legend(map.groups, map.isolated, (group) => {
    map.isolated = group;
    showLegend();
    relevel();
  }));
  const more = byId("map-more");
  more.hidden = !(map.groups.all && map.groups.all.length > SHOWN_LABELS);
  if (!more.hidden) byId("map-names").replaceChildren(...map.groups.all.map((name) => el("option", { value: name })));
}

function select(places, words) {
  map.selected = places;
  relevel();
  const count = byId("map-count");
  count.textContent = places.length ? `${plural(places.length, "item")} selected${words ? ` ${words}` : ""}` : "Nothing is selected";
  count.dataset.count = places.length;
  announce(count.textContent);
  byId("map-export").disabled = byId("map-clear").disabled = !places.length;
  const list = byId("map-list");
  list.replaceChildren(...places.slice(0, MOST_LISTED).map((i) =>
    el("li", {}, button([textOf(short(item.text(i), 160)), " ", labelTags(item.labelNames(i))], () => pickOnMap(i), { class: "item", "data-place": i }))));
  if (places.length > MOST_LISTED) list.append(el("li", { class: "muted" }, `and ${whole(places.length - MOST_LISTED)} more; the CSV has all`));
}

function pickOnMap(i, jump = false) {
  map.picked = i;
  drawOverlays();
  byId("map-picked").replaceChildren(...(i < 0 ? [] : [...itemView(i, (other) => pickOnMap(other)), button("Open under Neighbours", () => openItem(i), { class: "quiet" })]));
  byId("map-picked").dataset.place = i;
  if (i >= 0) announce(`Picked ${short(item.text(i), 80)}`);
  if (jump) byId("map").scrollIntoView({ block: "start" });
}

function exportSelection() {
  const nameless = map.selected.some((i) => data.file[i] < 0);
  const columns = ["file", "row", "shown_text", "shown_labels", "shown_split", ...(nameless ? ["shown_key"] : [])];
  const rows = map.selected.map((i) => [item.file(i), data.row[i], item.text(i), item.labelNames(i), item.split(i), ...(nameless ? [item.key(i)] : [])]);
  download("selection.csv", csv(columns, rows));
}

function hover(scatter, event) {
  const [x, y] = d3.pointer(event, scatter.overlay);
  const found = map.line ? -1 : scatter.find(x, y);
  const tip = byId("tip");
  if (found !== map.hovered) {
    map.hovered = found;
    drawOverlays();
    scatter.overlay.classList.toggle("over", found >= 0);
    tip.hidden = found < 0;
    if (found >= 0) tip.replaceChildren(el("p", {}, textOf(short(item.text(found), 300))), itemFacts(found));
  }
  if (found >= 0) {
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 18 + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 18}px`;
  }
}

function leave() {
  map.hovered = -1;
  byId("tip").hidden = true;
  drawOverlays();
}

// Dragging selects when the tool says so, or with Shift.
function selecting(scatter) {
  const node = scatter.overlay;
  node.addEventListener("pointerdown", (event) => {
    node.focus({ preventScroll: true });
    if (event.button || (map.tool === "pan" && !event.shiftKey)) return;
    node.setPointerCapture(event.pointerId);
    const start = d3.pointer(event, node);
    map.line = { scatter, start, points: [start] };
  });
  node.addEventListener("pointermove", (event) => {
    if (!map.line || map.line.scatter !== scatter) return;
    const [x, y] = d3.pointer(event, node);
    const [left, top] = map.line.start;
    if (map.tool === "lasso") map.line.points.push([x, y]);
    else map.line.points = [[left, top], [x, top], [x, y], [left, y]];
    drawOverlays();
  });
  node.addEventListener("pointerup", () => {
    if (!map.line || map.line.scatter !== scatter) return;
    const { points } = map.line;
    map.line = null;
    if (points.length > 2) {
      map.justSelected = true; // the click that follows picks nothing
      setTimeout(() => (map.justSelected = false));
      select(scatter.inside(points), "on the map");
    }
    drawOverlays();
  });
  node.addEventListener("pointercancel", () => ((map.line = null), drawOverlays()));
}

function keys(scatter, event) {
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  const target = d3.select(scatter.overlay);
  if (steps[event.key]) map.zoom.translateBy(target, ...steps[event.key].map((step) => step / scatter.transform.k));
  else if (event.key === "+" || event.key === "=") map.zoom.scaleBy(target, 1.5);
  else if (event.key === "-") map.zoom.scaleBy(target, 1 / 1.5);
  else if (event.key === "0") map.zoom.transform(target, d3.zoomIdentity);
  else if (event.key === "Enter") {
    const found = scatter.find(scatter.width / 2, scatter.height / 2, 4000);
    if (found >= 0) pickOnMap(found);
  } else return;
  event.preventDefault();
}

function clearMap() {
  map.line = null;
  leave();
  pickOnMap(-1);
  select([]);
}

function wire(scatter) {
  const target = d3.select(scatter.overlay);
  target.call(map.zoom).on("dblclick.zoom", null);
  selecting(scatter);
  target
    .on("pointermove.hover", (event) => hover(scatter, event))
    .on("pointerleave", leave)
    .on("focus blur", drawOverlays)
    .on("keydown", (event) => keys(scatter, event))
    .on("click", (event) => {
      if (map.justSelected) return;
      const found = scatter.find(...d3.pointer(event, scatter.overlay));
      pickOnMap(found);
    });
}

// A name among those without a hue gets one.
function colourAnother() {
  const more = el("input", { list: "map-names", placeholder: "Colour another…", "aria-label": "Colour another label", onchange: (event) => {
    const place = map.groups.all.indexOf(event.target.value);
    if (place < 0) return;
    map.wanted = [place, ...map.wanted.filter((each) => each !== place)];
    event.target.value = "";
    recolour();
  } });
  return el("p", { id: "map-more", hidden: true }, more, el("datalist", { id: "map-names" }));
}

function mapTools() {
  const find = el("input", { type: "search", id: "map-search", placeholder: data.labelled ? "Words of a text or a label" : "Words of a text", onchange: () => select(search(find.value), find.value.trim() && `with “${find.value.trim()}”`) });
  const shown = (value) => {
    byId("map-plots").dataset.shown = value;
    for (const { scatter } of map.plots) scatter.resize();
    redraw();
  };
  const narrow = window.innerWidth < 800 && map.plots.length > 1;
  byId("map-plots").dataset.shown = narrow ? "after" : "both";
  const options = colourings();
  return el("div", { class: "tools" },
    choice("Colour by", options, options.length ? options[0][0] : "", (name) => ((map.wanted = []), recolour(name)), { id: "map-colour" }),
    el("label", { class: "field" }, el("span", {}, "Select by words"), find),
    segments("Dragging", [["pan", "Move"], ["box", "Select a box"], ["lasso", "Lasso"]], "pan", (name) => (map.tool = name)),
    map.plots.length > 1 ? segments("Maps", [["both", "Both"], ["before", BEFORE], ["after", AFTER]], narrow ? "after" : "both", shown) : null,
    button("Whole map", () => map.plots.forEach(({ scatter }) => map.zoom.transform(d3.select(scatter.overlay), d3.zoomIdentity)), { class: "quiet" }));
}

function renderMap() {
  const section = byId("map");
  const given = ["before", "after"].filter((when) => data[`map_${when}`]);
  if (!given.length || !data.count) return section.append(missing("map", "There is no projection of the items."));
  map.style = { colours: new Uint32Array(data.count), levels: new Uint8Array(data.count).fill(PLAIN) };
  map.plots = given.map((when) => {
    const name = when === "before" ? BEFORE : AFTER;
    return { when, name, scatter: new Scatter(name, data[`map_${when}`], map.style) };
  });
  map.zoom = d3.zoom().scaleExtent([0.5, 200]).filter((event) => event.type === "wheel" ? event.ctrlKey || event.metaKey || document.activeElement?.classList.contains("overlay") : map.tool === "pan" && !event.shiftKey && !event.button)
    .on("zoom", (event) => {
      for (const { scatter } of map.plots) {
        scatter.transform = event.transform;
        scatter.overlay.__zoom = event.transform;
      }
      map.moving = Boolean(event.sourceEvent);
      redraw();
    })
    .on("end", () => {
      map.moving = false;
      redraw();
    });
  const plots = el("div", { id: "map-plots" }, map.plots.map(({ when, name, scatter }) =>
    el("figure", { class: "plot-frame", "data-when": when }, el("figcaption", {}, visible(name)), scatter.node)));
  section.append(
    el("p", { class: "lead" }, `Each point is an item; points near each other have similar vectors. Both maps follow one zoom, so that you can see where an item went. The vectors are drawn in two dimensions by ${data.late.projection || "an unknown method"}${(data.late.projection || "").startsWith("PaCMAP") ? ", which keeps neighbourhoods" : ""}. Distances between far groups mean little.`),
    plots,
    el("p", { id: "map-help", class: "muted small" }, "Drag to move; wheel (after a click) or + and − to zoom; 0 for the whole map. A click or Enter (nearest to the middle) picks an item; Shift and drag select; Escape clears."),
    el("div", { id: "map-legend" }),
    colourAnother(),
    el("div", { class: "selection" }, el("p", { id: "map-count", "data-count": 0 }, "Nothing is selected"),
      button("Export as CSV", exportSelection, { id: "map-export", disabled: true, class: "quiet" }), button("Clear", clearMap, { id: "map-clear", disabled: true, class: "quiet" })),
    el("ul", { id: "map-list", class: "items" }),
    el("div", { id: "map-picked" }));
  plots.before(mapTools());
  section.addEventListener("keydown", (event) => event.key === "Escape" && event.target.id !== "search" && clearMap());
  map.plots.forEach(({ scatter }) => wire(scatter));
  recolour(colourings().length ? colourings()[0][0] : "split");
  new ResizeObserver(() => {
    for (const { scatter } of map.plots) scatter.resize();
    redraw();
  }).observe(plots);
}
