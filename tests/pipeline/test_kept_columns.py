"""Columns to keep that cannot be written are refused before the first stage; all others come back unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nomad_dask import NomadProjection
from nomad_dask.callbacks import StageStarted
from nomad_dask.errors import InputError
from nomad_dask.maps import read_map
from nomad_dask.sources import open_source
from tests.helpers.runs import EventLog, blobs, make_map

N = 120
SETTINGS: dict[str, Any] = {"n_epochs": 2, "n_cells": 4, "n_shards": 1, "metadata_columns": ["c"]}


def source_of(kind: str, column: Any) -> Any:
    frame = pd.DataFrame(blobs(N, 4), columns=list("abde"))
    frame["c"] = column
    if kind == "pandas":
        return open_source(frame, metadata_columns=["c"])
    with dask.config.set({"dataframe.convert-string": False}):
        return open_source(dd.from_pandas(frame, npartitions=3), metadata_columns=["c"])


def objects(values: list[Any]) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


WRONG = {
    "mixed": lambda: objects([1, "a"] * (N // 2)),
    "mixed in the last row": lambda: objects(["a"] * (N - 1) + [2.5]),
    "complex numbers": lambda: np.zeros(N, complex),
    "numbers of 70 bits": lambda: objects([1 << 70] * N),
    "objects": lambda: objects([object()] * N),
    "empty structs": lambda: objects([{}] * N),
    "sparse": lambda: pd.arrays.SparseArray([0, 1] * (N // 2)),
}


@pytest.mark.parametrize("kind", ["pandas", "dask"])
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, what, kind):
    source, log = source_of(kind, WRONG[what]()), EventLog()
    with pytest.raises(InputError, match=r"cannot be kept|cannot hold") as caught:
        make_map(source, output=tmp_path / "map.parquet", emit=log, **SETTINGS)
    assert " c " in str(caught.value) or "'c'" in str(caught.value)
    assert log.of(StageStarted) == []
    assert list(tmp_path.iterdir()) == []


RIGHT = {
    "text only in the last row": lambda: objects([None] * (N - 1) + ["z"]),
    "nothing at all": lambda: objects([None] * N),
    "whole numbers, then fractions": lambda: objects([1] * (N - 1) + [2.5]),
    "categories": lambda: pd.Categorical([str(i) for i in range(N)]),
    "lists": lambda: objects([[1], []] * (N // 2)),
    "times": lambda: pd.date_range("2020", periods=N, tz="Europe/Berlin"),
}


@pytest.mark.parametrize("kind", ["pandas", "dask"])
@pytest.mark.parametrize("what", RIGHT)
def test_values_come_back_also_from_later_blocks(tmp_path, monkeypatch, what, kind):
    """The type of a column is that of all its values, not of the first block that is written."""
    monkeypatch.setattr("nomad_dask.maps.table.BLOCK_ROWS", 50)
    column = RIGHT[what]()
    make_map(source_of(kind, column), output=tmp_path / "map.parquet", **SETTINGS)
    found = read_map(tmp_path / "map.parquet").column("c").to_pylist()
    assert found == pa.array(list(column), from_pandas=True).to_pylist()


def test_names_that_are_not_one_column(tmp_path):
    frame = pd.DataFrame(blobs(N, 4), columns=list("abde"))
    frame["c"] = 1
    twice = pd.concat([frame, frame[["c"]]], axis=1)
    for data, names, message in (
        (frame, ["c", "c"], "'c' to keep was given twice"),
        (frame.assign(x="a"), ["x"], "the map has its own"),
        (twice, ["c"], r"'c'"),
    ):
        for fit in (
            lambda data=data, names=names: NomadProjection(n_epochs=2).fit(data, metadata_columns=names),
            lambda data=data, names=names: make_map(
                open_source(data, metadata_columns=names), output=tmp_path / "m.parquet", metadata_columns=names
            ),
        ):
            with pytest.raises(InputError, match=message):
                fit()
    assert list(tmp_path.iterdir()) == []


def test_files_keep_the_types_of_their_schema(tmp_path: Path):
    import pyarrow.parquet as pq

    table = pa.table({"v": pa.array(list(blobs(N, 4))), "c": pa.array([1, None] * (N // 2), pa.int8())})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", metadata_columns=["c"])
    make_map(source, output=tmp_path / "map.parquet", **SETTINGS)
    kept = read_map(tmp_path / "map.parquet").column("c")
    assert kept.type == pa.int8()
    assert kept.equals(table.column("c"))
