"""The words of texts, and the hash that determines the chunk of the index for a word."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# The page cuts the words of a query at the same length.
MAX_WORD_LENGTH = 64
# Letters and digits of any script; a line break separates rows.
_TOKENS = re.compile(r"[^\W_]+|\n")
_FNV_BASIS, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)


def casefold_nfkc(text: str) -> str:
    """Return a text normalized for comparison: without differences in case or in the encoding of a character."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def find_words(texts: list[pa.Array]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return the words of some rows.

    Parameters
    ----------
    texts : list of pyarrow.Array
        Columns of strings of equal length.

    Returns
    -------
    vocabulary : pyarrow.Array
        The words, without duplicates.
    codes, rows : ndarray of int64 (n,)
        Pairs of a word and a row that has it, without duplicates, sorted by word, then by row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    joined = pc.binary_join_element_wise(*texts, " ", null_handling="skip") if len(texts) > 1 else texts[0]
    lines = pc.replace_substring(joined.fill_null(""), "\n", " ").to_pylist()
    # One string for all rows, to find the words without a Python loop over the rows.
    tokens = pa.array(_TOKENS.findall(casefold_nfkc("\n".join(lines))), pa.string()).dictionary_encode()
    codes = tokens.indices.to_numpy(zero_copy_only=False)
    cut = pc.utf8_slice_codeunits(tokens.dictionary, 0, MAX_WORD_LENGTH).dictionary_encode()
    vocabulary = cut.dictionary
    codes = cut.indices.to_numpy(zero_copy_only=False)[codes].astype(np.int64)
    line_break = pc.index(vocabulary, "\n").as_py()
    breaks = codes == line_break
    rows = np.cumsum(breaks)
    # Sorting is faster than `np.unique`, which hashes.
    pairs = np.sort((codes[~breaks] << 32) | rows[~breaks])
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    return vocabulary, pairs >> 32, pairs & 0xFFFFFFFF


def hash_words(words: pa.Array) -> np.ndarray:
    """Return the FNV-1a hash (n,) uint32 of the UTF-8 of each word."""
    import pyarrow as pa

    words = pa.concat_arrays([words.cast(pa.string())])  # without an offset
    _, offsets, data = words.buffers()
    result = np.full(len(words), _FNV_BASIS, np.uint32)
    if not len(words):
        return result
    ends = np.frombuffer(offsets, np.int32, len(words) + 1)
    starts, lengths = ends[:-1], np.diff(ends)
    data_bytes = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    # Longest first, so that the words with a byte at a position are always the first ones.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths, hashes = starts[order], lengths[order], result[order]
    for position in range(int(lengths[0])):
        n = int(np.searchsorted(-lengths, -position, side="left"))
        hashes[:n] = (hashes[:n] ^ data_bytes[starts[:n] + position]) * _FNV_PRIME
    result[order] = hashes
    return result
