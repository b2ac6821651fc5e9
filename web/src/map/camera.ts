// The view: a center in map units, and the number of pixels for one unit.

import { clamp, type Box, type Point } from "../data/geometry";

/** A center and a zoom level. Zoom 0 shows the whole map, and each step doubles it. */
export interface ViewTarget extends Point {
  zoom: number;
}

export const MIN_ZOOM = -1;
export const MAX_ZOOM = 12;
/** Share of the shorter side of the screen that the whole map takes at zoom 0. */
const FIT_SHARE = 0.94;

export class Camera {
  x: number;
  y: number;
  zoom = 0;
  /** Size of the screen in pixels. */
  width = 1;
  height = 1;

  constructor(readonly extent: Box) {
    this.x = extent.left + extent.side / 2;
    this.y = extent.bottom + extent.side / 2;
  }

  /** Pixels for one map unit. */
  get scale(): number {
    return this.scaleAt(this.zoom);
  }

  /** Center of the screen in pixels. */
  get screenCenter(): Point {
    return { x: this.width / 2, y: this.height / 2 };
  }

  scaleAt(zoom: number): number {
    return ((Math.min(this.width, this.height) * FIT_SHARE) / this.extent.side) * 2 ** zoom;
  }

  toScreen(x: number, y: number): Point {
    return { x: (x - this.x) * this.scale + this.width / 2, y: this.height / 2 - (y - this.y) * this.scale };
  }

  toMap(px: number, py: number): Point {
    return { x: this.x + (px - this.width / 2) / this.scale, y: this.y - (py - this.height / 2) / this.scale };
  }

  panBy(px: number, py: number): void {
    this.moveTo(this.x - px / this.scale, this.y + py / this.scale, this.zoom);
  }

  /** Zooms so that the map position under a pixel stays there. */
  zoomAt(px: number, py: number, steps: number): void {
    const fixed = this.toMap(px, py);
    this.zoom = clamp(this.zoom + steps, MIN_ZOOM, MAX_ZOOM);
    const zoomed = this.toMap(px, py);
    this.moveTo(this.x + fixed.x - zoomed.x, this.y + fixed.y - zoomed.y, this.zoom);
  }

  moveTo(x: number, y: number, zoom: number): void {
    const { left, bottom, side } = this.extent;
    this.x = clamp(x, left, left + side);
    this.y = clamp(y, bottom, bottom + side);
    this.zoom = clamp(zoom, MIN_ZOOM, MAX_ZOOM);
  }

  /** Returns whether some of a square is on the screen. */
  isVisible(box: Box): boolean {
    const halfWidth = this.width / 2 / this.scale;
    const halfHeight = this.height / 2 / this.scale;
    return (
      box.left <= this.x + halfWidth &&
      box.left + box.side >= this.x - halfWidth &&
      box.bottom <= this.y + halfHeight &&
      box.bottom + box.side >= this.y - halfHeight
    );
  }

  /** Returns the share of a square's area that is on the screen. */
  visibleShare(box: Box): number {
    const overlap = (low: number, center: number, pixels: number): number => {
      const half = pixels / 2 / this.scale;
      return Math.max(0, Math.min(low + box.side, center + half) - Math.max(low, center - half)) / box.side;
    };
    return overlap(box.left, this.x, this.width) * overlap(box.bottom, this.y, this.height);
  }
}
