"""A map to export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.site_maps import write_map


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of 20,000 points in 12 heaps of unlike size, in row groups of unlike length, ordered by heap."""
    rng = np.random.default_rng(0)
    n = 20_000
    heap = np.sort(rng.zipf(1.6, n) % 12)
    x, y = rng.normal(size=(2, 12))[:, heap] * 9 + rng.normal(size=(2, n)) * (0.05 + heap / 12)
    words = np.array(["alpha", "Beta", "GAMMA", "straße", "Ünïcode", "42", "x1", "naïve", "ΣΊΣΥΦΟΣ", "日本"])
    text = [" ".join(words[rng.integers(10, size=k)]) + f" row{i}" for i, k in enumerate(rng.integers(0, 5, n))]
    score = rng.normal(size=n)
    score[::97] = np.nan
    return write_map(
        tmp_path_factory.mktemp("blobs") / "blobs.parquet",
        x.astype(np.float32),
        y.astype(np.float32),
        row_group_size=3_001,
        cell=heap.astype(np.int32),
        name=text,
        group=pa.array([None if h == 3 else f"group {h}" for h in heap]),
        score=pa.array(score, from_pandas=True),
        open=pa.array(heap % 2 == 0),
    )
