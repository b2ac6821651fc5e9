// Where the eye is: a centre in the units of the map, and how many pixels a unit takes.

export interface Point {
  x: number;
  y: number;
}

export interface Box {
  left: number;
  bottom: number;
  side: number;
}

/** Zoom 0 shows the whole map, and each step doubles it. */
export const MOST_ZOOM = 12;
const LEAST_ZOOM = -1;
const MARGIN = 0.94;

export class Camera {
  x: number;
  y: number;
  zoom = 0;
  width = 1;
  height = 1;

  constructor(readonly whole: Box) {
    this.x = whole.left + whole.side / 2;
    this.y = whole.bottom + whole.side / 2;
  }

  /** Pixels for one unit of the map. */
  get scale(): number {
    return ((Math.min(this.width, this.height) * MARGIN) / this.whole.side) * 2 ** this.zoom;
  }

  toScreen(x: number, y: number): Point {
    return { x: (x - this.x) * this.scale + this.width / 2, y: this.height / 2 - (y - this.y) * this.scale };
  }

  toMap(px: number, py: number): Point {
    return { x: this.x + (px - this.width / 2) / this.scale, y: this.y - (py - this.height / 2) / this.scale };
  }

  moveBy(px: number, py: number): void {
    this.place(this.x - px / this.scale, this.y + py / this.scale, this.zoom);
  }

  /** Zooms so that what is at a pixel stays there. */
  zoomAt(px: number, py: number, steps: number): void {
    const fixed = this.toMap(px, py);
    this.zoom = clamp(this.zoom + steps, LEAST_ZOOM, MOST_ZOOM);
    const now = this.toMap(px, py);
    this.place(this.x + fixed.x - now.x, this.y + fixed.y - now.y, this.zoom);
  }

  place(x: number, y: number, zoom: number): void {
    const { left, bottom, side } = this.whole;
    this.x = clamp(x, left, left + side);
    this.y = clamp(y, bottom, bottom + side);
    this.zoom = clamp(zoom, LEAST_ZOOM, MOST_ZOOM);
  }

  /** Tells whether a square lies in the view. */
  sees(box: Box): boolean {
    const half = { x: this.width / 2 / this.scale, y: this.height / 2 / this.scale };
    return (
      box.left <= this.x + half.x &&
      box.left + box.side >= this.x - half.x &&
      box.bottom <= this.y + half.y &&
      box.bottom + box.side >= this.y - half.y
    );
  }

  /** Share of a square that lies in the view. */
  shareSeen(box: Box): number {
    const overlap = (low: number, at: number, pixels: number): number => {
      const half = pixels / 2 / this.scale;
      return Math.max(0, Math.min(low + box.side, at + half) - Math.max(low, at - half)) / box.side;
    };
    return overlap(box.left, this.x, this.width) * overlap(box.bottom, this.y, this.height);
  }
}

/** Views on the way from one place to another: out and in again when they are far apart (van Wijk and Nuij, 2003). */
export function flight(
  from: { x: number; y: number; width: number },
  to: { x: number; y: number; width: number },
): { length: number; at: (share: number) => { x: number; y: number; width: number } } {
  const rho = Math.SQRT2;
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const d2 = dx * dx + dy * dy;
  const d1 = Math.sqrt(d2);
  if (d1 < 1e-6 * Math.min(from.width, to.width)) {
    const length = Math.log(to.width / from.width) / rho;
    return {
      length: Math.abs(length),
      at: (t) => ({ x: from.x + t * dx, y: from.y + t * dy, width: from.width * Math.exp(rho * t * length) }),
    };
  }
  const rho2 = rho * rho;
  const b0 = (to.width ** 2 - from.width ** 2 + rho2 * rho2 * d2) / (2 * from.width * rho2 * d1);
  const b1 = (to.width ** 2 - from.width ** 2 - rho2 * rho2 * d2) / (2 * to.width * rho2 * d1);
  const r0 = Math.log(Math.sqrt(b0 * b0 + 1) - b0);
  const r1 = Math.log(Math.sqrt(b1 * b1 + 1) - b1);
  const length = (r1 - r0) / rho;
  return {
    length: Math.abs(length),
    at: (t) => {
      const s = t * length;
      const u = (from.width / (rho2 * d1)) * (Math.cosh(r0) * Math.tanh(rho * s + r0) - Math.sinh(r0));
      return { x: from.x + u * dx, y: from.y + u * dy, width: (from.width * Math.cosh(r0)) / Math.cosh(rho * s + r0) };
    },
  };
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}
