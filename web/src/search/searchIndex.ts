// Searches all rows: an inverted index in chunks, of which a query loads one for each of its words.

import { loadTable } from "../data/chunks";
import type { Row, RowText } from "../data/rowText";
import type { Site } from "../data/site";
import { intersect, noHits, type PostingList, type SearchHits } from "./postings";
import { fnv1a, tokenize } from "./tokenizer";

/** Finds the rows that contain all words of a text. */
export async function findRows(site: Site, text: string): Promise<SearchHits> {
  const words = [...new Set(tokenize(text))];
  if (!site.search || !words.length) return noHits(words);
  const { parts } = site.search;
  const lists = await Promise.all(
    words.map((word) => loadPostings(word, fnv1a(new TextEncoder().encode(word)) % parts)),
  );
  const complete = lists.filter((list) => list !== null);
  return complete.length < words.length ? noHits(words) : intersect(words, complete);
}

/** Returns whether a row contains the words that the index could not decide. */
export function containsUncertainWords(row: Row, hits: SearchHits, site: Site): boolean {
  if (!hits.uncertainWords.length || !site.search) return true;
  const texts = site.search.columns.map((name) => {
    const i = site.hover.indexOf(name);
    return i < 0 ? undefined : row.values[i];
  });
  // A text that is not exported, or that is truncated, may contain them where the page cannot see it.
  if (texts.some((text) => text === undefined || text?.endsWith("…"))) return true;
  const words = new Set(texts.flatMap((text) => tokenize(text ?? "")));
  return hits.uncertainWords.every((word) => words.has(word));
}

/** Reads up to `n` rows from a position in the hits on; `next` is the position after them. */
export async function readHits(
  hits: SearchHits,
  start: number,
  n: number,
  rowText: RowText,
  site: Site,
): Promise<{ rows: Row[]; next: number }> {
  const rows: Row[] = [];
  let next = start;
  while (rows.length < n && next < hits.rows.length) {
    const batch = hits.rows.subarray(next, next + n - rows.length);
    next += batch.length;
    const candidates = await Promise.all(Array.from(batch, (row) => rowText.get(row)));
    rows.push(...candidates.filter((row) => containsUncertainWords(row, hits, site)));
  }
  return { rows, next };
}

async function loadPostings(word: string, part: number): Promise<PostingList | null> {
  const table = await loadTable(`search/${part}`);
  const words = table.getChild("word");
  const i = Array.from({ length: table.numRows }, (_, k) => k).find((k) => words.at(k) === word);
  if (i === undefined) return null;
  const rows = table.getChild("rows").at(i) as ArrayLike<number>;
  return { rows: Uint32Array.from(rows), n: Number(table.getChild("n").at(i)) };
}
