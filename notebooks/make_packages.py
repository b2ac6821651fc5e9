"""Create packages.parquet: text embeddings of a tenth of a Debian release, small enough for a repository.

python notebooks/make_packages.py debian_packages.parquet

The input has the columns name, section, text and embedding, with one row per package. Ten thousand random rows are
kept, and their vectors are reduced to 48 principal axes of all rows and stored as float16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

N_ROWS, N_DIMS = 10_000, 48
FILE = Path(__file__).with_name("packages.parquet")


def reduce(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Project some rows on the first principal axes of all rows: float16 (len(rows), `N_DIMS`)."""
    centered = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    return (centered[rows] @ axes[:, : -N_DIMS - 1 : -1]).astype(np.float16)


def main(path: str) -> None:
    table = pq.read_table(path)
    vectors = np.stack(table.column("embedding").to_numpy()).astype(np.float64)
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:N_ROWS])
    values = pa.array(reduce(vectors, rows).ravel())
    small = table.select(["name", "section", "text"]).take(pa.array(rows))
    small = small.append_column("embedding", pa.FixedSizeListArray.from_arrays(values, N_DIMS))
    pq.write_table(small.replace_schema_metadata(), FILE, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main(*sys.argv[1:])
