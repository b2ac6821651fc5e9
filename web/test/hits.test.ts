import { describe, expect, it } from "vitest";
import { HitPositions } from "../src/search/hitPositions";
import { describeHits, snippetAround, summarizeHit } from "../src/search/hitText";
import { createPoints, createSite, createTile } from "./helpers";

describe("HitPositions", () => {
  it("returns the hits among the points of a tile", () => {
    const tile = createTile("root", 0, 0, 65536);
    const points = createPoints(
      tile,
      [0, 1, 2, 3].map((i) => ({ x: 10 * i, y: 100 * i })),
      [],
      40,
    );
    // A position is the middle of its step, and steps are one unit wide.
    expect(new HitPositions([41, 43, 99]).inTile(points)).toEqual([
      { row: 41, index: 1, x: 10.5, y: 100.5 },
      { row: 43, index: 3, x: 30.5, y: 300.5 },
    ]);
    expect(new HitPositions([]).inTile(points)).toEqual([]);
  });
});

describe("describeHits", () => {
  const hits = { words: ["a"], rows: new Uint32Array(1500), total: 1500, uncertainWords: [] };

  it.each([
    ["1,500 rows", {}, false],
    ["1 row", { total: 1 }, false],
    ["At least 1,500 rows", { total: null }, false],
    ["At most 1,500 rows", { total: null, uncertainWords: ["a"] }, false],
    ["20 rows", { total: null, uncertainWords: ["a"] }, true],
    ["Type words made of letters and digits.", { words: [] }, true],
  ])("says %j", (text, changes, isDone) => {
    expect(describeHits({ ...hits, ...changes }, 20, isDone)).toBe(text);
  });

  it("says that there are none once all rows were read", () => {
    expect(describeHits(hits, 0, true)).toBe("No row has all these words.");
  });
});

describe("snippets", () => {
  it("start with the text where the word is near its start", () => {
    expect(snippetAround("The quick brown fox", ["fox", "quick"])).toBe("The quick brown fox");
  });

  it("start at a word some 30 characters before the first match, and have 160 characters", () => {
    const text = `${"abcd ".repeat(20)}MATCH ${"efgh ".repeat(50)}`;
    const snippet = snippetAround(text, ["match"]);
    expect(snippet.startsWith("…abcd ")).toBe(true);
    expect(snippet.indexOf("MATCH")).toBe(31); // six words of 5 characters after the ellipsis
    expect(snippet).toHaveLength(161);
  });

  it("are empty without a match", () => {
    expect(snippetAround("The quick brown fox", ["dog"])).toBe("");
    expect(snippetAround("The quick brown fox", [])).toBe("");
  });

  it("come from the first searched text after the title that has a word", () => {
    const site = createSite({ hover: ["title", "note", "body"], search: { columns: ["title", "body"], parts: 1 } });
    const row = { row: 1234, x: 0, y: 0, values: ["A cat", "cat note", "the cat body"] };
    expect(summarizeHit(row, ["cat"], site)).toEqual({ title: "A cat", snippet: "the cat body" });
    expect(summarizeHit({ ...row, values: [null, null, null] }, ["cat"], site)).toEqual({
      title: "Row 1,234",
      snippet: "",
    });
  });
});
