// Describes search hits in words.

import { formatCount, plural } from "../ui/format";
import type { Row } from "../data/rowText";
import type { Site } from "../data/site";
import type { SearchHits } from "./postings";

/** Characters of a snippet, and of the context before the word that was found. */
const SNIPPET_LENGTH = 160;
const CONTEXT_LENGTH = 40;
/** The context is cut at a space, so it is at least this long. */
const MIN_CONTEXT_LENGTH = 30;

/** Describes the number of hits. */
export function describeHits(hits: SearchHits, nShown: number, isDone: boolean): string {
  if (!hits.words.length) return "Type words made of letters and digits.";
  if (isDone && nShown === 0) return "No row has all these words.";
  if (hits.total !== null) return plural(hits.total, "row");
  // The lists of very frequent words are truncated, so the number is a bound.
  if (!hits.uncertainWords.length) return `At least ${plural(hits.rows.length, "row")}`;
  return isDone ? plural(nShown, "row") : `At most ${plural(hits.rows.length, "row")}`;
}

/** Returns the title of a hit, and a snippet of the first searched text with one of the words, or "". */
export function summarizeHit(row: Row, words: readonly string[], site: Site): { title: string; snippet: string } {
  const searched = site.search?.columns ?? [];
  const texts = site.hover.map((name, i) => (i > 0 && searched.includes(name) ? (row.values[i] ?? "") : ""));
  return {
    title: row.values[0] || `Row ${formatCount(row.row)}`,
    snippet: texts.map((text) => snippetAround(text, words)).find((snippet) => snippet !== "") ?? "",
  };
}

/** Returns the part of a text around the first word that it contains, or "". */
export function snippetAround(text: string, words: readonly string[]): string {
  const lowerCase = text.toLowerCase();
  const position = Math.min(...words.map((word) => lowerCase.indexOf(word)).filter((i) => i >= 0));
  if (!Number.isFinite(position)) return "";
  const isNearStart = position < CONTEXT_LENGTH;
  const start = isNearStart ? 0 : Math.max(0, text.lastIndexOf(" ", position - MIN_CONTEXT_LENGTH) + 1);
  return `${start ? "…" : ""}${text.slice(start, start + SNIPPET_LENGTH)}`;
}
