"""Names of the files of a shuffle: of each sorted block, and of each shard."""

from __future__ import annotations

RUNS_FOLDER = "runs"
BLOCK_FILES = ("vectors", "rows", "start", "cells")
SHARD_FILES = ("vectors", "rows", "start", "cell_offsets", "centroids")
GIVEN_ARRAYS = ("given_neighbors", "given_distances")
"""Neighbor lists that the user gives: of blocks and of shards, and in the order of the input."""


def given_file(name: str) -> str:
    """Return the artifact of one of the `GIVEN_ARRAYS` in the order of the input."""
    return f"sample/{name}.npy"


def block_file(block: int, name: str) -> str:
    """Return the file of one of the `BLOCK_FILES` or `GIVEN_ARRAYS`, relative to the workspace."""
    return f"{RUNS_FOLDER}/block-{block:06d}.{name}.npy"


def shard_file(shard: int, name: str) -> str:
    """Return the artifact of one of the `SHARD_FILES` or `GIVEN_ARRAYS`."""
    return f"shards/{shard:04d}.{name}.npy"
