// The view of LiveMap: a canvas with the layout, and beside it stages, loss and workers. No library, no network.

const NS = "http://www.w3.org/2000/svg";
// From few to many points a pixel, on a dark and on a light ground.
const RAMPS = {
  dark: [[38, 92, 168], [64, 158, 224], [214, 240, 255]],
  light: [[130, 180, 228], [40, 104, 178], [8, 34, 82]],
};
const MOST_ZOOM = 200;

function node(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function count(value) {
  if (value === null || value === undefined) return "";
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  return value >= 100 ? Math.round(value).toLocaleString("en") : `${Number(value.toPrecision(3))}`;
}

function time(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const rest = `${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

function isDark(element) {
  const [r, g, b] = (getComputedStyle(element).color.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 128; // light letters
}

// Shows points, or a picture of them; the wheel zooms, dragging moves, a double click shows all.
class Picture {
  constructor(canvas, size) {
    this.canvas = canvas;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    [this.width, this.height] = size.map((side) => Math.round(side * this.ratio));
    canvas.width = this.width;
    canvas.height = this.height;
    canvas.style.aspectRatio = `${size[0]} / ${size[1]}`;
    this.points = new Uint16Array(0);
    this.bitmap = null;
    this.reset();
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    canvas.addEventListener("dblclick", () => { this.reset(); this.draw(); });
  }

  reset() {
    this.zoom = 1;
    this.middle = [0.5, 0.5];
  }

  async show(frame, data) {
    const bytes = data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(0);
    if (frame.kind === "png") {
      this.bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
      this.points = new Uint16Array(0);
    } else {
      this.bitmap = null;
      this.points = new Uint16Array(bytes.slice().buffer);
    }
    this.draw();
  }

  // Pixels a unit of the square that holds all points.
  scale() {
    return this.bitmap ? this.width * this.zoom : 0.96 * Math.min(this.width, this.height) * this.zoom;
  }

  wheel(event) {
    event.preventDefault();
    const before = this.scale();
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * Math.exp(-event.deltaY / 400)));
    const away = [
      (event.offsetX / this.canvas.clientWidth - 0.5) * this.width,
      (0.5 - event.offsetY / this.canvas.clientHeight) * this.height,
    ];
    // What is under the pointer stays there.
    this.middle = this.middle.map((m, axis) => m + away[axis] / before - away[axis] / this.scale());
    if (this.zoom === 1) this.reset();
    this.draw();
  }

  drag(event) {
    if (!event.buttons) return;
    const per = this.width / this.canvas.clientWidth / this.scale();
    this.middle = [this.middle[0] - event.movementX * per, this.middle[1] + event.movementY * per];
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    const { width, height } = this;
    context.clearRect(0, 0, width, height);
    const scale = this.scale();
    if (this.bitmap) {
      const tall = (scale * this.bitmap.height) / this.bitmap.width;
      const left = width / 2 - this.middle[0] * scale;
      const top = height / 2 - (1 - this.middle[1]) * tall;
      context.drawImage(this.bitmap, left, top, scale, tall);
      return;
    }
    if (!this.points.length) return;
    const counts = this.counts(scale);
    let most = 1;
    for (const c of counts) if (c > most) most = c;
    const ramp = RAMPS[isDark(this.canvas) ? "dark" : "light"];
    const image = context.createImageData(width, height);
    const logs = 1 / Math.log(1 + most);
    for (let i = 0; i < counts.length; i += 1) {
      if (counts[i]) {
        const at = most === 1 ? 1 : 2 * Math.log(1 + counts[i]) * logs;
        const [low, high] = at < 1 ? [ramp[0], ramp[1]] : [ramp[1], ramp[2]];
        const part = at < 1 ? at : at - 1;
        for (let channel = 0; channel < 3; channel += 1) {
          image.data[4 * i + channel] = low[channel] + part * (high[channel] - low[channel]);
        }
        image.data[4 * i + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  // How many points touch each pixel; where there are few, each is a square of several pixels.
  counts(scale) {
    const { width, height, points } = this;
    const counts = new Uint16Array(width * height);
    const n = points.length / 2;
    const side = Math.max(1, Math.min(Math.round(3 * this.ratio), Math.round(Math.sqrt((0.3 * width * height) / n))));
    const unit = scale / 65535;
    const left = width / 2 - this.middle[0] * scale - side / 2;
    const top = height / 2 + this.middle[1] * scale - side / 2;
    for (let p = 0; p < n; p += 1) {
      const x = Math.round(left + points[2 * p] * unit);
      const y = Math.round(top - points[2 * p + 1] * unit);
      if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
      for (let dy = 0; dy < side; dy += 1) {
        const row = (y + dy) * width + x;
        for (let dx = 0; dx < side; dx += 1) if (counts[row + dx] < 65535) counts[row + dx] += 1;
      }
    }
    return counts;
  }
}

const STATES = { running: "Running", finished: "Finished", stopped: "Stopped", failed: "Failed" };

function stageRows(stages) {
  return stages.map((stage) => {
    const row = node("tr", `nomad-${stage.state}`);
    row.append(node("th", stage.name.startsWith("coarse ") ? "nomad-part" : "", stage.name));
    const bar = node("progress");
    const share = stage.total ? stage.done / stage.total : 0;
    bar.max = 1;
    if (stage.state !== "running") bar.value = 1;
    else if (share) bar.value = share;
    bar.setAttribute("aria-label", stage.name);
    const cell = node("td");
    cell.append(bar);
    const rate = stage.rate ? `${count(stage.rate)} ${stage.unit}/s` : "";
    const ended = stage.state === "earlier" ? "done before" : stage.seconds !== null ? time(stage.seconds) : null;
    row.append(cell, node("td", "nomad-number", rate));
    row.append(node("td", "nomad-number", ended ?? (stage.left === null ? "" : `${time(stage.left)} left`)));
    return row;
  });
}

function lossCurve(losses, n_epochs) {
  const [width, height] = [320, 90];
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "nomad-loss" });
  const title = svg("title", {});
  picture.append(title);
  if (losses.length < 2) return picture;
  const values = losses.map((pair) => pair[1]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  title.textContent = `Loss by epoch, from ${values[0].toFixed(3)} to ${values[values.length - 1].toFixed(3)}`;
  const x = (epoch) => 4 + (epoch / n_epochs) * (width - 8);
  const y = (loss) => 8 + ((high - loss) / (high - low || 1)) * (height - 16);
  const points = losses.map(([epoch, loss]) => `${x(epoch).toFixed(1)},${y(loss).toFixed(1)}`).join(" ");
  picture.append(svg("line", { x1: 4, x2: width - 4, y1: height - 4, y2: height - 4, class: "nomad-axis" }));
  picture.append(svg("polyline", { points, class: "nomad-curve" }));
  return picture;
}

function workerRows(workers) {
  return workers.map((worker) => {
    const row = node("tr");
    const shards = worker.shards.length > 8 ? `${worker.shards.length} shards` : `shard ${worker.shards.join(", ")}`;
    row.append(node("th", "nomad-address", worker.address), node("td", "", worker.device), node("td", "", shards));
    row.append(node("td", "nomad-number", `${count(worker.rows)} rows`));
    row.append(node("td", "nomad-number", worker.rate ? `${count(worker.rate)} rows/s` : ""));
    return row;
  });
}

function table(name, rows) {
  const made = node("table", name);
  made.append(...rows);
  return made;
}

function panel(figures) {
  const parts = [];
  const head = node("div", "nomad-head");
  head.append(node("strong", "", STATES[figures.state]));
  head.append(node("span", "", time(figures.seconds)));
  // A button here would not be heard: a kernel reads the messages of widgets when the cell has ended.
  if (figures.state === "running") head.append(node("span", "nomad-hint", "interrupt the kernel to stop"));
  parts.push(head);
  if (figures.said) parts.push(node("p", "nomad-said", figures.said));
  parts.push(table("nomad-stages", stageRows(figures.stages)));
  if (figures.losses.length) {
    const last = figures.losses[figures.losses.length - 1];
    const [done, all] = figures.epoch;
    parts.push(node("div", "nomad-label", `loss ${last[1].toFixed(4)}, epoch ${done} of ${all}`));
    parts.push(lossCurve(figures.losses, all));
  }
  if (figures.workers.length) parts.push(table("nomad-workers", workerRows(figures.workers)));
  for (const address of figures.lost) parts.push(node("div", "nomad-lost", `worker ${address} was lost`));
  if (figures.dashboard && /^https?:\/\//.test(figures.dashboard)) {
    const link = node("a", "", "Dask dashboard");
    link.href = figures.dashboard;
    link.target = "_blank";
    link.rel = "noopener";
    parts.push(link);
  }
  return parts;
}

function render({ model, el }) {
  const size = model.get("size");
  const root = node("div", "nomad-live");
  const left = node("div", "nomad-map");
  const canvas = node("canvas");
  canvas.setAttribute("role", "img");
  const caption = node("div", "nomad-label", "The layout has not begun.");
  left.style.maxWidth = `${size[0]}px`;
  left.append(canvas, caption);
  const side = node("div", "nomad-side");
  root.append(left, side);
  el.append(root);
  const picture = new Picture(canvas, size);
  const showFigures = () => {
    const figures = model.get("figures");
    if (figures.state) side.replaceChildren(...panel(figures));
  };
  let waiting = false;
  const showFrame = () => {
    // Frame and data come together, in two changes.
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const frame = model.get("frame");
      if (!frame.kind) return;
      const part = frame.n_points < frame.n_rows ? `${frame.n_points.toLocaleString("en")} of ` : "";
      const text = `epoch ${frame.epoch} of ${frame.n_epochs}, ${part}${frame.n_rows.toLocaleString("en")} points`;
      caption.textContent = text;
      canvas.setAttribute("aria-label", `The layout: ${text}`);
      picture.show(frame, model.get("data"));
    });
  };
  model.on("change:figures", showFigures);
  model.on("change:frame", showFrame);
  model.on("change:data", showFrame);
  showFigures();
  showFrame();
  return () => {
    model.off("change:figures", showFigures);
    model.off("change:frame", showFrame);
    model.off("change:data", showFrame);
  };
}

export default { render };
