"""Words of texts, and the hash that says in which part of the index a word is."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# The page cuts what it looks for at the same length.
LONGEST_WORD = 64
# Letters and digits of any script; a line break stands between rows.
_TOKENS = re.compile(r"[^\W_]+|\n")
_FNV_BASIS, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)


def casefold_nfkc(text: str) -> str:
    """Return a text as it is compared: no difference of case, nor of ways to write one character."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words_of(texts: list[pa.Array]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return the words of some rows.

    Parameters
    ----------
    texts : list of pyarrow.Array
        Columns of strings, equally long.

    Returns
    -------
    vocabulary : pyarrow.Array
        Each word once.
    codes, rows : ndarray of int64
        Which word is in which row, each pair once, sorted by word, then by row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    joined = pc.binary_join_element_wise(*texts, " ", null_handling="skip") if len(texts) > 1 else texts[0]
    lines = pc.replace_substring(joined.fill_null(""), "\n", " ").to_pylist()
    # One string for all rows: its words are found without a step of Python for each.
    found = pa.array(_TOKENS.findall(casefold_nfkc("\n".join(lines))), pa.string()).dictionary_encode()
    codes = found.indices.to_numpy(zero_copy_only=False)
    cut = pc.utf8_slice_codeunits(found.dictionary, 0, LONGEST_WORD).dictionary_encode()
    vocabulary = cut.dictionary
    codes = cut.indices.to_numpy(zero_copy_only=False)[codes].astype(np.int64)
    line_break = pc.index(vocabulary, "\n").as_py()
    breaks = codes == line_break
    rows = np.cumsum(breaks)
    # NumPy's own `unique` hashes, which is slower.
    pairs = np.sort((codes[~breaks] << 32) | rows[~breaks])
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    return vocabulary, pairs >> 32, pairs & 0xFFFFFFFF


def hashes(words: pa.Array) -> np.ndarray:
    """Return the FNV-1a hash (n,) uint32 of the UTF-8 of each word."""
    import pyarrow as pa

    words = pa.concat_arrays([words.cast(pa.string())])  # without an offset
    _, offsets, data = words.buffers()
    hashed = np.full(len(words), _FNV_BASIS, np.uint32)
    if not len(words):
        return hashed
    ends = np.frombuffer(offsets, np.int32, len(words) + 1)
    starts, lengths = ends[:-1], np.diff(ends)
    letters = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    # Longest first, so that those still under way are the first ones.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths, mixed = starts[order], lengths[order], hashed[order]
    for position in range(int(lengths[0])):
        n = int(np.searchsorted(-lengths, -position, side="left"))
        mixed[:n] = (mixed[:n] ^ letters[starts[:n] + position]) * _FNV_PRIME
    hashed[order] = mixed
    return hashed
