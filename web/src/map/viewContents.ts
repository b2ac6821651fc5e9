// What there is in view: points, only hidden ones, or nothing.

import { mapX, mapY, type VisibleTile } from "../data/tilePoints";
import type { Camera } from "./camera";
import type { CategoryFilter } from "./categoryFilter";

export type ViewContents = "points" | "hidden points" | "nothing";

/** Returns what the drawn points show in a view, some of which a filter may hide. */
export function viewContents(tiles: readonly VisibleTile[], camera: Camera, filter: CategoryFilter): ViewContents {
  const halfWidth = camera.width / 2 / camera.scale;
  const halfHeight = camera.height / 2 / camera.scale;
  let contents: ViewContents = "nothing";
  for (const { points, count } of tiles) {
    if (!camera.isVisible(points.tile)) continue;
    const values = filter.valuesOf(points);
    for (let i = 0; i < count; i++) {
      const isInView =
        Math.abs(mapX(points, i) - camera.x) <= halfWidth && Math.abs(mapY(points, i) - camera.y) <= halfHeight;
      if (!isInView) continue;
      if (!values || !filter.hidden.has(values[i])) return "points";
      contents = "hidden points";
    }
  }
  return contents;
}
