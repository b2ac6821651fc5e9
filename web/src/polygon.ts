// Which points and squares lie in a polygon.

import type { Box, Point } from "./camera";

/** Tells whether a point lies inside, by the even-odd rule. */
export function inside(polygon: readonly Point[], x: number, y: number): boolean {
  let within = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const a = polygon[i];
    const b = polygon[j];
    if (a.y > y !== b.y > y && x < ((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x) within = !within;
  }
  return within;
}

export type Edge = readonly [Point, Point];

/** The edges of a polygon. */
export function edgesOf(polygon: readonly Point[]): Edge[] {
  return polygon.map((end, i) => [polygon.at(i - 1) as Point, end]);
}

/** The edges that touch a square: none where all of it lies inside a polygon, or all of it outside. */
export function touching(edges: readonly Edge[], box: Box): Edge[] {
  return edges.filter(([start, end]) => crosses(start, end, box));
}

/** Tells whether a line touches a square (Liang and Barsky). */
function crosses(a: Point, b: Point, box: Box): boolean {
  let from = 0;
  let to = 1;
  for (const [start, way, low] of [
    [a.x, b.x - a.x, box.left],
    [a.y, b.y - a.y, box.bottom],
  ]) {
    const high = low + box.side;
    if (way === 0) {
      if (start < low || start > high) return false;
      continue;
    }
    const [near, far] = [(low - start) / way, (high - start) / way].sort((p, q) => p - q);
    from = Math.max(from, near);
    to = Math.min(to, far);
    if (from > to) return false;
  }
  return true;
}
