"""Dask arrays and data frames."""

from __future__ import annotations

import pickle

import cloudpickle
import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
from nomad_dask.sources.dask import DaskArraySource
from tests.helpers.source_kinds import list_table


def no_scheduler(dsk, keys, **more):
    raise AssertionError("something was computed")


def test_opening_an_array_computes_nothing(x):
    with dask.config.set(scheduler=no_scheduler):
        source = open_source(da.from_array(x, chunks=(7, 2)))
        assert source.chunk_boundaries() == [0, 7, 14, 21, 28, 35, 41]
        assert source.n_dims == 5
        assert source.shareable
        source.fingerprint()
        pickled = pickle.dumps(source)
        # and reading computes by itself, whatever scheduler is set
        np.testing.assert_array_equal(pickle.loads(pickled).read(3, 9), x[3:9])


def test_only_the_chunks_needed_are_computed_and_once(x):
    made = []

    def block(block_id=None):
        made.append(block_id)
        return x[10 * block_id[0] : 10 * block_id[0] + 10]

    lazy = da.map_blocks(block, chunks=((10, 10, 10, 11), (5,)), dtype="f4", meta=np.empty((0, 0), "f4"))
    source = DaskArraySource(lazy)
    made.clear()
    source.read(10, 15)
    source.read(15, 20)
    source.read(18, 22)
    assert made == [(1, 0), (2, 0)]


def test_unknown_lengths_are_found_without_changing_the_array(x):
    lazy = da.from_array(x, chunks=10)[da.from_array(x[:, 0] > 0, chunks=10)]
    assert np.isnan(lazy.shape[0])
    source = open_source(lazy)
    assert np.isnan(lazy.shape[0])
    np.testing.assert_array_equal(source.read(0, source.n_rows), x[x[:, 0] > 0])


def test_data_that_changes_its_length_is_refused():
    sizes = iter([3, 4])
    part = dask.delayed(lambda: np.ones((next(sizes), 2)), pure=False)
    lazy = da.from_delayed(part(), shape=(np.nan, 2), dtype="f8")
    with pytest.raises(InputError, match="has 4 rows, 3 expected"):
        open_source(lazy).read(0, 3)


def test_frame_with_partitions_without_rows(x):
    frame = dd.from_pandas(pd.DataFrame(x).add_prefix("x").assign(n=range(41)), npartitions=4)
    frame = frame[frame.n > 15]
    source = open_source(frame, metadata_columns=["n"])
    np.testing.assert_array_equal(source.read(0, 25), x[16:])
    assert source.columns(["n"], 2, 25).column("n").to_pylist() == list(range(18, 41))
    with pytest.raises(InputError, match=r"0 sample\(s\)"):
        open_source(frame[frame.n > 100])


FRAMES = {
    "all": lambda frame: frame,
    "selected": lambda frame: frame[["x0", "x1", "x2", "x3", "x4", "id"]],
    "fused": lambda frame: frame[["x0", "x1", "x2", "x3", "x4", "id"]].optimize(),
    "computed": lambda frame: frame.assign(x4=-frame.x4, text=frame.text.str.upper()),
    "filtered": lambda frame: frame[frame.id >= 100],
    "filtered by text": lambda frame: frame[frame.text != "text 7"],
    "mapped": lambda frame: frame.map_partitions(lambda part: part[part.id % 2 == 0]),
    "fewer partitions": lambda frame: frame.repartition(npartitions=2),
    "more partitions": lambda frame: frame.repartition(npartitions=9),
    "with itself": lambda frame: dd.concat([frame, frame]),
    "without text": lambda frame: frame.drop(columns="text").dropna(),
}


def parquet_files(folder, n_files):
    """600 rows of wide and narrow columns, in files of different lengths."""
    x = np.random.default_rng(n_files).standard_normal((600, 5)).astype("f4")
    frame = pd.DataFrame(x).add_prefix("x").assign(id=range(600), text=[f"text {i % 50}" for i in range(600)])
    for i, rows in enumerate(np.split(np.arange(600), np.linspace(0, 600, n_files + 1)[1:-1].astype(int) + 7)):
        frame.iloc[rows].to_parquet(folder / f"part.{i}.parquet", row_group_size=90)
    return folder


@pytest.mark.parametrize(
    ("n_files", "reading"),
    [(2, {}), (6, {}), (6, {"filesystem": "arrow"}), (1, {"split_row_groups": True}), (3, {"index": False})],
)
def test_frames_of_several_files(tmp_path, n_files, reading):
    """Whatever Dask makes of the partitions for some of the columns, rows are those of `compute`."""
    frame = dd.read_parquet(parquet_files(tmp_path, n_files), **reading)
    for name, make in FRAMES.items():
        lazy = make(frame)
        expected = lazy.compute()
        text = [c for c in ("text",) if c in lazy.columns]
        source = open_source(lazy, metadata_columns=["id", *text])
        part = pickle.loads(cloudpickle.dumps(source)).slice_rows(60, 205)
        n = len(expected)
        for reader, start, stop in [
            (source, 0, n),
            (source, 95, 110),
            (pickle.loads(cloudpickle.dumps(part)), 60, 205),
        ]:
            rows = reader.read(start, stop)
            np.testing.assert_array_equal(rows, expected.iloc[start:stop, :5], err_msg=name)
        kept = source.columns([*text, "id"], 90, 110)
        assert kept.column("id").to_pylist() == expected["id"].iloc[90:110].tolist(), name
        assert not text or kept.column("text").to_pylist() == expected["text"].iloc[90:110].tolist()
        if name != "with itself" and len(lazy.columns) == 7:
            one = open_source(lazy[["x3"]])
            np.testing.assert_array_equal(one.read(0, n), expected[["x3"]])


def test_lists_in_several_files(tmp_path, x):
    for i, rows in enumerate(np.array_split(x, 6)):
        pq.write_table(list_table(rows, id=[i] * len(rows), text=["some text"] * len(rows)), tmp_path / f"{i}.parquet")
    for columns in (None, ["v"], ["v", "id"]):
        source = open_source(dd.read_parquet(tmp_path, columns=columns))
        np.testing.assert_array_equal(source.read(0, 41), x)
        np.testing.assert_array_equal(source.slice_rows(5, 30).read(6, 29), x[6:29])


def test_only_the_columns_and_partitions_needed_are_read(x):
    reads = []

    def part(i, columns=None):
        reads.append((i, columns))
        frame = pd.DataFrame(x[10 * i : 10 * i + 10]).add_prefix("x").assign(text="some text")
        return frame if columns is None else frame[columns]

    frame = dd.from_map(part, range(4), meta=part(0))
    source = open_source(frame, metadata_columns=["text"])
    reads.clear()
    source.read(12, 25)
    source.slice_rows(20, 30).read(20, 30)
    vectors = [f"x{j}" for j in range(5)]
    assert reads == [(1, vectors), (2, vectors), (2, vectors)]
    reads.clear()
    source.columns(["text"], 5, 9)
    assert reads == [(0, ["text"])]


def test_frame_whose_lists_became_text(x):
    frame = dd.from_pandas(pd.DataFrame({"v": list(x)}), npartitions=2)
    for column in ("v", None):
        with pytest.raises(InputError, match=r"dataframe\.convert-string"):
            open_source(frame, column=column)


def test_other_collections():
    import dask.bag as db

    with pytest.raises(InputError, match="neither a Dask array nor a data frame"):
        open_source(db.from_sequence([1, 2]))


def test_arrays_and_frames_have_the_token_of_dask(x):
    assert open_source(da.from_array(x, 7)).fingerprint() == open_source(da.from_array(x.copy(), 7)).fingerprint()
    assert open_source(da.from_array(x, 7)).fingerprint() != open_source(da.from_array(x + 1, 7)).fingerprint()


def read_here(source, start, stop):
    return source.read(start, stop)


def test_on_worker_processes(x, tmp_path):
    """Workers of their own process open shareable sources; others are refused with a reason."""
    np.save(tmp_path / "x.npy", x)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        lazy = da.from_array(x, chunks=(7, 2))
        for shareable in (tmp_path / "x.npy", lazy):
            rows = client.submit(read_here, open_source(shareable), 5, 23).result()
            np.testing.assert_array_equal(rows, x[5:23])
        persisted = open_source(lazy.persist() + 1)
        assert not persisted.shareable
        np.testing.assert_array_equal(persisted.read(5, 23), x[5:23] + 1)
        frame = dd.from_pandas(pd.DataFrame(x).add_prefix("x"), npartitions=3).persist()
        assert not open_source(frame).shareable
        np.testing.assert_array_equal(open_source(frame).read(5, 23), x[5:23])
        for local in (persisted, open_source(x)):
            with pytest.raises(InputError, match="memory of another process"):
                client.submit(read_here, local, 5, 23).result()


def test_on_workers_in_this_process(x):
    """They read what is in memory without a copy, and results of their own cluster."""
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        source = open_source(x)
        rows = client.submit(read_here, source, 5, 23).result()
        assert np.shares_memory(rows, x)
        persisted = open_source(client.persist(da.from_array(x, chunks=(7, 2))))
        assert not persisted.shareable
        np.testing.assert_array_equal(client.submit(read_here, persisted, 5, 23).result(), x[5:23])
