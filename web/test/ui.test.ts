import { describe, expect, it } from "vitest";
import { LevelOfDetail } from "../src/map/levelOfDetail";
import { formatCount, formatValue, plural } from "../src/ui/format";
import { simplifyPath } from "../src/ui/lassoPath";
import { toggleCategory } from "../src/ui/legendState";
import { describeRow } from "../src/ui/rowDescription";
import { createSite } from "./helpers";

describe("numbers", () => {
  it("have thousands separators and plurals", () => {
    expect(formatCount(1234567)).toBe("1,234,567");
    expect([plural(1, "row"), plural(0, "row"), plural(2000, "row")]).toEqual(["1 row", "0 rows", "2,000 rows"]);
  });

  it.each([
    [1987.25, 100, "1987"],
    [1987.25, 1, "1987.3"],
    [0.1234, 0.5, "0.12"],
    [12345, 10000, "12,345"],
    [2.5e7, 1e7, "2.5e+7"],
    [1.5e-7, 1e-7, "1.5e-7"],
  ])("%d within a span of %d is %s", (value, span, text) => {
    expect(formatValue(value, span)).toBe(text);
  });
});

describe("toggleCategory", () => {
  it("hides a category and shows it again", () => {
    expect(toggleCategory(new Set([2]), 0, 4, false)).toEqual(new Set([0, 2]));
    expect(toggleCategory(new Set([0, 2]), 0, 4, false)).toEqual(new Set([2]));
  });

  it("shows only one category, and all again", () => {
    expect(toggleCategory(new Set([1]), 1, 4, true)).toEqual(new Set([0, 2, 3]));
    expect(toggleCategory(new Set([0, 2, 3]), 1, 4, true)).toEqual(new Set());
  });
});

describe("simplifyPath", () => {
  it("drops points that are closer than 3 pixels to the last one that is kept", () => {
    const path = [0, 1, 2, 3, 5, 6, 20].map((x) => ({ x, y: 0 }));
    expect(simplifyPath(path).map(({ x }) => x)).toEqual([0, 3, 6, 20]);
    expect(simplifyPath([])).toEqual([]);
  });
});

describe("describeRow", () => {
  it("lists the values that there are, shortened, or the number of the row", () => {
    const site = createSite({ hover: ["title", "note", "body"] });
    const row = { row: 1233, x: 0, y: 0, values: ["A", null, "x".repeat(300)] };
    expect(describeRow(row, site)).toBe(`title: A, body: ${"x".repeat(200)}`);
    expect(describeRow({ ...row, values: [null, null, ""] }, site)).toBe("Row 1,233");
  });
});

describe("LevelOfDetail", () => {
  /** Returns the factor after frames that take some time. */
  function factorAfter(nFrames: number, frameMs: number, isMoving = true, level = new LevelOfDetail()): number {
    for (let i = 0; i < nFrames; i++) level.update(10_000 + i * frameMs, isMoving);
    return level.factor;
  }

  it("draws less while frames are slow, down to a tenth", () => {
    // The first frame follows a long gap, which says nothing.
    expect(factorAfter(1, 100)).toBe(1);
    expect(factorAfter(3, 100)).toBeCloseTo(0.7225, 10); // 0.85²
    expect(factorAfter(100, 100)).toBe(0.1);
    expect(factorAfter(100, 100, false)).toBe(1);
  });

  it("draws everything again when frames are fast", () => {
    const level = new LevelOfDetail();
    expect(factorAfter(100, 100, true, level)).toBe(0.1);
    expect(factorAfter(100, 10, true, level)).toBe(1);
  });
});
