// Points on a canvas. Pixels are written one by one into a typed array, which needs no GPU and no library,
// and stays fluid at 100,000 points. A second canvas on top holds what changes with the pointer.

const DIM = 0;
const PLAIN = 1;
const BRIGHT = 2;
const MANY = 20000;

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
    this.tree = null;
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

  draw(background) {
    if (!this.image && !this.resize()) return;
    const { width, height } = this.points;
    const { pixels, places, ratio } = this;
    const { colours, levels } = this.style;
    const frame = this.frame();
    const [unit, left, top] = [frame.unit * ratio, frame.left * ratio, frame.top * ratio];
    const radius = this.radius() * ratio;
    pixels.fill(background);
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
    this.context.putImageData(this.image, 0, 0);
  }

  // A tree of the points, which finds the nearest one.
  grow() {
    this.tree ||= d3
      .quadtree()
      .x((i) => this.places[2 * i])
      .y((i) => this.places[2 * i + 1])
      .addAll(Array.from({ length: data.count }, (_, i) => i));
  }

  // The item whose point is nearest to a place in CSS pixels, at most `reach` of them away; -1 if there is none.
  find(x, y, reach = 12) {
    this.grow();
    const { unit, left, top } = this.frame();
    return this.tree.find((x - left) / unit, (y - top) / unit, reach / unit) ?? -1;
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
