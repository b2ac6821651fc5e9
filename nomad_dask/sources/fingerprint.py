"""Fingerprints: digests that change with the data, and are cheap to compute at any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nomad_dask.sources.base import Source
from nomad_dask.sources.files import file_stat, open_binary

_PART_BYTES = 1 << 16
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

    Names and times are excluded, so that a moved or copied file has the same digest.

    Parameters
    ----------
    path : path-like, or a URL
    size : int, optional
        Size of the file in bytes, if known.
    """
    location = str(path)
    size = file_stat(location).size if size is None else size
    h = hashlib.blake2b(digest_size=16)
    h.update(size.to_bytes(8, "little"))
    with open_binary(location, size) as f:
        for position in sorted({0, max(0, size // 2 - _PART_BYTES // 2), max(0, size - _PART_BYTES)}):
            f.seek(position)
            h.update(f.read(_PART_BYTES))
    return h.hexdigest()


def sampled_digest(source: Source) -> str:
    """Return a digest of shape, dtype and about 1 MiB of evenly spaced rows; equal data have equal digests."""
    rows = max(1, _SAMPLE_BYTES // (source.n_dims * source.dtype.itemsize))
    last = max(0, source.n_rows - rows)
    h = hashlib.blake2b(digest_size=16)
    h.update(repr((source.n_rows, source.n_dims, source.dtype.str)).encode())
    for start in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
        h.update(source.read(start, min(start + rows, source.n_rows)).tobytes())
    return h.hexdigest()
