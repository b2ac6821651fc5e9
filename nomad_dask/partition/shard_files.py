"""Names of the files of a shuffle: of each sorted block, and of each shard."""

from __future__ import annotations

RUNS_FOLDER = "runs"
BLOCK_FILES = ("vectors", "rows", "start", "cells")
SHARD_FILES = ("vectors", "rows", "start", "cell_offsets", "centroids")


def block_file(block: int, name: str) -> str:
    """Return the file of one of the `BLOCK_FILES`, relative to the workspace."""
    return f"{RUNS_FOLDER}/block-{block:06d}.{name}.npy"


def shard_file(shard: int, name: str) -> str:
    """Return the artifact of one of the `SHARD_FILES`."""
    return f"shards/{shard:04d}.{name}.npy"
