"""The search index: for each word the rows that have it, in chunks by the hash of the word.

Words and rows are collected in files by hash, and each file is sorted by itself. So memory holds at most one batch of
rows, or one file.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nomad_dask.site.chunk_writer import ChunkWriter
from nomad_dask.site.quantize import priority
from nomad_dask.site.tokenizer import find_words, hash_words

if TYPE_CHECKING:
    import pyarrow as pa

# Maximum number of rows listed for a word; the number of rows that have it is always exact.
MAX_ROWS = 10_000
_N_FILES = 256
_CHUNK_BYTES = 96 << 10
_MAX_CHUNKS = 1 << 16
# Bytes to collect before they are written to the files.
_BUFFER_BYTES = 64 << 20


class SearchIndex:
    """Collects the words of rows, then writes the index. A context manager that closes its files.

    Parameters
    ----------
    scratch : Path
        Directory for temporary files.
    """

    def __init__(self, scratch: Path) -> None:
        import pyarrow as pa

        self._scratch = scratch
        self._schema = pa.schema([("word", pa.string()), ("rows", pa.list_(pa.uint32())), ("n", pa.uint32())])
        self._buffer: list[pa.Table] = []
        self._buffer_bytes = 0
        self._sizes = np.zeros(_N_FILES, np.int64)
        self._files = ExitStack()
        self._streams: dict[int, Any] = {}

    def __enter__(self) -> SearchIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def add(self, first: int, texts: list[pa.Array]) -> None:
        """Collect the words of some rows.

        Parameters
        ----------
        first : int
            Number of the first row.
        texts : list of pyarrow.Array
            Columns of strings, equally long.
        """
        vocabulary, codes, rows = find_words(texts)
        table = _make_table(vocabulary, codes, first + rows, np.bincount(codes, minlength=len(vocabulary)))
        self._buffer.append(table)
        self._buffer_bytes += table.nbytes
        if self._buffer_bytes > _BUFFER_BYTES:
            self._spill()

    def write(self, writer: ChunkWriter, on_progress: Callable[[int], None] = lambda done: None) -> int:
        """Write the chunks ``search/h`` and return their number, including those without words.

        Parameters
        ----------
        writer : ChunkWriter
        on_progress : callable
            Called with the number of files done so far, of 256.
        """
        self._spill()
        self._files.close()
        n_chunks = 1
        while n_chunks < min(_MAX_CHUNKS, self._sizes.sum() / _CHUNK_BYTES):
            n_chunks *= 2
        groups = min(n_chunks, _N_FILES)
        for group in range(groups):
            files = range(group, _N_FILES, groups)
            table = self._read(files)
            chunk_of_word = hash_words(table.column("word").combine_chunks()) % np.uint32(n_chunks)
            for chunk in range(group, n_chunks, groups):
                writer.write_table(f"search/{chunk}", table.take(np.flatnonzero(chunk_of_word == chunk)))
            on_progress((group + 1) * len(files))
        return n_chunks

    def _spill(self) -> None:
        """Write the buffer to the files."""
        import pyarrow as pa

        if not self._buffer:
            return
        table = pa.concat_tables(self._buffer).combine_chunks()
        self._buffer, self._buffer_bytes = [], 0
        file_of_word = hash_words(table.column("word").combine_chunks()) % np.uint32(_N_FILES)
        order = np.argsort(file_of_word, kind="stable")
        table = table.take(order)
        ends = np.cumsum(np.bincount(file_of_word, minlength=_N_FILES))
        for number in range(_N_FILES):
            start = int(ends[number - 1]) if number else 0
            piece = table.slice(start, int(ends[number]) - start)
            if piece.num_rows:
                if number not in self._streams:
                    file = self._files.enter_context(self._file(number).open("wb"))
                    self._streams[number] = self._files.enter_context(pa.ipc.new_stream(file, self._schema))
                self._streams[number].write_table(piece)
                self._sizes[number] += piece.nbytes

    def _read(self, files: range) -> pa.Table:
        """Return the words of some files in order, without duplicates, with their first rows by priority."""
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
        code_of_entry = np.argsort(by_name)[words.indices.to_numpy()]
        counts = np.bincount(code_of_entry, table.column("n").to_numpy(), len(by_name)).astype(np.int64)
        codes = np.repeat(code_of_entry, np.diff(lists.offsets.to_numpy()))
        rows = lists.flatten().to_numpy().astype(np.int64)
        order = np.argsort((codes << 32) | priority(rows))
        return _make_table(words.dictionary.take(by_name), codes[order], rows[order], counts)

    def _file(self, number: int) -> Path:
        return self._scratch / f"{number}.words"


def _make_table(words: pa.Array, codes: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Return a table of words with their rows.

    Parameters
    ----------
    words : pyarrow.Array
    codes, rows : ndarray of int64 (n,)
        Pairs of a word and a row that has it, sorted by word.
    counts : ndarray of int64 (len(words),)
        Number of rows that have each word. Words without rows are left out.
    """
    import pyarrow as pa

    lengths = np.bincount(codes, minlength=len(words))
    if lengths.max(initial=0) > MAX_ROWS:
        order = np.argsort((codes << 32) | priority(rows))
        codes, rows = codes[order], rows[order]
        rank = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = rows[rank < MAX_ROWS]
        lengths = np.minimum(lengths, MAX_ROWS)
    used = np.flatnonzero(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths[used])]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.astype(np.uint32)))
    return pa.table({"word": words.take(pa.array(used)), "rows": lists, "n": counts[used].astype(np.uint32)})
