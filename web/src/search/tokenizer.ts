// Splits text into words exactly as the exporter's tokenizer does.

/** Code points of a word that the index keeps. */
const MAX_WORD_LENGTH = 64;

/** Splits a text into words: casefolded, NFKC-normalized, cut at anything but letters and digits. */
export function tokenize(text: string): string[] {
  const words = casefoldNfkc(text).match(/[\p{L}\p{N}]+/gu) ?? [];
  return words.map((word) => Array.from(word).slice(0, MAX_WORD_LENGTH).join(""));
}

/**
 * Unicode case folding, which JavaScript lacks, between two NFKC normalizations.
 *
 * Upper case turns ß into SS, and lower case then folds the rest.
 */
function casefoldNfkc(text: string): string {
  const fold = (s: string): string => s.toLowerCase().toUpperCase().toLowerCase().replaceAll("ς", "σ");
  // The dotless ı folds to itself, while its upper case is the I of other letters; Cherokee folds to upper case.
  const folded = text.normalize("NFKC").split("ı").map(fold).join("ı");
  const cherokee = folded.replace(/[\uab70-\uabbf\u13f8-\u13fd]/g, (letter) => letter.toUpperCase());
  return cherokee.normalize("NFKC");
}

/** Returns the 32-bit FNV-1a hash, which says in which chunk of the index a word is. */
export function fnv1a(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}
