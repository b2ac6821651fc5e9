"""A source is read once for the sample and once for the shuffle, by the workers and never by the client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from nomad_dask.callbacks import StageFinished, StageStarted
from nomad_dask.params import Params
from nomad_dask.pipeline.options import ClusterOptions, WorkspaceOptions
from nomad_dask.pipeline.run import project
from nomad_dask.sources import open_source
from nomad_dask.sources.npy import NpySource
from nomad_dask.sources.parquet import ParquetSource
from nomad_dask.sources.zarr import ZarrSource
from tests.helpers.object_store import s3
from tests.helpers.runs import worker_processes

N, DIMS, BLOCK = 36_000, 64, 2_500
SIZE = N * DIMS * 4
SETTINGS = {"n_shards": 2, "n_cells": 20, "n_epochs": 1, "n_neighbors": 3, "coarse_init": "never"}


class Stop(Exception):  # noqa: N818
    """Stops a run after a stage."""


def stop_after(stage, on_start):
    def emit(event):
        if isinstance(event, StageStarted) and event.stage == stage:
            on_start()
        if isinstance(event, StageFinished) and event.stage == stage and not event.resumed:
            raise Stop

    return emit


def run_to(stage, source, workspace, client, on_start=lambda: None):
    with pytest.raises(Stop):
        project(
            source,
            Params(**SETTINGS),
            cluster=ClusterOptions(client),
            workspace=WorkspaceOptions(workspace),
            emit=stop_after(stage, on_start),
        )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("nomad_dask.planning.planner._MAX_BLOCK_BYTES", 4 * DIMS * BLOCK)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((N, DIMS), dtype="f4")


@pytest.fixture(scope="module")
def files(x, tmp_path_factory):
    """The same rows in every format, in row groups or chunks larger than a block, the hard case."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "x.npy", x)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), DIMS)
    plain = {"compression": "none", "use_dictionary": False, "row_group_size": 4 * BLOCK}
    pq.write_table(pa.table({"v": lists}), folder / "x.parquet", **plain)
    zarr.create_array(folder / "x.zarr", data=x, chunks=(3 * BLOCK + 7, 32), compressors=None)
    zarr.create_array(folder / "s.zarr", data=x, chunks=(500, 16), shards=(6000, 64), compressors=None)
    return folder


@pytest.fixture(scope="module")
def store():
    with pytest.MonkeyPatch.context() as patch, s3(patch.setenv) as server:
        yield server


@pytest.fixture(scope="module")
def client(store):
    """Two worker processes that can reach the store."""
    with worker_processes(2) as client:
        yield client


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.zarr", "s.zarr"])
def test_a_store_sends_every_byte_twice(tmp_path, files, store, client, name):
    """Bytes sent by the server to any process, for a run that stops after the sample and is resumed."""
    url = store.put(files / name, "twice")
    overhead = 3 << 20  # headers, footers, a page of first rows, the fingerprint, by every process that opens it
    store.sent.clear()
    run_to("sample", open_source(url), tmp_path / "w", client)
    after_sample = sum(store.sent.values())
    assert SIZE <= after_sample <= SIZE + overhead
    run_to("shards", open_source(url), tmp_path / "w", client)
    assert 2 * SIZE <= sum(store.sent.values()) <= 2 * (SIZE + overhead)
    rows = np.concatenate([np.load(tmp_path / "w" / "shards" / f"{s:04d}.rows.npy") for s in range(2)])
    np.testing.assert_array_equal(np.sort(rows), np.arange(N))


def log_rows(file, rows):
    """Append one line atomically to a file that several processes write."""
    with Path(file).open("a") as f:
        f.write(f"{os.getpid()} {rows}\n")


class CountedNpy(NpySource):
    log = os.devnull

    def _read(self, start, stop):
        log_rows(self.log, stop - start)
        return super()._read(start, stop)


class CountedParquet(ParquetSource):
    log = os.devnull

    def _decode(self, *more, **named):
        for batch in super()._decode(*more, **named):
            log_rows(self.log, batch.num_rows)
            yield batch


class CountedZarr(ZarrSource):
    log = os.devnull

    def _array(self):
        return Counted(super()._array(), self.log)


class Counted:
    """An array that logs the rows of the chunks it decodes."""

    def __init__(self, array, log):
        self._array, self._log = array, log

    def __getattr__(self, name):
        return getattr(self._array, name)

    def __getitem__(self, rows):
        step = self._array.chunks[0]
        log_rows(self._log, min(-(-rows.stop // step) * step, N) - rows.start // step * step)
        return self._array[rows]


def rows_by_process(log):
    """Return the rows read by each process."""
    counts = Counter()
    for line in log.read_text().splitlines():
        pid, rows = line.split()
        counts[int(pid)] += int(rows)
    return counts


@pytest.mark.parametrize("kind", ["npy", "parquet", "zarr", "sharded"])
def test_every_row_is_decoded_twice(tmp_path, files, client, kind):
    source = {
        "npy": lambda: CountedNpy(files / "x.npy"),
        "parquet": lambda: CountedParquet([files / "x.parquet"], None, (), "x"),
        "zarr": lambda: CountedZarr(files / "x.zarr"),
        "sharded": lambda: CountedZarr(files / "s.zarr"),
    }[kind]()
    source.log = tmp_path / "log"
    source.log.touch()
    run_to("sample", source, tmp_path / "w", client)
    first_pass = rows_by_process(source.log)
    assert N <= sum(first_pass.values()) <= 1.05 * N
    run_to("shards", source, tmp_path / "w", client)
    both_passes = rows_by_process(source.log)
    assert 2 * N <= sum(both_passes.values()) <= 2.05 * N + 16
    workers = set(client.run(os.getpid).values())
    assert set(both_passes) <= workers, "the client reads nothing"


def make_chunk(log, block_id=None, array_location=None):
    """Make one chunk of a Dask array, and log it."""
    log_rows(log, 1000)
    return np.random.default_rng(block_id).standard_normal((1000, DIMS), dtype="f4")


def fail_to_compute(dsk, keys, **more):
    raise AssertionError("something was computed")


def test_workers_compute_the_chunks_of_a_dask_array(tmp_path, client, monkeypatch):
    """Opening and planning compute nothing; later each chunk is computed twice, never on the client or scheduler."""
    log = tmp_path / "log"
    log.touch()
    lazy = da.map_blocks(
        make_chunk, str(log), chunks=((1000,) * 36, (DIMS,)), dtype="f4", meta=np.empty((0, 0), "f4")
    )  # fmt: skip
    n_bytes = count_messages(monkeypatch)
    with dask.config.set(scheduler=fail_to_compute):
        source = open_source(lazy)
        assert source.blocks(BLOCK)
        source.fingerprint()
        assert log.read_text() == ""
        run_to("sample", source, tmp_path / "w", client)
        assert sum(rows_by_process(log).values()) == N
        run_to("shards", source, tmp_path / "w", client)
    read = rows_by_process(log)
    assert sum(read.values()) == 2 * N
    assert set(read) <= set(client.run(os.getpid).values())
    assert 0 < n_bytes[0] < SIZE / 4
    vectors = np.concatenate([np.load(tmp_path / "w" / "shards" / f"{s:04d}.vectors.npy") for s in range(2)])
    rows = np.concatenate([np.load(tmp_path / "w" / "shards" / f"{s:04d}.rows.npy") for s in range(2)])
    expected = np.concatenate([np.random.default_rng((i, 0)).standard_normal((1000, DIMS), "f4") for i in range(36)])
    np.testing.assert_array_equal(vectors[np.argsort(rows)], expected)


def count_messages(monkeypatch):
    """Count the bytes of all messages of this process, which runs the client and the scheduler."""
    import distributed.comm.tcp as tcp

    n_bytes = [0]
    from_frames, to_frames = tcp.from_frames, tcp.to_frames

    def count(frames):
        n_bytes[0] += sum(memoryview(f).nbytes for f in frames)
        return frames

    async def received(frames, *more, **named):
        return await from_frames(count(frames), *more, **named)

    async def sent(*more, **named):
        return count(await to_frames(*more, **named))

    monkeypatch.setattr(tcp, "from_frames", received)
    monkeypatch.setattr(tcp, "to_frames", sent)
    return n_bytes


def test_data_in_a_graph_is_sent_once_per_pass(tmp_path, x, client, monkeypatch):
    """The graph of an in-memory array contains it: a task receives only its own chunks."""
    n_bytes = count_messages(monkeypatch)
    source = open_source(da.from_array(x, chunks=(1000, DIMS)))
    run_to("sample", source, tmp_path / "w", client, on_start=lambda: n_bytes.__setitem__(0, 0))
    # Sent by the client, received and sent on by the scheduler.
    assert n_bytes[0] < 3 * SIZE * 1.1 + (2 << 20)


def test_resuming_after_a_kill_does_not_read_the_sample_again(tmp_path, files):
    """A process is killed after the sample: the next one reads the source for the shuffle only."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
import tests.partition.test_passes_over_source as t, nomad_dask.planning.planner as planner
from nomad_dask.callbacks import StageFinished
planner._MAX_BLOCK_BYTES = 4 * t.DIMS * t.BLOCK
source = t.CountedParquet([sys.argv[2]], None, (), "x")
source.log = sys.argv[3]
def emit(event):
    if isinstance(event, StageFinished) and event.stage in ("sample", "shards") and not event.resumed:
        os._exit(9)
t.project(source, t.Params(**t.SETTINGS), workspace=t.WorkspaceOptions(t.Path(sys.argv[4])), emit=emit)
"""
    log = tmp_path / "log"
    arguments = [Path(__file__).parents[2], files / "x.parquet", log, tmp_path / "w"]
    for passes in (1, 2):
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False, timeout=200)
        assert done.returncode == 9
        assert passes * N <= sum(rows_by_process(log).values()) <= passes * 1.05 * N
