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
  return edges.filter((edge) => touches(edge, box.left, box.bottom, box.side));
}

/** Tells whether an edge touches a square. */
export function touches([a, b]: Edge, left: number, bottom: number, side: number): boolean {
  if (Math.max(a.x, b.x) < left || Math.min(a.x, b.x) > left + side) return false;
  if (Math.max(a.y, b.y) < bottom || Math.min(a.y, b.y) > bottom + side) return false;
  // All corners lie on one side of its line where the middle is farther from that than any corner from the middle.
  const half = side / 2;
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const far = dx * (bottom + half - a.y) - dy * (left + half - a.x);
  return Math.abs(far) <= half * (Math.abs(dx) + Math.abs(dy));
}
