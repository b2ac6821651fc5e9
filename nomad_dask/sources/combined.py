"""The rows of several sources one after another, and the rows of a source without some of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.sources.base import Source


class ConcatenatedSource(Source):
    """The rows of several sources, one after another, in the smallest dtype that holds the values of all.

    Parameters
    ----------
    parts : sequence of Source
        At least one.

    Raises
    ------
    InputError
        They have different numbers of dimensions.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        first = parts[0]
        for part in parts[1:]:
            if part.n_dims != first.n_dims:
                raise InputError(
                    f"{part.name} has {part.n_dims} dimensions, {first.name} has {first.n_dims}: give vectors of the "
                    "same kind."
                )
        self._parts = tuple(parts)
        self._offsets = np.cumsum([0, *(part.n_rows for part in parts)])
        self.n_rows, self.n_dims = int(self._offsets[-1]), first.n_dims
        self.dtype = np.result_type(*(part.dtype for part in parts))
        self.name = " and ".join(part.name for part in parts)
        self.shareable = all(part.shareable for part in parts)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`."""
        rows = np.empty((stop - start, self.n_dims), self.dtype)
        for i, first, last in self._overlaps(start, stop):
            offset = self._offsets[i] - start
            rows[first + offset : last + offset] = self._parts[i].read(first, last)
        return rows

    def _overlaps(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the parts with rows from `start` to `stop`, and the first and last of these rows in each."""
        found = []
        for i, (begin, end) in enumerate(zip(self._offsets[:-1], self._offsets[1:], strict=True)):
            if begin < stop and start < end:
                found.append((i, int(max(start, begin) - begin), int(min(stop, end) - begin)))
        return found

    def fingerprint(self) -> str:
        """Return a digest of those of the parts."""
        return hashlib.sha256("".join(part.fingerprint() for part in self._parts).encode()).hexdigest()

    def local_paths(self) -> list[str]:
        """Return the paths of all parts."""
        return [path for part in self._parts for path in part.local_paths()]

    def chunk_boundaries(self) -> Sequence[int]:
        """Return those of the parts, and where the parts meet."""
        of_parts = (
            [begin, *(begin + edge for edge in part.chunk_boundaries())]
            for begin, part in zip(self._offsets[:-1], self._parts, strict=True)
        )
        return sorted({int(edge) for edges in of_parts for edge in edges} - {0})

    def slice_rows(self, start: int, stop: int) -> ConcatenatedSource:
        """Return the same with smaller parts, with unchanged row numbers."""
        if not self.shareable:
            return self
        sliced = {i: self._parts[i].slice_rows(first, last) for i, first, last in self._overlaps(start, stop)}
        return ConcatenatedSource([sliced.get(i, part) for i, part in enumerate(self._parts)])

    def checksums(self, start: int, stop: int) -> dict[int, int]:
        """Return the checksums of the parts, whose numbers alternate between the parts."""
        n_parts = len(self._parts)
        return {
            number * n_parts + i: checksum
            for i, first, last in self._overlaps(start, stop)
            for number, checksum in self._parts[i].checksums(first, last).items()
        }

    def with_checksums(self, checksums: Mapping[int, int]) -> ConcatenatedSource:
        """Pass the checksums to their parts."""
        n_parts = len(self._parts)
        of_parts: list[dict[int, int]] = [{} for _ in self._parts]
        for number, checksum in checksums.items():
            of_parts[number % n_parts][number // n_parts] = checksum
        parts = [part.with_checksums(own) if own else part for part, own in zip(self._parts, of_parts, strict=True)]
        return ConcatenatedSource(parts)

    def check_unchanged(self) -> None:
        """Check all parts."""
        for part in self._parts:
            part.check_unchanged()


class RemainingSource(Source):
    """The rows of another source without some of them, in the same order.

    Parameters
    ----------
    source : Source
    removed : ndarray of int64 (n_removed,)
        Row numbers that are left out: different ones, ascending.
    """

    def __init__(self, source: Source, removed: np.ndarray) -> None:
        self._source, self._removed = source, removed
        self.n_rows, self.n_dims, self.dtype = source.n_rows - len(removed), source.n_dims, source.dtype
        self.name, self.shareable = source.name, source.shareable
        # How many rows remain before each removed one.
        self._remaining_before = removed - np.arange(len(removed))

    def row_numbers(self, start: int, stop: int) -> np.ndarray:
        """Return the row numbers (stop - start,) int64 that remaining rows have in the other source."""
        remaining = np.arange(start, stop)
        return remaining + np.searchsorted(self._remaining_before, remaining, side="right")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the remaining rows `start` to `stop`."""
        if start == stop:
            return np.empty((0, self.n_dims), self.dtype)
        numbers = self.row_numbers(start, stop)
        first, last = int(numbers[0]), int(numbers[-1]) + 1
        rows = self._source.read(first, last)
        return rows if last - first == len(numbers) else rows[numbers - first]

    def fingerprint(self) -> str:
        """Return a digest of that of the other source, and the removed rows."""
        removed = self._removed.astype("<i8").tobytes()
        return hashlib.sha256(self._source.fingerprint().encode() + removed).hexdigest()

    def local_paths(self) -> list[str]:
        """Return those of the other source."""
        return self._source.local_paths()

    def check_unchanged(self) -> None:
        """Check the other source."""
        self._source.check_unchanged()
