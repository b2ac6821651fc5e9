// Simplifies the path of a lasso.

import type { Point } from "../data/geometry";

const MIN_PIXELS = 3;

/** Drops points that are closer than a few pixels to the one before. */
export function simplifyPath(path: readonly Point[]): Point[] {
  const simplified: Point[] = [];
  for (const point of path) {
    const last = simplified.at(-1);
    if (!last || Math.hypot(point.x - last.x, point.y - last.y) >= MIN_PIXELS) simplified.push(point);
  }
  return simplified;
}
