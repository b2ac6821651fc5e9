// Builds the inputs of tests.

import type { Point } from "../src/data/geometry";
import type { Tile } from "../src/data/quadtree";
import type { Site } from "../src/data/site";
import type { TilePoints } from "../src/data/tilePoints";
import { Camera } from "../src/map/camera";

/** Returns a generator of numbers from 0 to 1 with a seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let hash = Math.imul(state ^ (state >>> 15), 1 | state);
    hash = (hash + Math.imul(hash ^ (hash >>> 7), 61 | hash)) ^ hash;
    return ((hash ^ (hash >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function createCamera(width: number, height: number, extent = { left: 0, bottom: 0, side: 1 }): Camera {
  const camera = new Camera(extent);
  camera.width = width;
  camera.height = height;
  return camera;
}

/** Returns a tile without children. */
export function createTile(name: string, left: number, bottom: number, side: number, z = 0, n = 100): Tile {
  return { name, z, n, left, bottom, side, steps: 65536, children: [] };
}

/** Returns the root of a complete quadtree over the unit square, with `n` points in each tile. */
export function createQuadtree(depth: number, n = 100): Tile {
  const create = (z: number, x: number, y: number): Tile => {
    const side = 2 ** -z;
    const tile = createTile(`${z}/${x}-${y}`, x * side, y * side, side, z, n);
    if (z < depth) {
      for (const dy of [0, 1]) for (const dx of [0, 1]) tile.children.push(create(z + 1, 2 * x + dx, 2 * y + dy));
    }
    return tile;
  };
  return create(0, 0, 0);
}

/** Returns all tiles of a tree. */
export function allTiles(tile: Tile): Tile[] {
  return [tile, ...tile.children.flatMap(allTiles)];
}

/** Stores positions in a tile as the exporter does: as the quantization steps that they lie in. */
export function createPoints(
  tile: Tile,
  positions: readonly Point[],
  values: [string, Uint8Array | Float32Array][] = [],
  firstRow = 0,
): TilePoints {
  const step = tile.side / tile.steps;
  return {
    tile,
    n: positions.length,
    row: Uint32Array.from(positions, (_, i) => firstRow + i),
    x: Uint16Array.from(positions, ({ x }) => Math.floor((x - tile.left) / step)),
    y: Uint16Array.from(positions, ({ y }) => Math.floor((y - tile.bottom) / step)),
    values: new Map(values),
    loadedAt: 0,
  };
}

export function createSite(changes: Partial<Site> = {}): Site {
  return {
    version: 1,
    title: "Test",
    n: 1000,
    extent: [0, 0, 1, 1],
    tile_rows: 100,
    steps: 65536,
    depth: 3,
    columns: [],
    hover: [],
    text_rows: 10,
    search: null,
    overview: null,
    tiles: "tiles",
    ...changes,
  };
}

/** Returns whether a point lies in a simple polygon: the angles that its edges subtend add up to a full turn. */
export function isInsideByAngles(polygon: readonly Point[], x: number, y: number): boolean {
  let turn = 0;
  polygon.forEach((end, i) => {
    const start = polygon[(i || polygon.length) - 1];
    const difference = Math.atan2(end.y - y, end.x - x) - Math.atan2(start.y - y, start.x - x);
    turn += difference - 2 * Math.PI * Math.round(difference / (2 * Math.PI));
  });
  return Math.abs(turn) > Math.PI;
}

/** Returns a polygon without self-intersections around a center. */
export function starShapedPolygon(random: () => number, center: Point, radius: number, n: number): Point[] {
  return Array.from({ length: n }, (_, i) => {
    const angle = (2 * Math.PI * i) / n;
    const r = radius * (0.3 + 0.7 * random());
    return { x: center.x + r * Math.cos(angle), y: center.y + r * Math.sin(angle) };
  });
}
