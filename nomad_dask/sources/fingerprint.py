"""Fingerprints: digests that change with the data and cost little, however large it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nomad_dask.sources.base import Source
from nomad_dask.sources.files import file_stat, open_binary

_PIECE = 1 << 16
_SAMPLES = 256
_SAMPLE_BYTES = 1 << 12


def digest_of(parts: Iterable[object]) -> str:
    """Return a digest of some plain values."""
    h = hashlib.blake2b(digest_size=16)
    for part in parts:
        h.update(repr(part).encode() + b"\n")
    return h.hexdigest()


def file_digest(path: str | Path, size: int | None = None) -> str:
    """Return a digest of a file's size and of 64 KiB at its beginning, middle and end.

    Names and times are left out: a file that was moved or copied is the same data.

    Parameters
    ----------
    path : path-like, or a URL
    size : int, optional
        Bytes of the file, where that is known.
    """
    place = str(path)
    size = file_stat(place).size if size is None else size
    h = hashlib.blake2b(digest_size=16)
    h.update(size.to_bytes(8, "little"))
    with open_binary(place, size) as f:
        for position in sorted({0, max(0, size // 2 - _PIECE // 2), max(0, size - _PIECE)}):
            f.seek(position)
            h.update(f.read(_PIECE))
    return h.hexdigest()


def sampled_digest(source: Source) -> str:
    """Return a digest of shape, dtype and about 1 MiB of rows, evenly spread; the same for equal data."""
    rows = max(1, _SAMPLE_BYTES // (source.n_dims * source.dtype.itemsize))
    last = max(0, source.n_rows - rows)
    h = hashlib.blake2b(digest_size=16)
    h.update(repr((source.n_rows, source.n_dims, source.dtype.str)).encode())
    for start in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
        h.update(source.read(start, min(start + rows, source.n_rows)).tobytes())
    return h.hexdigest()
