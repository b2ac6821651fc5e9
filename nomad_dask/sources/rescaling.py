"""How vectors of any range become float32: moved, scaled by a power of two, and shortened where they are extreme."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nomad_dask.sources.base import Source
from nomad_dask.utils.row_norms import unit_rows

# Rows this many times (in powers of two) as long as the others are extreme: they would take the whole range of float32.
# Maps of the other rows are unharmed up to a factor of 2^20 or so.
_EXTREME_LEVEL = 14
# They are shortened to twice the length of the others.
_SHORTENED = 2.0 ** (1 - _EXTREME_LEVEL)
# Lengths, in powers of two, whose squares and sums of squares float32 holds with all digits.
_LOWEST_LEVEL, _HIGHEST_LEVEL = -40, 50
# An offset this many times (in powers of two) as large as the spread costs digits in float32.
_OFFSET_LEVEL = 14
# The share, and the number, of the longest rows that do not count as the bulk of the data.
_MAX_EXTREME_SHARE, _MAX_EXTREME_ROWS = 0.01, 3
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Rescaling:
    """A change of coordinates under which float32 keeps the distances, or for cosine the directions, of vectors.

    A vector x becomes ``(x - offset) * 2**exponent``, computed in float64. One that is then longer than `max_norm` is
    shortened to about the length of the others, so that it cannot disturb them.

    Attributes
    ----------
    offset : ndarray of float64 (n_dims,)
    exponent : int
    max_norm : float
        Infinite if no vector is extreme.
    unit_length : bool
        Vectors are only scaled to unit length; zeros stay zero.
    """

    offset: np.ndarray
    exponent: int = 0
    max_norm: float = math.inf
    unit_length: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether the vectors are kept as they are."""
        return not (self.unit_length or self.exponent or self.offset.any() or math.isfinite(self.max_norm))

    def as_array(self) -> np.ndarray:
        """Return all values as one array of float64, for a file."""
        return np.array([self.exponent, self.max_norm, self.unit_length, *self.offset])

    @classmethod
    def from_array(cls, values: np.ndarray) -> Self:
        """Return the rescaling that `as_array` wrote."""
        return cls(values[3:], int(values[0]), float(values[1]), bool(values[2]))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return vectors (n, n_dims) as float32; every finite number becomes a finite one."""
        scaled = np.empty(rows.shape, np.float32)
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            scaled[chunk] = self._apply(rows[chunk])
        return scaled

    def extreme(self, rows: np.ndarray) -> np.ndarray:
        """Return for each vector whether it is longer than `max_norm`."""
        if self.unit_length:
            return np.zeros(len(rows), bool)
        return self._lengths(*_direction(_half_offset(rows, self.offset))) > self.max_norm

    def may_be_extreme(self, max_abs: float) -> bool:
        """Return whether a vector with values up to `max_abs` can be longer than `max_norm`."""
        level = _log2(max_abs + float(np.abs(self.offset).max())) + math.log2(len(self.offset)) / 2
        return level + self.exponent > _log2(self.max_norm)

    def _lengths(self, directions: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            lengths: np.ndarray = np.linalg.norm(directions, axis=1) * np.ldexp(peaks, self.exponent + 1)
        return lengths

    def _apply(self, rows: np.ndarray) -> np.ndarray:
        if self.unit_length:
            return unit_rows(rows.astype(np.float64))
        halves = _half_offset(rows, self.offset)
        directions, peaks = _direction(halves)
        with np.errstate(over="ignore"):
            scaled: np.ndarray = np.ldexp(halves, self.exponent + 1)
        extreme = self._lengths(directions, peaks) > self.max_norm
        units = directions[extreme]
        scaled[extreme] = units * (_SHORTENED * self.max_norm / np.linalg.norm(units, axis=1))[:, None]
        return scaled


def _half_offset(rows: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return half of the difference to the offset in float64: the whole difference may overflow."""
    return rows.astype(np.float64) / 2 - offset / 2


def _direction(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with a largest absolute value of 1, whose squares cannot overflow, and what they were divided by."""
    peaks = np.abs(rows).max(axis=1)
    return rows / np.where(peaks == 0, 1, peaks)[:, None], peaks


def choose_rescaling(sample: np.ndarray, max_abs: float) -> Rescaling:
    """Return the rescaling for Euclidean distances; the identity for ordinary data.

    Parameters
    ----------
    sample : ndarray (n, n_dims)
        Random rows, at most a few thousand.
    max_abs : float
        Largest absolute value of all rows.
    """
    half_center = np.median(sample.astype(np.float64) / 2, axis=0)
    center = 2 * half_center
    directions, peaks = _direction(_half_offset(sample, center))
    with np.errstate(divide="ignore"):
        levels = np.sort(np.log2(peaks) + 1 + np.log2(np.linalg.norm(directions, axis=1)))
    # The difference to the center is at most twice the largest value.
    width = math.log2(len(center)) / 2
    longest = _log2(max_abs) + 1 + width
    nonzero = levels[np.isfinite(levels)]
    if not len(nonzero):  # equal rows, at least in the sample
        return (
            Rescaling(center, 0, 2.0**_HIGHEST_LEVEL) if longest > _HIGHEST_LEVEL else Rescaling(np.zeros_like(center))
        )
    n_skipped = max(math.ceil(_MAX_EXTREME_SHARE * len(levels)), _MAX_EXTREME_ROWS)
    bulk = max(levels[max(0, len(levels) - 1 - n_skipped)], nonzero[0])
    typical = max(np.median(levels), nonzero[0])
    limit = max(bulk, typical) + _EXTREME_LEVEL
    has_extremes = longest > limit
    highest = min(limit, longest)
    needs_offset = _log2(np.abs(center).max()) + width - typical > _OFFSET_LEVEL
    needs_exponent = typical < _LOWEST_LEVEL or highest > _HIGHEST_LEVEL
    if not (has_extremes or needs_offset or needs_exponent):
        return Rescaling(np.zeros_like(center))
    exponent = min(round(-typical), math.floor(_HIGHEST_LEVEL - highest)) if needs_exponent else 0
    return Rescaling(center, exponent, 2.0 ** (limit + exponent) if has_extremes else math.inf)


def _log2(value: Any) -> float:
    return math.log2(value) if value > 0 else -math.inf


class RescaledSource(Source):
    """The vectors of another source, rescaled and as float32.

    Parameters
    ----------
    source : Source
    rescaling : Rescaling
    """

    dtype = np.dtype(np.float32)

    def __init__(self, source: Source, rescaling: Rescaling) -> None:
        self._source, self._rescaling = source, rescaling
        self.n_rows, self.n_dims, self.name = source.n_rows, source.n_dims, source.name

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rescaled rows `start` to `stop`."""
        return self._rescaling.apply(self._source.read(start, stop))

    def fingerprint(self) -> str:
        """Return the digest of the source."""
        return self._source.fingerprint()

    def chunk_boundaries(self) -> Any:
        """Return those of the source."""
        return self._source.chunk_boundaries()

    def slice_rows(self, start: int, stop: int) -> RescaledSource:
        """Return the same for a part of the rows."""
        return RescaledSource(self._source.slice_rows(start, stop), self._rescaling)

    def check_unchanged(self) -> None:
        """Check the source."""
        self._source.check_unchanged()
