// Combines the posting lists of a query's words.

/** The rows that contain a word. */
export interface PostingList {
  /** In the order of the index, which is random: truncated lists are a fair sample. */
  rows: Uint32Array;
  /** Number of rows that contain the word, also of those that the list lacks. */
  n: number;
}

export interface SearchHits {
  words: string[];
  /** Rows that may contain all words, in the order of the index. */
  rows: Uint32Array;
  /** Number of rows that contain all words, or null where it is unknown. */
  total: number | null;
  /** Words with truncated lists: a row's text decides whether it contains them. */
  uncertainWords: string[];
}

/** Returns no hits for some words. */
export function noHits(words: string[]): SearchHits {
  return { words, rows: new Uint32Array(), total: 0, uncertainWords: [] };
}

/** Intersects the posting lists of words, starting from the shortest. */
export function intersect(words: string[], lists: readonly PostingList[]): SearchHits {
  const isTruncated = lists.map((list) => list.n > list.rows.length);
  const completeLists = lists.filter((_, i) => !isTruncated[i]).sort((a, b) => a.n - b.n);
  // Complete lists decide alone; words with truncated ones are looked up in the text of the remaining rows.
  const [first, ...others] = completeLists.length ? completeLists : lists;
  const sets = others.map((list) => new Set(list.rows));
  const rows = first.rows.filter((row) => sets.every((set) => set.has(row)));
  let total: number | null = rows.length;
  if (words.length === 1) total = first.n;
  else if (isTruncated.includes(true)) total = null;
  return { words, rows, total, uncertainWords: completeLists.length ? words.filter((_, i) => isTruncated[i]) : [] };
}
