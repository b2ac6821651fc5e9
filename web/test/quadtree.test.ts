import { tableFromArrays } from "@uwdata/flechette";
import { describe, expect, it } from "vitest";
import { depthAt, parseQuadtree, type Tile } from "../src/data/quadtree";
import { allTiles, createQuadtree, createRandom } from "./helpers";

const EXTENT = { left: -8, bottom: 16, side: 32 };

function parse(tiles: readonly (readonly [number, number, number, number])[], rootSteps = 65536): Tile | null {
  const column = (k: number): Uint32Array => Uint32Array.from(tiles, (tile) => tile[k]);
  return parseQuadtree(tableFromArrays({ z: column(0), x: column(1), y: column(2), n: column(3) }), EXTENT, rootSteps);
}

describe("parseQuadtree", () => {
  it("computes names, squares and counts", () => {
    const root = parse([
      [0, 0, 0, 50],
      [1, 1, 0, 40],
      [2, 3, 1, 30],
    ]);
    expect(root).toMatchObject({ name: "tiles/0/0-0", z: 0, n: 50, left: -8, bottom: 16, side: 32 });
    const child = root?.children[0];
    expect(child).toMatchObject({ name: "tiles/1/1-0", z: 1, n: 40, left: 8, bottom: 16, side: 16 });
    // The fourth of four columns of 8 units, and the second row.
    expect(child?.children[0]).toMatchObject({ name: "tiles/2/3-1", z: 2, n: 30, left: 16, bottom: 24, side: 8 });
    expect(child?.children[0].children).toEqual([]);
  });

  it("gives each level half as many steps as the one above, but at least 65,536", () => {
    const root = parse(
      [
        [0, 0, 0, 1],
        [1, 0, 0, 1],
        [2, 0, 0, 1],
        [3, 0, 0, 1],
      ],
      4 * 65536,
    );
    expect(root && allTiles(root).map((tile) => tile.steps)).toEqual([262144, 131072, 65536, 65536]);
  });

  it("puts every tile into the one that contains it", () => {
    const tiles: [number, number, number, number][] = [];
    for (let z = 0; z < 4; z++) {
      for (let x = 0; x < 2 ** z; x++) for (let y = 0; y < 2 ** z; y++) tiles.push([z, x, y, 1]);
    }
    const root = parse(tiles);
    expect(root && allTiles(root)).toHaveLength(1 + 4 + 16 + 64);
    for (const tile of root ? allTiles(root) : []) {
      for (const child of tile.children) {
        expect(child.left).toBeGreaterThanOrEqual(tile.left);
        expect(child.bottom).toBeGreaterThanOrEqual(tile.bottom);
        expect(child.left + child.side).toBeLessThanOrEqual(tile.left + tile.side);
        expect(child.bottom + child.side).toBeLessThanOrEqual(tile.bottom + tile.side);
      }
    }
  });

  it("returns null for a map without points", () => {
    expect(parse([])).toBeNull();
  });
});

describe("depthAt", () => {
  it("returns the level of the deepest of all tiles that contain a position", () => {
    const random = createRandom(1);
    const root = createQuadtree(4);
    // Without some of its branches, so that the depth varies.
    for (const tile of allTiles(root)) tile.children = tile.children.filter(() => random() < 0.7);
    const tiles = allTiles(root);
    const depths = new Set<number>();
    for (let i = 0; i < 500; i++) {
      const [x, y] = [random(), random()];
      const containing = tiles.filter(
        (t) => x >= t.left && x < t.left + t.side && y >= t.bottom && y < t.bottom + t.side,
      );
      const expected = Math.max(...containing.map((tile) => tile.z));
      expect(depthAt(root, x, y)).toBe(expected);
      depths.add(expected);
    }
    expect(depths.size).toBeGreaterThan(2);
  });
});
