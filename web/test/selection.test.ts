import { describe, expect, it } from "vitest";
import type { Point } from "../src/data/geometry";
import type { RowText } from "../src/data/rowText";
import type { Tile } from "../src/data/quadtree";
import type { TilePoints } from "../src/data/tilePoints";
import { CategoryFilter } from "../src/map/categoryFilter";
import { intersectingTiles, SelectionSearch, type Selection } from "../src/map/selection";
import { writeCsv } from "../src/map/selectionCsv";
import {
  allTiles,
  createPoints,
  createQuadtree,
  createRandom,
  createSite,
  isInsideByAngles,
  starShapedPolygon,
} from "./helpers";

const SQUARE = [
  { x: 0.3, y: 0.3 },
  { x: 0.45, y: 0.3 },
  { x: 0.45, y: 0.45 },
  { x: 0.3, y: 0.45 },
];
const KIND = { name: "kind", kind: "category", in_tiles: true } as const;
const NO_FILTER = new CategoryFilter(null, new Set());

/** A map with 30 points in each tile of three levels; steps are so coarse that edges often cross them. */
function createMap(random: () => number): { root: Tile; positions: Point[]; points: Map<Tile, TilePoints> } {
  const root = createQuadtree(2);
  const positions: Point[] = [];
  const points = new Map<Tile, TilePoints>();
  for (const tile of allTiles(root)) {
    tile.steps = 16;
    const inTile = Array.from({ length: 30 }, () => ({
      x: tile.left + tile.side * random(),
      y: tile.bottom + tile.side * random(),
    }));
    const kinds = Uint8Array.from(inTile, (_, i) => i % 3);
    points.set(tile, createPoints(tile, inTile, [["kind", kinds]], positions.length));
    positions.push(...inTile);
  }
  return { root, positions, points };
}

function search(map: ReturnType<typeof createMap>): SelectionSearch {
  const rowText = { get: (row: number) => Promise.resolve({ row, ...map.positions[row], values: [] }) };
  const loadPoints = (tile: Tile): TilePoints => {
    const points = map.points.get(tile);
    if (!points) throw new Error(`No tile ${tile.name}`);
    return points;
  };
  return new SelectionSearch(map.root, loadPoints, rowText as unknown as RowText);
}

function rowsOf(selection: Selection | null): number[] {
  return (selection?.tiles ?? []).flatMap((tile) => [...tile.row]).sort((a, b) => a - b);
}

describe("intersectingTiles", () => {
  it("returns the tiles that overlap a square, and the edges that intersect them", () => {
    const tiles = intersectingTiles(createQuadtree(2), SQUARE);
    // The square lies within the root, the lower left quarter, and the last tile of that.
    expect(tiles.map(({ tile }) => tile.name)).toEqual(["0/0-0", "1/0-0", "2/1-1"]);
    expect(tiles.map(({ edges }) => edges.length)).toEqual([4, 4, 4]);
  });

  it("returns tiles inside the polygon without edges", () => {
    const polygon = [
      { x: -1, y: -1 },
      { x: 0.6, y: -1 },
      { x: 0.6, y: 2 },
      { x: -1, y: 2 },
    ];
    const edgeCounts = Object.fromEntries(
      intersectingTiles(createQuadtree(1), polygon).map(({ tile, edges }) => [tile.name, edges.length]),
    );
    expect(edgeCounts).toEqual({ "0/0-0": 1, "1/0-0": 0, "1/1-0": 1, "1/0-1": 0, "1/1-1": 1 });
  });
});

describe("SelectionSearch", () => {
  it("finds exactly the rows whose exact positions lie inside", async () => {
    const random = createRandom(1);
    const map = createMap(random);
    for (let i = 0; i < 20; i++) {
      const polygon = starShapedPolygon(random, { x: random(), y: random() }, 0.5, 12);
      const expected = [...map.positions.keys()].filter((row) =>
        isInsideByAngles(polygon, map.positions[row].x, map.positions[row].y),
      );
      const reports: [number, number][] = [];
      const signal = new AbortController().signal;
      const selection = await search(map).run(polygon, NO_FILTER, (...report) => reports.push(report), signal);
      expect(rowsOf(selection)).toEqual(expected);
      expect(selection?.n).toBe(expected.length);
      const nTiles = reports[0][1];
      expect(reports).toEqual(Array.from({ length: nTiles + 1 }, (_, done) => [done, nTiles]));
    }
  });

  it("leaves out hidden categories", async () => {
    const map = createMap(createRandom(2));
    const everything = starShapedPolygon(() => 1, { x: 0.5, y: 0.5 }, 2, 8);
    const filter = new CategoryFilter(KIND, new Set([0, 2]));
    const selection = await search(map).run(everything, filter, () => undefined, new AbortController().signal);
    // Rows count up tile by tile, 30 per tile, so the category is the remainder of the row.
    expect(rowsOf(selection)).toEqual([...map.positions.keys()].filter((row) => row % 3 === 1));
  });

  it("returns null when it was aborted", async () => {
    const aborted = AbortSignal.abort();
    const map = createMap(createRandom(3));
    expect(await search(map).run(SQUARE, NO_FILTER, () => undefined, aborted)).toBeNull();
  });
});

describe("writeCsv", () => {
  const site = createSite({
    hover: ["name"],
    columns: [
      {
        ...KIND,
        categories: [
          { label: "plain", n: 1 },
          { label: 'a "b", c', n: 1 },
        ],
      },
      { name: "size", kind: "number", in_tiles: true },
    ],
  });
  const selection: Selection = {
    n: 3,
    tiles: [
      {
        row: Uint32Array.of(7, 2),
        values: new Map<string, Uint8Array | Float32Array>([
          ["kind", Uint8Array.of(0, 1)],
          ["size", Float32Array.of(0.1, NaN)],
        ]),
        x: Float64Array.of(0.5, 1 / 3),
        y: Float64Array.of(-1, 2),
      },
      {
        row: Uint32Array.of(5),
        values: new Map<string, Uint8Array | Float32Array>([
          ["kind", Uint8Array.of(0)],
          ["size", Float32Array.of(1e6)],
        ]),
        x: Float64Array.of(4),
        y: Float64Array.of(8),
      },
    ],
  };

  it("writes rows in the order of the map, with numbers as 32-bit floats and quotes where CSV needs them", async () => {
    const csv = await writeCsv(selection, site, null, () => undefined);
    expect(await csv.text()).toBe(
      'row,x,y,kind,size\r\n2,0.3333333,2,"a ""b"", c",\r\n5,4,8,plain,1000000\r\n7,0.5,-1,plain,0.1\r\n',
    );
  });

  it("writes text and exact positions, and tells empty text from a missing one", async () => {
    const names = new Map([
      [2, ""],
      [5, "two\nlines"],
    ]);
    const get = (row: number): unknown => Promise.resolve({ row, x: row / 8, y: 0, values: [names.get(row) ?? null] });
    const csv = await writeCsv(selection, site, { get } as unknown as RowText, () => undefined);
    expect(await csv.text()).toBe(
      'row,x,y,name,kind,size\r\n2,0.25,0,"","a ""b"", c",\r\n' +
        '5,0.625,0,"two\nlines",plain,1000000\r\n7,0.875,0,,plain,0.1\r\n',
    );
  });

  /** Returns the rows of a CSV of one text per row: as text in the tooltip, and as a category. */
  async function writeTexts(texts: readonly string[], keepsFormulas: boolean): Promise<string[]> {
    const site = createSite({
      hover: ["text"],
      columns: [{ ...KIND, name: "=kind", categories: texts.map((label) => ({ label, n: 1 })) }],
    });
    const rows = Uint32Array.from(texts, (_, i) => i);
    const zeros = new Float64Array(texts.length);
    const values = new Map([["=kind", Uint8Array.from(rows)]]);
    const get = (row: number): unknown => Promise.resolve({ row, x: -1, y: 0, values: [texts[row]] });
    const selection = { n: texts.length, tiles: [{ row: rows, values, x: zeros, y: zeros }] };
    const csv = await writeCsv(selection, site, { get } as unknown as RowText, () => undefined, keepsFormulas);
    return (await csv.text()).split("\r\n");
  }

  it.each(["=1+1", "+1", "-1+cmd", "@SUM(A1)", "\tx", "＝1"])(
    "defuses the formula %j, if not told otherwise",
    async (text) => {
      expect(await writeTexts([text, "a=b"], false)).toEqual([
        "row,x,y,text,'=kind",
        `0,-1,0,'${text},'${text}`,
        "1,-1,0,a=b,a=b",
        "",
      ]);
      expect(await writeTexts([text, "a=b"], true)).toEqual([
        "row,x,y,text,=kind",
        `0,-1,0,${text},${text}`,
        "1,-1,0,a=b,a=b",
        "",
      ]);
    },
  );

  it("defuses before it quotes", async () => {
    expect((await writeTexts(['=HYPERLINK("x",1)', "\rx"], false)).slice(1, 2)).toEqual([
      `0,-1,0,"'=HYPERLINK(""x"",1)","'=HYPERLINK(""x"",1)"`,
    ]);
  });

  it("leaves numbers as they are, also those that name categories", async () => {
    // The text column is one of text, in which a minus starts a formula; the labels of the other one are all numbers.
    expect((await writeTexts(["-1", "2.5e-3"], false)).slice(1, 3)).toEqual(["0,-1,0,'-1,-1", "1,-1,0,2.5e-3,2.5e-3"]);
  });
});
