"""Neighbor lists that a run keeps for its model: by row number through all shards, with distances of the metric."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from nomad_dask.backends.weighted_lists import NO_ROW
from nomad_dask.neighbors.cell_catalog import CellCatalog
from nomad_dask.neighbors.list_files import ListChunk
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources.rescaling import Rescaling
from nomad_dask.storage.npy_writer import appended_npy

KEPT_FOLDER = "lists"
KEPT_LISTS = ("neighbors", "distances")


def kept_list_file(shard: int, name: str) -> str:
    """Return the artifact of one of the `KEPT_LISTS` of a shard's rows."""
    return f"{KEPT_FOLDER}/{shard:04d}.{name}.npy"


def keep_lists(run: RunContext, catalog: CellCatalog, shard: int, chunks: Iterator[ListChunk]) -> Iterator[ListChunk]:
    """Write the lists of a shard's rows as they pass; the files appear when all have passed.

    ``neighbors`` (n_rows, k) uint32 are numbers through all shards, nearest first, `NO_ROW` where fewer were found;
    ``distances`` (n_rows, k) float32 are those of `metric_distances`.
    """
    first = next(chunks)
    k, n_rows_before = first.ids.shape[1], int(catalog.shard_rows()[:shard].sum())
    n_all_rows = int(catalog.counts.sum())
    rescaling = Rescaling.from_array(np.load(run.file("sample/rescaling.npy")))
    with (
        appended_npy(run.file(kept_list_file(shard, "neighbors")), np.dtype(np.uint32), (k,)) as add_neighbors,
        appended_npy(run.file(kept_list_file(shard, "distances")), np.dtype(np.float32), (k,)) as add_distances,
    ):
        for chunk in itertools.chain([first], chunks):
            assert chunk.distances is not None  # noqa: S101 - the plan keeps them
            add_neighbors(_count_from_start(chunk.ids, n_rows_before, n_all_rows))
            is_given = run.params.has_given_neighbors
            squared = chunk.distances
            add_distances(squared if is_given else metric_distances(squared, run.params.metric, rescaling))
            yield chunk


def _count_from_start(ids: np.ndarray, first: int, n_rows: int) -> np.ndarray:
    """Return rows that are counted from row `first` on, those before it last, by their numbers from the start."""
    numbers = (ids.astype(np.int64) + first) % n_rows
    return np.where(ids == NO_ROW, NO_ROW, numbers).astype(np.uint32)


def metric_distances(squared: np.ndarray, metric: str, rescaling: Rescaling) -> np.ndarray:
    """Return distances float32 in the metric and the unit of the source, from squared distances of stored vectors.

    The cosine distance 1 − cos of vectors of unit length is half of their squared distance.
    """
    if metric == "cosine":
        return np.asarray(squared / np.float32(2))
    return np.asarray(np.ldexp(np.sqrt(np.maximum(squared, 0)), -rescaling.exponent), np.float32)
