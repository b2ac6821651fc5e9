// Search over all rows: an inverted index in parts, of which a query fetches one for each of its words.

import { table } from "../data/chunks";
import type { Site } from "../data/site";
import type { Row, Texts } from "../data/rowText";

export interface Hits {
  words: string[];
  /** Rows that may hold all words, in the order of the index: a fair sample where there are more. */
  rows: Uint32Array;
  /** Rows that hold them all, where that is known. */
  total: number | null;
  /** Words whose lists are cut: a row must be read to know. */
  unsure: string[];
}

interface Entry {
  rows: Uint32Array;
  n: number;
}

/** Letters of a word that the index keeps. */
const LONGEST_WORD = 64;

/** Splits a text into words as the index does: casefolded, NFKC, cut at anything but letters and digits. */
export function wordsOf(text: string): string[] {
  const words = folded(text).match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.map((word) => [...word].slice(0, LONGEST_WORD).join(""));
}

/** Unicode casefolding, which JavaScript lacks: upper case makes ß into SS, and lower case then folds the rest. */
function folded(text: string): string {
  const fold = (s: string): string => s.toLowerCase().toUpperCase().toLowerCase().replaceAll("ς", "σ");
  // The dotless i has an upper case that is not its own, and Cherokee is folded to upper case.
  const whole = text.normalize("NFKC").split("ı").map(fold).join("ı");
  const cherokee = whole.replace(/[\uab70-\uabbf\u13f8-\u13fd]/g, (c) => c.toUpperCase());
  return cherokee.normalize("NFKC");
}

/** FNV-1a, 32 bits. */
export function hashOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

/** Finds the rows that hold all words of a text. */
export async function find(site: Site, text: string): Promise<Hits> {
  const words = [...new Set(wordsOf(text))];
  const nothing = { words, rows: new Uint32Array(), total: 0, unsure: [] };
  if (!site.search || !words.length) return nothing;
  const { parts } = site.search;
  const entries = await Promise.all(words.map((word) => entryOf(word, hashOf(new TextEncoder().encode(word)) % parts)));
  if (entries.some((entry) => !entry)) return nothing;
  const known = entries as Entry[];
  const cut = known.map((entry) => entry.n > entry.rows.length);
  const whole = known.filter((_, i) => !cut[i]);
  // Whole lists decide alone; words with cut ones are looked for in the rows that are left.
  const [first, ...others] = whole.length ? whole.sort((a, b) => a.n - b.n) : known;
  const sets = others.map((entry) => new Set(entry.rows));
  const rows = first.rows.filter((row) => sets.every((set) => set.has(row)));
  const unsure = whole.length ? words.filter((_, i) => cut[i]) : [];
  const total = words.length === 1 ? first.n : cut.includes(true) ? null : rows.length;
  return { words, rows, total, unsure };
}

/** Tells whether a row holds the words that the index could not decide. */
export function holds(row: Row, hits: Hits, site: Site): boolean {
  if (!hits.unsure.length || !site.search) return true;
  const texts = site.search.columns.map((name) => row.values[site.hover.indexOf(name)]);
  // A text that is not shown, or cut, may hold them where nobody sees.
  if (texts.some((text) => text === undefined || text?.endsWith("…"))) return true;
  const words = new Set(texts.flatMap((text) => wordsOf(text ?? "")));
  return hits.unsure.every((word) => words.has(word));
}

/** Reads hits from a place in the list on, until there are enough or no more. */
export async function read(
  hits: Hits,
  from: number,
  enough: number,
  texts: Texts,
  site: Site,
): Promise<{ rows: Row[]; next: number }> {
  const rows: Row[] = [];
  let next = from;
  while (rows.length < enough && next < hits.rows.length) {
    const some = hits.rows.subarray(next, next + enough - rows.length);
    next += some.length;
    const found = await Promise.all(Array.from(some, (row) => texts.row(row)));
    rows.push(...found.filter((row) => holds(row, hits, site)));
  }
  return { rows, next };
}

async function entryOf(word: string, part: number): Promise<Entry | null> {
  const found = await table(`search/${part}`);
  const words = found.getChild("word");
  const i = Array.from({ length: found.numRows }, (_, k) => k).find((k) => words.at(k) === word);
  if (i === undefined) return null;
  const rows = found.getChild("rows").at(i) as ArrayLike<number>;
  return { rows: Uint32Array.from(rows), n: Number(found.getChild("n").at(i)) };
}
