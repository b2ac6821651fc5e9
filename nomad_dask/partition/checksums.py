"""Checksums of what the source computes: the same in each pass over its rows, also when the run is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from nomad_dask.planning.run_context import RunContext
from nomad_dask.storage.atomic import atomic_write

_FILE = "sample/checksums.npy"


def save_checksums(run: RunContext, found: Iterable[Mapping[int, int]]) -> list[str]:
    """Write ``sample/checksums.npy`` (n, 2) uint64: numbers and checksums. Without checksums, write nothing.

    Returns
    -------
    list of str
        Artifacts.
    """
    pairs = sorted({pair for checksums in found for pair in checksums.items()})
    if not pairs:
        return []
    with atomic_write(run.file(_FILE)) as unfinished, unfinished.open("wb") as f:
        np.save(f, np.array(pairs, np.uint64))
    return [_FILE]


def with_checksums(run: RunContext) -> RunContext:
    """Return the run with a source that must compute what it computed for the sample, if that was computed."""
    if not run.file(_FILE).exists():
        return run
    checksums = {int(number): int(checksum) for number, checksum in np.load(run.file(_FILE))}
    return replace(run, source=run.source.with_checksums(checksums))
