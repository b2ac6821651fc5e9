"""The symmetric graph of neighbor lists on the device: every entry becomes a key, and sorted keys are merged by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.backends.data import EdgeRange
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.weighted_lists import WeightedLists

# The lists stay on the device if they take at most this share of its free memory; else each range uploads them.
_HELD_SHARE = 0.4
_CHUNK_ENTRIES = 1 << 26
# Of an entry of a list of a range: its key, the copies that sorting needs, and the edges with their values.
_ENTRY_BYTES = 56
_KEY_BITS = 63


@dataclass(frozen=True)
class _KeyBits:
    """Which bits of a key have its parts: see the kernels.

    Attributes
    ----------
    source_shift, row_shift : int
        Lowest bit of the row whose list the entry is in, and of the row that it points to; the rank is below.
    """

    source_shift: int
    row_shift: int

    @property
    def max_rows(self) -> int:
        """Largest number of rows of a range."""
        return 1 << (_KEY_BITS - self.row_shift)


class _DeviceLists:
    """The lists of all rows on the device, in chunks: held there if they fit, else uploaded again and again."""

    def __init__(self, lists: WeightedLists, runtime: Runtime) -> None:
        self.lists, self._runtime = lists, runtime
        self.k = len(lists.weights)
        self.weights, self.totals = runtime.upload(lists.weights), runtime.upload(lists.totals)
        step = max(1, _CHUNK_ENTRIES // self.k)
        self._chunks = [(start, min(start + step, lists.n_rows)) for start in range(0, lists.n_rows, step)]
        self._held: Any = None
        if 4 * lists.n_rows * self.k <= _HELD_SHARE * runtime.free_bytes():
            held = runtime.xp.empty((lists.n_rows, self.k), np.uint32)
            for start, stop in self._chunks:
                runtime.upload_into(held[start:stop], lists.read(start, stop))
            self._held = held

    def read(self, start: int, stop: int) -> Any:
        """Return the lists (stop - start, k) uint32 of a range of rows."""
        if self._held is not None:
            return self._held[start:stop]
        return self._runtime.upload(self.lists.read(start, stop))

    def chunks(self) -> Iterator[tuple[int, int, Any]]:
        """Yield the first row, the end, and the lists of each chunk."""
        return ((start, stop, self.read(start, stop)) for start, stop in self._chunks)


def symmetric_graph(
    lists: WeightedLists, ranges: Iterable[tuple[int, int]], levels: np.ndarray | None, runtime: Runtime
) -> Iterator[EdgeRange]:
    """Yield the symmetric graph of directed edges; see `Backend.symmetric_graph`."""
    k = len(lists.weights)
    if not k:
        for first, last in ranges:
            yield _no_edges(last - first, levels)
        return
    device, bits = _DeviceLists(lists, runtime), _key_bits(lists.n_rows, k)
    step = max(1, min(bits.max_rows, runtime.free_bytes() // 2 // (_ENTRY_BYTES * k)))
    for first, last in ranges:
        for start in range(first, last, step):
            yield _edges_of(device, start, min(start + step, last), bits, levels, runtime)


def _key_bits(n_rows: int, k: int) -> _KeyBits:
    source_shift = (k - 1).bit_length()
    return _KeyBits(source_shift, source_shift + max(n_rows - 1, 1).bit_length())


def _no_edges(n_rows: int, levels: np.ndarray | None) -> EdgeRange:
    dtypes = (np.float32, np.float32) if levels is None else (np.uint8,)
    return EdgeRange(np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int32), tuple(np.zeros(0, t) for t in dtypes))


def _edges_of(
    device: _DeviceLists, first: int, last: int, bits: _KeyBits, levels: np.ndarray | None, runtime: Runtime
) -> EdgeRange:
    """Return the edges of the rows `first` to `last`."""
    xp, n = runtime.xp, last - first
    keys = _sorted_keys(device, first, last, bits, runtime)
    offsets = xp.searchsorted(keys, xp.arange(n + 1, dtype=np.int64) << bits.row_shift)
    # Arguments of both kernels.
    own = (device.read(first, last), np.int64(n), np.int32(device.k), np.int64(device.lists.n_rows), offsets, keys)
    shifts = np.int32(bits.source_shift), np.int32(bits.row_shift)
    counts = xp.empty(n, np.int32)
    runtime.launch("count_edges", 2, 32 * n, *own, *shifts, counts)
    indptr, n_edges = _offsets_of(counts, runtime)
    indices = xp.empty(n_edges, np.int32)
    if levels is None:
        values: tuple[Any, ...] = (xp.empty(n_edges, np.float32), xp.empty(n_edges, np.float32))
        outputs: tuple[Any, ...] = (indices, *values, None)
        scale = np.float32(1), np.float64(0), np.float64(0)
    else:
        values = (xp.empty(n_edges, np.uint8),)
        outputs = (indices, None, None, *values)
        levels_per_unit = (len(levels) - 1) / np.log(levels[-1] / levels[0])
        scale = levels[0], np.float64(levels_per_unit), np.float64(len(levels) - 1)
    runtime.launch(
        "merge_edges", 2, 32 * n, *own, *shifts, device.weights, device.totals, np.int64(first), indptr, *scale,
        *outputs,
    )  # fmt: skip
    return EdgeRange(runtime.download(indptr), runtime.download(indices), tuple(map(runtime.download, values)))


def _sorted_keys(device: _DeviceLists, first: int, last: int, bits: _KeyBits, runtime: Runtime) -> Any:
    """Return the keys int64 of the edges to the rows `first` to `last`, ascending."""
    counts = runtime.xp.empty(device.lists.n_rows, np.int32)
    k, ends = np.int32(device.k), (np.int64(first), np.int64(last))
    for start, stop, ids in device.chunks():
        n = stop - start
        runtime.launch("count_into", 2, 32 * n, ids, np.int64(n), k, *ends, counts[start:stop])
    offsets, n_keys = _offsets_of(counts, runtime)
    keys = runtime.xp.empty(n_keys, np.int64)
    for start, stop, ids in device.chunks():
        runtime.launch(
            "write_keys", 2, 32 * (stop - start), ids, np.int64(stop - start), k, np.int64(start), *ends,
            offsets[start : stop + 1], np.int32(bits.source_shift), np.int32(bits.row_shift), keys,
        )  # fmt: skip
    keys.sort()
    return keys


def _offsets_of(counts: Any, runtime: Runtime) -> tuple[Any, int]:
    """Return where each of successive groups begins and the last one ends, int64 on the device, and that end."""
    offsets = runtime.xp.zeros(len(counts) + 1, np.int64)
    offsets[1:] = runtime.xp.cumsum(counts, dtype=np.int64)
    return offsets, int(runtime.download(offsets[-1:])[0])
