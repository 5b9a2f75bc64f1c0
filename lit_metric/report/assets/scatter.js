// Points on a canvas. Pixels are written one by one into a typed array, which needs no GPU and no library,
// and stays fluid at 100,000 points. A second canvas on top holds what changes with the pointer.

const DIM = 0;
const PLAIN = 1;
const BRIGHT = 2;
const MANY = 20000;
const CELLS = 256; // of the grid that finds points, in each direction

// A disc as offsets from its middle, each with how much of its pixel is covered (0 .. 255).
function disc(radius) {
  const reach = Math.ceil(radius);
  const found = [];
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      const covered = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(dx, dy)));
      if (covered > 0.1) found.push([dx, dy, Math.round(covered * 255)]);
    }
  }
  return found;
}

class Scatter {
  // places: x and y of each item in turn, 0 .. 65535; style: {colours: ABGR of each item, levels: of each item}
  constructor(name, places, style) {
    this.places = places;
    this.style = style;
    this.transform = d3.zoomIdentity;
    this.points = el("canvas", { class: "points", "aria-hidden": "true" });
    this.overlay = el("canvas", { class: "overlay", tabindex: "0", role: "application", "aria-roledescription": "map", "aria-label": `Map, ${name}`, "aria-describedby": "map-help" });
    this.node = el("div", { class: "plot" }, this.points, this.overlay);
    this.grid = null;
  }

  resize() {
    const box = this.node.getBoundingClientRect();
    const ratio = data.count > MANY ? 1 : Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    this.size = Math.min(box.width, box.height);
    if (!width || !height) return false;
    if (this.points.width !== width || this.points.height !== height || !this.image) {
      for (const canvas of [this.points, this.overlay]) Object.assign(canvas, { width, height });
      this.context = this.points.getContext("2d", { alpha: false, willReadFrequently: true });
      this.image = this.context.createImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    this.ratio = ratio;
    this.width = box.width;
    this.height = box.height;
    return true;
  }

  // The map fills the smaller side, with room around it; from 0 .. 65535 to CSS pixels.
  frame() {
    const room = 16;
    const unit = (this.size - 2 * room) / 65535;
    const { k, x, y } = this.transform;
    return { unit: unit * k, left: ((this.width - this.size) / 2 + room) * k + x, top: ((this.height - this.size) / 2 + room) * k + y };
  }

  at(i) {
    const { unit, left, top } = this.frame();
    return [left + this.places[2 * i] * unit, top + this.places[2 * i + 1] * unit];
  }

  radius() {
    const base = data.count > 50000 ? 1.1 : data.count > 10000 ? 1.6 : data.count > 2000 ? 2.4 : 3.6;
    return Math.min(9, base * this.transform.k ** 0.35);
  }

  // Of many points in motion, edges are not smoothed: pixels are covered or not.
  draw(background, moving = false) {
    if (!this.image && !this.resize()) return;
    const { pixels, ratio } = this;
    const frame = this.frame();
    const [unit, left, top] = [frame.unit * ratio, frame.left * ratio, frame.top * ratio];
    const radius = this.radius() * ratio;
    pixels.fill(background);
    if (moving && data.count > MANY) this.stamps(background, unit, left, top, radius);
    else this.discs(unit, left, top, radius);
    this.context.putImageData(this.image, 0, 0);
  }

  stamps(background, unit, left, top, radius) {
    const { width, height } = this.points;
    const { pixels, places } = this;
    const { colours, levels } = this.style;
    const part = (colour, shift) => (colour >> shift) & 255;
    const faint = (colour, shift) => Math.round(0.35 * part(colour, shift) + 0.65 * part(background, shift)) << shift;
    for (const level of [DIM, PLAIN, BRIGHT]) {
      const stamp = disc(level === BRIGHT ? radius * 1.35 : radius).filter(([, , covered]) => covered > 127);
      const reach = Math.ceil(radius * 1.35) + 1;
      const offsets = Int32Array.from(stamp, ([dx, dy]) => dy * width + dx);
      const count = offsets.length;
      for (let i = 0, n = levels.length; i < n; i++) {
        if (levels[i] !== level) continue;
        const px = (left + places[2 * i] * unit) | 0;
        const py = (top + places[2 * i + 1] * unit) | 0;
        if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
        let colour = colours[i];
        if (level === DIM) colour = 0xff000000 | faint(colour, 16) | faint(colour, 8) | faint(colour, 0);
        const middle = py * width + px;
        for (let s = 0; s < count; s++) pixels[middle + offsets[s]] = colour;
      }
    }
  }

  discs(unit, left, top, radius) {
    const { width, height } = this.points;
    const { pixels, places } = this;
    const { colours, levels } = this.style;
    for (const level of [DIM, PLAIN, BRIGHT]) {
      const stamp = disc(level === BRIGHT ? radius * 1.35 : radius);
      const reach = Math.ceil(radius * 1.35) + 1;
      const count = stamp.length;
      const offsets = Int32Array.from(stamp, ([dx, dy]) => dy * width + dx);
      const opacity = level === DIM ? 0.35 : level === PLAIN ? 0.85 : 1;
      const covers = Int32Array.from(stamp, ([, , covered]) => Math.round(covered * opacity));
      for (let i = 0, n = levels.length; i < n; i++) {
        if (levels[i] !== level) continue;
        const px = (left + places[2 * i] * unit) | 0;
        const py = (top + places[2 * i + 1] * unit) | 0;
        if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
        const colour = colours[i];
        const [red, green, blue] = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
        const middle = py * width + px;
        for (let s = 0; s < count; s++) {
          const cover = covers[s];
          const place = middle + offsets[s];
          if (cover > 250) {
            pixels[place] = colour;
            continue;
          }
          const under = pixels[place];
          const rest = 255 - cover;
          pixels[place] =
            0xff000000 |
            (((((under >> 16) & 255) * rest + blue * cover) >> 8) << 16) |
            (((((under >> 8) & 255) * rest + green * cover) >> 8) << 8) |
            (((under & 255) * rest + red * cover) >> 8);
        }
      }
    }
  }

  // The points of each cell of a grid, one cell after the other: those of cell c are order[starts[c] .. starts[c + 1]].
  sort() {
    const starts = new Uint32Array(CELLS * CELLS + 1);
    const cells = new Uint16Array(data.count);
    for (let i = 0; i < data.count; i++) {
      cells[i] = (this.places[2 * i + 1] >> 8) * CELLS + (this.places[2 * i] >> 8);
      starts[cells[i] + 1]++;
    }
    for (let cell = 0; cell < CELLS * CELLS; cell++) starts[cell + 1] += starts[cell];
    const next = starts.slice();
    const order = new Uint32Array(data.count);
    for (let i = 0; i < data.count; i++) order[next[cells[i]]++] = i;
    return { starts, order };
  }

  // The point nearest to a place on the map (0 .. 65535), at most `reach` away; -1 if there is none. It looks
  // through rings of cells around the place, until no cell can hold a nearer one.
  nearest(x, y, reach) {
    this.grid ||= this.sort();
    const { starts, order } = this.grid;
    const [column, row] = [x, y].map((value) => Math.max(0, Math.min(CELLS - 1, Math.floor(value / 256))));
    let [best, distance] = [-1, reach * reach];
    const look = (cellX, cellY) => {
      if (cellX < 0 || cellY < 0 || cellX >= CELLS || cellY >= CELLS) return;
      const cell = cellY * CELLS + cellX;
      for (let at = starts[cell]; at < starts[cell + 1]; at++) {
        const i = order[at];
        const found = (this.places[2 * i] - x) ** 2 + (this.places[2 * i + 1] - y) ** 2;
        if (found < distance || (found === distance && best < 0)) [best, distance] = [i, found];
      }
    };
    for (let ring = 0; ring < CELLS && ((ring - 1) * 256) ** 2 <= distance; ring++) {
      for (let step = -ring; step <= ring; step++) {
        look(column + step, row - ring);
        if (ring) look(column + step, row + ring);
      }
      for (let step = 1 - ring; step < ring; step++) {
        look(column - ring, row + step);
        look(column + ring, row + step);
      }
    }
    return best;
  }

  // The item whose point is nearest to a place in CSS pixels, at most `reach` of them away; -1 if there is none.
  find(x, y, reach = 12) {
    const { unit, left, top } = this.frame();
    return this.nearest((x - left) / unit, (y - top) / unit, reach / unit);
  }

  // Items inside of a closed line of CSS pixels.
  inside(line) {
    const { unit, left, top } = this.frame();
    const corners = line.map(([x, y]) => [(x - left) / unit, (y - top) / unit]);
    const xs = corners.map((corner) => corner[0]);
    const ys = corners.map((corner) => corner[1]);
    const [west, east, north, south] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let i = 0; i < data.count; i++) {
      const [x, y] = [this.places[2 * i], this.places[2 * i + 1]];
      if (x < west || x > east || y < north || y > south) continue;
      let within = false;
      for (let a = 0, b = corners.length - 1; a < corners.length; b = a++) {
        if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) within = !within;
      }
      if (within) found.push(i);
    }
    return found;
  }

  // Rings, lines to neighbours, the line of a selection; drawn anew whenever the pointer moves.
  drawOver({ hovered, picked, neighbours, line, colour, cross }) {
    const context = this.overlay.getContext("2d");
    context.setTransform(this.ratio || 1, 0, 0, this.ratio || 1, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    context.strokeStyle = colour;
    context.fillStyle = colour;
    const ring = (i, radius, thick) => {
      const [x, y] = this.at(i);
      context.lineWidth = thick;
      context.beginPath();
      context.arc(x, y, radius, 0, 7);
      context.stroke();
    };
    if (picked >= 0) {
      const [x, y] = this.at(picked);
      context.lineWidth = 1;
      for (const { place } of neighbours || []) {
        const [otherX, otherY] = this.at(place);
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(otherX, otherY);
        context.stroke();
        ring(place, this.radius() + 2, 1);
      }
      ring(picked, this.radius() + 5, 2.5);
    }
    if (hovered >= 0) ring(hovered, this.radius() + 3, 2);
    if (cross) {
      const [x, y] = [this.width / 2, this.height / 2];
      context.lineWidth = 1;
      context.strokeRect(x - 8, y - 0.5, 16, 1);
      context.strokeRect(x - 0.5, y - 8, 1, 16);
    }
    if (line && line.length > 1) {
      context.lineWidth = 1.5;
      context.setLineDash([5, 4]);
      context.beginPath();
      line.forEach(([px, py], place) => (place ? context.lineTo(px, py) : context.moveTo(px, py)));
      context.closePath();
      context.stroke();
      context.setLineDash([]);
    }
  }
}
