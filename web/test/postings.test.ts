import { describe, expect, it } from "vitest";
import { intersect, noHits, type PostingList } from "../src/search/postings";
import { createRandom } from "./helpers";

function list(rows: readonly number[], n = rows.length): PostingList {
  return { rows: Uint32Array.from(rows), n };
}

describe("intersect", () => {
  it("keeps the order of the shortest list, which is that of the index", () => {
    const hits = intersect(["a", "b"], [list([9, 4, 7, 1, 3]), list([3, 9, 1])]);
    expect([...hits.rows]).toEqual([3, 9, 1]);
    expect(hits).toMatchObject({ words: ["a", "b"], total: 3, uncertainWords: [] });
  });

  it("returns the rows of one word, and their number where the list is truncated", () => {
    const hits = intersect(["a"], [list([5, 2], 1000)]);
    expect([...hits.rows]).toEqual([5, 2]);
    expect(hits).toMatchObject({ total: 1000, uncertainWords: [] });
  });

  it("leaves words with truncated lists to the text of rows when another list is complete", () => {
    const hits = intersect(["common", "rare"], [list([1, 2], 1000), list([8, 2, 5])]);
    expect([...hits.rows]).toEqual([8, 2, 5]);
    expect(hits).toMatchObject({ total: null, uncertainWords: ["common"] });
  });

  it("intersects truncated lists when no list is complete: these rows are certain, their number is a bound", () => {
    const hits = intersect(["a", "b"], [list([1, 2, 3], 1000), list([3, 1, 9], 2000)]);
    expect([...hits.rows]).toEqual([1, 3]);
    expect(hits).toMatchObject({ total: null, uncertainWords: [] });
  });

  it("agrees with a comparison of all rows", () => {
    const random = createRandom(1);
    for (let i = 0; i < 100; i++) {
      // An index of 50 rows in random order, and words that are in half of them.
      const order = Array.from({ length: 50 }, (_, row) => ({ row, key: random() }))
        .sort((a, b) => a.key - b.key)
        .map(({ row }) => row);
      const words = ["a", "b", "c"].slice(0, 1 + Math.floor(3 * random()));
      const lists = words.map(() => order.filter(() => random() < 0.5));
      const expected = order.filter((row) => lists.every((rows) => rows.includes(row)));
      const hits = intersect(
        words,
        lists.map((rows) => list(rows)),
      );
      expect([...hits.rows]).toEqual(expected);
      expect(hits.total).toBe(expected.length);
    }
  });

  it("finds nothing for no words", () => {
    expect(noHits(["a"])).toEqual({ words: ["a"], rows: new Uint32Array(), total: 0, uncertainWords: [] });
  });
});
