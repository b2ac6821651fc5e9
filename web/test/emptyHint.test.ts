import { describe, expect, it } from "vitest";
import type { Column } from "../src/data/site";
import { CategoryFilter } from "../src/map/categoryFilter";
import { viewContents } from "../src/map/viewContents";
import { describeEmptiness } from "../src/ui/emptyHint";
import { createCamera, createPoints, createTile } from "./helpers";

const COLUMN: Column = {
  name: "kind",
  kind: "category",
  in_tiles: true,
  categories: [
    { label: "a", n: 2 },
    { label: "b", n: 1 },
  ],
};
const hiding = (...hidden: number[]): CategoryFilter => new CategoryFilter(COLUMN, new Set(hidden));

describe("viewContents", () => {
  const tile = createTile("0/0-0", 0, 0, 1);
  const positions = [
    { x: 0.1, y: 0.1 },
    { x: 0.2, y: 0.1 },
    { x: 0.9, y: 0.9 },
  ];
  const points = createPoints(tile, positions, [["kind", Uint8Array.of(0, 0, 1)]]);

  /** Returns what is in the square of a side around a position. */
  function contentsAt(x: number, y: number, side: number, filter: CategoryFilter, count = 3): string {
    const camera = createCamera(100, 100, { left: 0, bottom: 0, side });
    // Unlike `moveTo`, this does not confine the camera to its extent.
    Object.assign(camera, { x, y });
    return viewContents([{ points, count }], camera, filter);
  }

  it("tells points from hidden ones and from nothing", () => {
    expect(contentsAt(0.1, 0.1, 0.1, hiding())).toBe("points");
    expect(contentsAt(0.1, 0.1, 0.1, hiding(1))).toBe("points");
    expect(contentsAt(0.1, 0.1, 0.1, hiding(0))).toBe("hidden points");
    expect(contentsAt(0.5, 0.5, 0.1, hiding())).toBe("nothing");
    expect(contentsAt(0.5, 0.5, 1, hiding(0))).toBe("points");
    expect(contentsAt(5, 5, 1, hiding())).toBe("nothing");
  });

  it("counts only points that are drawn", () => {
    expect(contentsAt(0.9, 0.9, 0.1, hiding())).toBe("points");
    expect(contentsAt(0.9, 0.9, 0.1, hiding(), 2)).toBe("nothing");
  });
});

describe("describeEmptiness", () => {
  it("names the reason and the way out", () => {
    expect(describeEmptiness("points", hiding(0), 3)).toBeNull();
    expect(describeEmptiness("nothing", hiding(), 0)).toEqual({ message: "This map has no points.", remedy: null });
    expect(describeEmptiness("nothing", hiding(0), 3)?.remedy).toBe("show the map");
    expect(describeEmptiness("hidden points", hiding(0), 3)?.message).toBe("All points here are hidden.");
    expect(describeEmptiness("hidden points", hiding(0, 1), 3)?.message).toBe("All categories are hidden.");
    expect(describeEmptiness("nothing", hiding(0, 1), 3)?.remedy).toBe("show categories");
  });
});
