"""Rows that are computed when they are read: what Dask arrays and data frames share."""

from __future__ import annotations

import copy
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.base import PerThread, Source
from nomad_dask.sources.checksum import rows_checksum
from nomad_dask.sources.retry import with_retries


class LazySource(Source):
    """Partitions of rows that are computed one at a time; each thread keeps its last one.

    A graph without futures can be computed by any process that receives it, in a single thread: parallelism comes
    from the workers of the run. A graph with futures can only be computed through the client.

    Rows are read several times. The checksum of a partition must be the same each time it is computed.
    """

    def __init__(self, collection: Any, lengths: Sequence[int], name: str) -> None:
        self.name = name
        self.shareable = not _has_futures(collection)
        self._collection = collection
        self._edges = np.cumsum([0, *lengths])
        self._last = PerThread()
        self._parts: dict[int, Any] | None = None
        self._checksums: dict[int, int] = {}

    @abstractmethod
    def _partition(self, i: int) -> Any:
        """Return the i-th partition as a lazy collection whose graph contains no other partition."""

    @abstractmethod
    def _rows(self, value: Any, i: int) -> Any:
        """Return the rows of the i-th partition, computed, as a C-contiguous array of `dtype`."""

    def slice_rows(self, start: int, stop: int) -> Self:
        """Keep only the part of the graph that the rows need: tasks must not carry the data of other partitions."""
        if not self.shareable:
            return self
        part = copy.copy(self)
        part._parts = {i: self._partition(i) for i, *_ in self._pieces(start, stop)}
        part._checksums = {i: self._checksums[i] for i in part._parts if i in self._checksums}
        part._drop_graph()
        part._last = PerThread()
        return part

    def _drop_graph(self) -> None:
        """Drop what is required for other partitions only."""
        self._collection = None

    def checksums(self, start: int, stop: int) -> dict[int, int]:
        """Return the checksum of every partition of the rows that has been computed, by its number."""
        return {i: self._checksums[i] for i, *_ in self._pieces(start, stop) if i in self._checksums}

    def with_checksums(self, checksums: Mapping[int, int]) -> Self:
        """Return a source that raises an error for a partition with another checksum."""
        expecting = copy.copy(self)
        expecting._checksums = dict(checksums)
        expecting._last = PerThread()
        expecting.__dict__.pop("_token", None)  # it represents this object
        return expecting

    def _compute(self, i: int) -> Any:
        """Return the rows of the i-th partition, computed."""
        return self._compute_once("vectors", i, lambda: self._partition(i) if self._parts is None else self._parts[i])

    def _compute_once(self, what: str, i: int, lazy: Callable[[], Any]) -> Any:
        """Compute something of the i-th partition, unless this thread has computed it last."""
        last = self._last.__dict__
        if last.get("key") != (what, i):
            last.clear()  # before computing the next one, so that only one is in memory
            value = self._compute_part(lazy(), i)
            if what == "vectors":
                value = self._rows(value, i)
                self._check_same(value, i)
            last.update(key=(what, i), value=value)
        return last["value"]

    def _compute_part(self, lazy: Any, i: int) -> Any:
        """Compute a delayed value with the rows of the i-th partition."""
        scheduler = {"scheduler": "synchronous"} if self.shareable else {}
        value = with_retries(lambda: lazy.compute(**scheduler), f"partition {i} of {self.name}")
        expected = int(self._edges[i + 1] - self._edges[i])
        if len(value) != expected:
            raise self._differs(i, f"has {len(value)} rows, {expected} expected")
        return value

    def _check_same(self, rows: Any, i: int) -> None:
        found = rows_checksum(rows)
        if self._checksums.setdefault(i, found) != found:
            raise self._differs(i, "has other values than when it was computed before")

    def _differs(self, i: int, what: str) -> InputError:
        first, last = int(self._edges[i]), int(self._edges[i + 1]) - 1
        return InputError(
            f"partition {i} of {self.name} (rows {first} to {max(first, last)}) {what}: it does not produce the same "
            "rows each time. Keep what it computes, with persist(), or write it to a file and give its path."
        )

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int, int, int]]:
        """Return the overlap of a row range with each partition: index and first row of the partition, start, stop."""
        first = max(0, int(np.searchsorted(self._edges, start, "right")) - 1)
        last = int(np.searchsorted(self._edges, stop, "left"))
        return [
            (i, low, max(start, low), min(stop, high))
            for i in range(first, min(last, len(self._edges) - 1))
            if (low := int(self._edges[i])) < (high := int(self._edges[i + 1])) and low < stop and high > start
        ]

    def chunk_boundaries(self) -> Sequence[int]:
        """Return the edges of the partitions."""
        return [int(edge) for edge in self._edges]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Compute the partitions that the range needs."""
        pieces = self._pieces(start, stop)
        if len(pieces) == 1:
            i, low, a, b = pieces[0]
            rows: np.ndarray = self._compute(i)[a - low : b - low].view()
            rows.flags.writeable = False  # it may be a view of the kept partition
            return rows
        out = np.empty((stop - start, self.n_dims), self.dtype)
        for i, low, a, b in pieces:
            out[a - start : b - start] = self._compute(i)[a - low : b - low]
        return out


def _has_futures(collection: Any) -> bool:
    """Return whether a collection's graph refers to results on a cluster."""
    if "distributed" not in sys.modules:
        return False  # without distributed, there are no futures
    from distributed import futures_of

    return bool(futures_of(collection))  # type: ignore[no-untyped-call]
