// The drawn point nearest to a place on the screen.

import type { Camera, Point } from "./camera";
import type { Column } from "../data/site";
import { mapX, mapY, type Drawn, type Points } from "../data/tileCache";

export interface Found extends Point {
  row: number;
  points: Points;
  index: number;
}

/** Returns the nearest point within some pixels, or null. Tiles farther than that are passed over. */
export function nearest(
  drawn: readonly Drawn[],
  camera: Camera,
  at: Point,
  reach: number,
  column: Column | null,
  hidden: ReadonlySet<number>,
): Found | null {
  const here = camera.toMap(at.x, at.y);
  const limit = reach / camera.scale;
  let best = limit * limit;
  let found: { points: Points; index: number } | null = null;
  for (const { points, count } of drawn) {
    const { tile, x, y } = points;
    if (
      here.x < tile.left - limit ||
      here.y < tile.bottom - limit ||
      here.x > tile.left + tile.side + limit ||
      here.y > tile.bottom + tile.side + limit
    ) {
      continue;
    }
    const unit = tile.side / tile.steps;
    const px = (here.x - tile.left) / unit - 0.5;
    const py = (here.y - tile.bottom) / unit - 0.5;
    const values = hidden.size && column?.kind === "category" ? points.values.get(column.name) : undefined;
    let near = best / unit ** 2;
    for (let i = 0; i < count; i++) {
      const far = (x[i] - px) ** 2 + (y[i] - py) ** 2;
      if (far <= near && !(values && hidden.has(values[i]))) {
        near = far;
        found = { points, index: i };
      }
    }
    best = Math.min(best, near * unit ** 2);
  }
  if (!found) return null;
  const { points, index } = found;
  return { row: points.row[index], points, index, x: mapX(points, index), y: mapY(points, index) };
}
