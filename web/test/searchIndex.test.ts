import { tableFromArrays, type Table } from "@uwdata/flechette";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { RowText } from "../src/data/rowText";
import { containsUncertainWords, findRows, readHits } from "../src/search/searchIndex";
import { createSite } from "./helpers";

const chunks = new Map<string, Table>();
const requested: string[] = [];
vi.mock("../src/data/chunks", () => ({
  loadTable: (name: string) => {
    requested.push(name);
    return Promise.resolve(chunks.get(name) ?? tableFromArrays({ word: [], rows: [], n: [] }));
  },
}));

const SITE = createSite({ hover: ["title", "body"], search: { columns: ["title", "body"], parts: 8 } });

/** Adds posting lists to a chunk of the index. */
function addChunk(part: number, lists: Record<string, number[]>, n?: number): void {
  const rows = Object.values(lists);
  const table = tableFromArrays({ word: Object.keys(lists), rows, n: rows.map((list) => n ?? list.length) });
  chunks.set(`search/${part}`, table);
}

/** The text of rows: row 10 has the title "Title 10". */
function createRowText(bodies: Record<number, string | null>): RowText {
  const get = (row: number): unknown =>
    Promise.resolve({ row, x: 0, y: 0, values: [`Title ${row}`, bodies[row] ?? null] });
  return { get } as unknown as RowText;
}

beforeEach(() => {
  chunks.clear();
  requested.length = 0;
});

describe("findRows", () => {
  it("loads the chunk of each word once, which the FNV-1a hash determines", async () => {
    // 0xe40c292c and 0xe70c2de5 are the hashes of "a" and "b": modulo 8 they are 4 and 5.
    addChunk(4, { z: [1], a: [5, 3, 9] });
    addChunk(5, { b: [9, 5] });
    const hits = await findRows(SITE, "A, b a");
    expect(requested.sort()).toEqual(["search/4", "search/5"]);
    expect(hits.words).toEqual(["a", "b"]);
    expect([...hits.rows]).toEqual([9, 5]);
    expect(hits.total).toBe(2);
  });

  it("finds nothing when a word is in no row", async () => {
    addChunk(4, { a: [5, 3, 9] });
    expect(await findRows(SITE, "a b")).toMatchObject({ words: ["a", "b"], total: 0 });
  });

  it("loads nothing for text without words, or when the site has no index", async () => {
    expect(await findRows(SITE, "?!")).toMatchObject({ words: [], total: 0 });
    expect(await findRows(createSite(), "a")).toMatchObject({ words: ["a"], total: 0 });
    expect(requested).toEqual([]);
  });
});

describe("readHits", () => {
  const certain = { words: ["a"], rows: Uint32Array.of(7, 3, 8, 1, 2), total: 5, uncertainWords: [] };

  it("returns pages in the order of the hits", async () => {
    const rowText = createRowText({});
    const first = await readHits(certain, 0, 2, rowText, SITE);
    expect(first.rows.map(({ row }) => row)).toEqual([7, 3]);
    const second = await readHits(certain, first.next, 2, rowText, SITE);
    expect(second.rows.map(({ row }) => row)).toEqual([8, 1]);
    const last = await readHits(certain, second.next, 2, rowText, SITE);
    expect(last.rows.map(({ row }) => row)).toEqual([2]);
    expect(last.next).toBe(5);
  });

  it("skips rows whose text lacks a word that the index could not decide, and fills the page", async () => {
    const hits = { ...certain, uncertainWords: ["cat"] };
    const rowText = createRowText({ 7: "The Cat", 3: "dog", 8: "concatenate", 1: "cat!", 2: "cat" });
    const page = await readHits(hits, 0, 2, rowText, SITE);
    expect(page.rows.map(({ row }) => row)).toEqual([7, 1]);
    expect(page.next).toBe(4);
  });
});

describe("containsUncertainWords", () => {
  const hits = { words: ["cat"], rows: Uint32Array.of(1), total: null, uncertainWords: ["cat"] };
  const row = (body: string | null): Parameters<typeof containsUncertainWords>[0] => ({
    ...{ row: 1, x: 0, y: 0 },
    values: ["Title", body],
  });

  it("accepts texts that the page cannot see whole", () => {
    expect(containsUncertainWords(row("a long text…"), hits, SITE)).toBe(true);
    const hidden = createSite({ hover: ["title"], search: { columns: ["title", "body"], parts: 8 } });
    expect(containsUncertainWords(row(null), hits, hidden)).toBe(true);
  });

  it("decides by whole words", () => {
    expect(containsUncertainWords(row("concatenate"), hits, SITE)).toBe(false);
    expect(containsUncertainWords(row("CAT"), hits, SITE)).toBe(true);
    expect(containsUncertainWords(row(null), hits, SITE)).toBe(false);
  });
});
