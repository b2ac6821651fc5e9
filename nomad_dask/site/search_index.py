"""The search index: for each word the rows that have it, cut in parts by the hash of the word.

Words and rows are gathered in files by hash, and each file is put in order by itself. So no more is held than
one batch of rows, or one file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.site.chunk_writer import Parts
from nomad_dask.site.quantize import priority
from nomad_dask.site.tokenizer import hashes, words_of

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that the index tells of a word; how many have it is always told.
MOST_ROWS = 10_000
_FILES = 256
_PART_BYTES = 96 << 10
_MOST_PARTS = 1 << 16
# Entries to gather before they are written: in few large pieces.
_HELD_BYTES = 64 << 20


class Index:
    """Gathers the words of rows, then writes the index. A context, which closes its files.

    Parameters
    ----------
    scratch : Path
        Directory for files, which are removed again.
    """

    def __init__(self, scratch: Path) -> None:
        import pyarrow as pa

        self._scratch = scratch
        self._schema = pa.schema([("word", pa.string()), ("rows", pa.list_(pa.uint32())), ("n", pa.uint32())])
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._sizes = np.zeros(_FILES, np.int64)
        self._files = ExitStack()
        self._streams: dict[int, Any] = {}

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *raised: object) -> None:
        self._files.close()

    def add(self, first: int, texts: list[pa.Array]) -> None:
        """Gather the words of some rows.

        Parameters
        ----------
        first : int
            Number of the first row.
        texts : list of pyarrow.Array
            Columns of strings, equally long.
        """
        vocabulary, codes, rows = words_of(texts)
        table = _listed(vocabulary, codes, first + rows, np.bincount(codes, minlength=len(vocabulary)))
        self._held.append(table)
        self._held_bytes += table.nbytes
        if self._held_bytes > _HELD_BYTES:
            self._spill()

    def write(self, parts: Parts, advance: Callable[[int], None] = lambda done: None) -> int:
        """Write the parts ``search/h`` and return how many there are, those without words included.

        Parameters
        ----------
        parts : Parts
        advance : callable
            Told the files done so far, of 256.
        """
        self._spill()
        self._files.close()
        n_parts = 1
        while n_parts < min(_MOST_PARTS, self._sizes.sum() / _PART_BYTES):
            n_parts *= 2
        groups = min(n_parts, _FILES)
        for group in range(groups):
            files = range(group, _FILES, groups)
            table = self._read(files)
            of_part = hashes(table.column("word").combine_chunks()) % np.uint32(n_parts)
            for part in range(group, n_parts, groups):
                chosen = np.flatnonzero(of_part == part)
                parts.write_table(f"search/{part}", table.take(chosen))
            advance((group + 1) * len(files))
        return n_parts

    def _spill(self) -> None:
        """Write what is held to the files."""
        import pyarrow as pa

        if not self._held:
            return
        table = pa.concat_tables(self._held).combine_chunks()
        self._held, self._held_bytes = [], 0
        of_file = hashes(table.column("word").combine_chunks()) % np.uint32(_FILES)
        order = np.argsort(of_file, kind="stable")
        table = table.take(order)
        ends = np.cumsum(np.bincount(of_file, minlength=_FILES))
        for number in range(_FILES):
            start = int(ends[number - 1]) if number else 0
            piece = table.slice(start, int(ends[number]) - start)
            if piece.num_rows:
                if number not in self._streams:
                    file = self._files.enter_context(self._file(number).open("wb"))
                    self._streams[number] = self._files.enter_context(pa.ipc.new_stream(file, self._schema))
                self._streams[number].write_table(piece)
                self._sizes[number] += piece.nbytes

    def _read(self, files: range) -> pa.Table:
        """Return the words of some files in order, each once, with their first rows by priority."""
        import pyarrow as pa
        import pyarrow.compute as pc

        pieces = [self._schema.empty_table()]
        for number in files:
            if number in self._streams:
                with self._file(number).open("rb") as file, pa.ipc.open_stream(file) as stream:
                    pieces.append(stream.read_all())
                self._file(number).unlink()
        table = pa.concat_tables(pieces).combine_chunks()
        if not table.num_rows:
            return table
        words = table.column("word").combine_chunks().dictionary_encode()
        lists = table.column("rows").combine_chunks()
        by_name = pc.sort_indices(words.dictionary).to_numpy()
        of_entry = np.argsort(by_name)[words.indices.to_numpy()]
        counts = np.bincount(of_entry, table.column("n").to_numpy(), len(by_name)).astype(np.int64)
        codes = np.repeat(of_entry, np.diff(lists.offsets.to_numpy()))
        rows = lists.flatten().to_numpy().astype(np.int64)
        order = np.argsort((codes << 32) | priority(rows))
        return _listed(words.dictionary.take(by_name), codes[order], rows[order], counts)

    def _file(self, number: int) -> Path:
        return self._scratch / f"{number}.words"


def _listed(words: pa.Array, codes: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Return words with their rows.

    Parameters
    ----------
    words : pyarrow.Array
    codes, rows : ndarray of int64 (n,)
        Which word each row has, sorted by word.
    counts : ndarray of int64, as long as `words`
        How many rows have each word in all. Words that no row has are left out.
    """
    import pyarrow as pa

    lengths = np.bincount(codes, minlength=len(words))
    if lengths.max(initial=0) > MOST_ROWS:
        order = np.argsort((codes << 32) | priority(rows))
        codes, rows = codes[order], rows[order]
        rank = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = rows[rank < MOST_ROWS]
        lengths = np.minimum(lengths, MOST_ROWS)
    found = np.flatnonzero(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[found])]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.astype(np.uint32)))
    return pa.table({"word": words.take(pa.array(found)), "rows": lists, "n": counts[found].astype(np.uint32)})
