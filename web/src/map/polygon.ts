// Tests which points and squares lie in a polygon.

import type { Box, Point } from "../data/geometry";

/** Returns whether a point lies inside, by the even-odd rule. */
export function isInside(polygon: readonly Point[], x: number, y: number): boolean {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const a = polygon[i];
    const b = polygon[j];
    if (a.y > y !== b.y > y && x < ((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x) inside = !inside;
  }
  return inside;
}

export type Edge = readonly [Point, Point];

/** Returns the edges of a polygon. */
export function edgesOf(polygon: readonly Point[]): Edge[] {
  return polygon.map((end, i) => [polygon[(i || polygon.length) - 1], end]);
}

/** Returns the edges that intersect a square: none if all of it lies inside the polygon, or all of it outside. */
export function intersectingEdges(edges: readonly Edge[], box: Box): Edge[] {
  return edges.filter((edge) => intersects(edge, box.left, box.bottom, box.side));
}

/** Returns whether an edge intersects a square. */
export function intersects([a, b]: Edge, left: number, bottom: number, side: number): boolean {
  if (Math.max(a.x, b.x) < left || Math.min(a.x, b.x) > left + side) return false;
  if (Math.max(a.y, b.y) < bottom || Math.min(a.y, b.y) > bottom + side) return false;
  // The line misses the square if the center is farther from it than every corner is from the center, measured
  // perpendicular to the line.
  const half = side / 2;
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const centerDistance = dx * (bottom + half - a.y) - dy * (left + half - a.x);
  return Math.abs(centerDistance) <= half * (Math.abs(dx) + Math.abs(dy));
}
