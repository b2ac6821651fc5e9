import { describe, expect, it } from "vitest";
import { edgesOf, intersectingEdges, intersects, isInside, type Edge } from "../src/map/polygon";
import { createRandom, isInsideByAngles, starShapedPolygon } from "./helpers";

const L_SHAPE = [
  { x: 0, y: 0 },
  { x: 4, y: 0 },
  { x: 4, y: 1 },
  { x: 1, y: 1 },
  { x: 1, y: 4 },
  { x: 0, y: 4 },
];

/** Clips an edge to a square (Liang and Barsky, 1984): it intersects the square if some of it is left. */
function isLeftByClipping([a, b]: Edge, left: number, bottom: number, side: number): boolean {
  let [start, end] = [0, 1];
  for (const [position, direction, low] of [
    [a.x, b.x - a.x, left],
    [a.y, b.y - a.y, bottom],
  ]) {
    if (direction === 0) {
      if (position < low || position > low + side) return false;
      continue;
    }
    const crossings = [(low - position) / direction, (low + side - position) / direction];
    start = Math.max(start, Math.min(...crossings));
    end = Math.min(end, Math.max(...crossings));
  }
  return start <= end;
}

describe("isInside", () => {
  it.each([
    [0.5, 0.5, true],
    [3.5, 0.5, true],
    [0.5, 3.5, true],
    [2, 2, false],
    [-1, 0.5, false],
    [5, 0.5, false],
    [0.5, 5, false],
  ])("knows whether (%d, %d) lies in an L", (x, y, expected) => {
    expect(isInside(L_SHAPE, x, y)).toBe(expected);
  });

  it("uses the even-odd rule: the center of a pentagram is outside, its points are inside", () => {
    const pentagram = [0, 2, 4, 1, 3].map((i) => ({
      x: Math.sin((2 * Math.PI * i) / 5),
      y: Math.cos((2 * Math.PI * i) / 5),
    }));
    expect(isInside(pentagram, 0, 0)).toBe(false);
    expect(isInside(pentagram, 0, 0.9)).toBe(true);
  });

  it("agrees with the sum of angles for simple polygons", () => {
    const random = createRandom(1);
    for (let i = 0; i < 20; i++) {
      const polygon = starShapedPolygon(random, { x: 0.5, y: 0.5 }, 0.5, 3 + Math.floor(30 * random()));
      for (let k = 0; k < 200; k++) {
        const [x, y] = [random(), random()];
        expect(isInside(polygon, x, y)).toBe(isInsideByAngles(polygon, x, y));
      }
    }
  });

  it("finds nothing inside a line or nothing", () => {
    expect(isInside([], 0, 0)).toBe(false);
    expect(isInside(L_SHAPE.slice(0, 2), 1, 0)).toBe(false);
  });
});

describe("edges", () => {
  it("close the polygon", () => {
    const [a, b, c] = L_SHAPE;
    expect(edgesOf([a, b, c])).toEqual([
      [c, a],
      [a, b],
      [b, c],
    ]);
  });

  it("intersect a square where clipping leaves some of them", () => {
    const random = createRandom(2);
    let nIntersecting = 0;
    for (let i = 0; i < 5000; i++) {
      const edge = [
        { x: random(), y: random() },
        { x: random(), y: random() },
      ] as const;
      const [left, bottom, side] = [random(), random(), 0.3 * random()];
      const expected = isLeftByClipping(edge, left, bottom, side);
      expect(intersects(edge, left, bottom, side)).toBe(expected);
      nIntersecting += Number(expected);
    }
    expect(nIntersecting).toBeGreaterThan(500);
  });

  it("intersect a square that they lie in, touch or cross, also parallel to its sides", () => {
    const edge = (ax: number, ay: number, bx: number, by: number): Edge => [
      { x: ax, y: ay },
      { x: bx, y: by },
    ];
    expect(intersects(edge(0.4, 0.4, 0.6, 0.6), 0, 0, 1)).toBe(true);
    expect(intersects(edge(-1, 0.5, 2, 0.5), 0, 0, 1)).toBe(true);
    expect(intersects(edge(1, -1, 1, 2), 0, 0, 1)).toBe(true);
    expect(intersects(edge(1.01, -1, 1.01, 2), 0, 0, 1)).toBe(false);
    // Its bounding box overlaps the square, but the line passes the corner.
    expect(intersects(edge(0.5, 2, 2, 0.5), 0, 0, 1)).toBe(false);
  });

  it("do not intersect a square that lies wholly inside or outside the polygon", () => {
    const edges = edgesOf(L_SHAPE);
    expect(intersectingEdges(edges, { left: 0.25, bottom: 0.25, side: 0.5 })).toEqual([]);
    expect(intersectingEdges(edges, { left: 2, bottom: 2, side: 1 })).toEqual([]);
    expect(intersectingEdges(edges, { left: 1.5, bottom: 0.5, side: 1 })).toEqual([[L_SHAPE[2], L_SHAPE[3]]]);
  });
});
