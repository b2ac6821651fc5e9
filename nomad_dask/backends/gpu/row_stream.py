"""Rows of a shard's files on the device: read ahead by several threads, and converted to float32 there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.block_reader import to_float32
from nomad_dask.backends.gpu.runtime import Runtime
from nomad_dask.backends.row_reader import ShardVectors
from nomad_dask.utils.threads import map_ahead

READERS = 4
"""Blocks that are read at the same time."""
_MIN_BLOCK_ROWS = 256


def upload_blocks(
    vectors: ShardVectors, block_bytes: int, host_bytes: int, runtime: Runtime
) -> Iterator[tuple[int, int, Any]]:
    """Yield all rows in blocks: the first row and the end of each, and the rows as float32 on the device.

    Parameters
    ----------
    vectors : ShardVectors
    block_bytes : int
        Largest size of a block as float32, unless it has `_MIN_BLOCK_ROWS` rows.
    host_bytes : int
        Memory for the blocks that are read ahead, with the same exception.
    runtime : Runtime
    """
    step = max(_MIN_BLOCK_ROWS, min(block_bytes, host_bytes // (READERS + 1)) // (4 * vectors.n_dims))
    blocks = [(start, min(start + step, vectors.n_rows)) for start in range(0, vectors.n_rows, step)]
    read = map_ahead(lambda block: vectors.read_stored(*block), blocks, READERS)
    for (start, stop), rows in zip(blocks, read, strict=True):
        yield start, stop, to_float32(rows, vectors.metric, runtime)


def upload_rows(vectors: ShardVectors, rows: np.ndarray, block_bytes: int, runtime: Runtime) -> Any:
    """Return the vectors (m, d) of `rows` (m,), ascending, as float32 on the device."""
    uploaded = runtime.xp.empty((len(rows), vectors.n_dims), np.float32)
    step = max(_MIN_BLOCK_ROWS, block_bytes // (4 * vectors.n_dims))
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]
    for i, block in enumerate(map_ahead(vectors.gather, parts, READERS)):
        runtime.upload_into(uploaded[i * step : i * step + len(block)], block)
    return uploaded
