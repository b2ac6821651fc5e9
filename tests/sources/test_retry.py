"""Reading again what failed, and files that change while they are read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from nomad_dask.errors import InputError, MissingInputError, NomadWarning
from nomad_dask.params import Params
from nomad_dask.pipeline.options import ClusterOptions
from nomad_dask.pipeline.run import project
from nomad_dask.sources import open_source, retry
from nomad_dask.sources.npy import NpySource
from nomad_dask.sources.retry import with_retries
from tests.helpers.runs import blobs, make_map, worker_processes
from tests.helpers.source_kinds import list_table

SETTINGS = {"n_shards": 2, "n_epochs": 5, "cell_size": 50}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retry, "WAITS", (0.01, 0.02, 0.03))


def failing(errors):
    """A function that raises these errors one after the other, and then returns 7."""
    left = iter(errors)

    def read():
        for error in left:
            raise error
        return 7

    return read


IO = OSError(errno.EIO, "Input/output error")
STALE = OSError(errno.ESTALE, "Stale file handle")


def test_two_failures_and_then_it_works(quick):
    with pytest.warns(NomadWarning) as caught:
        assert with_retries(failing([IO, TimeoutError()]), "x.npy, rows 3 to 9,") == 7
    assert [str(w.message) for w in caught] == [
        "x.npy, rows 3 to 9, could not be read (OSError: [Errno 5] Input/output error): trying again in 0.01 s.",
        "x.npy, rows 3 to 9, could not be read (TimeoutError): trying again in 0.02 s.",
    ]


def test_waits_grow(monkeypatch):
    waited = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(
            InputError, match=r"cannot be read, tried 4 times \(OSError: \[Errno 116\].*the same command"
        ) as expected,
    ):
        with_retries(failing([STALE] * 9), "x.npy, rows 3 to 9,")
    assert waited == [0.1, 1.0, 5.0]
    assert expected.value.__cause__ is STALE
    assert expected.value.exit_code == 2


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FileNotFoundError(2, "No such file"), MissingInputError, "does not exist"),
        (PermissionError(13, "Permission denied"), InputError, "may not be read .*check its permissions"),
        (ValueError("bad rows"), ValueError, "bad rows"),
        (InputError("row 3 is bad"), InputError, "row 3 is bad"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(error, kind, message):
    with pytest.raises(kind, match=message):
        with_retries(failing([error]), "x.npy")


class FlakyNpy(NpySource):
    """Fails to read the block that holds row 700, in any process, a given number of times."""

    def _read(self, start, stop):
        if start <= 700 < stop:
            with Path(self.log).open("a") as f:
                f.write(f"{os.getpid()}\n")
            if len(Path(self.log).read_text().splitlines()) <= self.failures:
                raise OSError(errno.EIO, "Input/output error")
        return super()._read(start, stop)


@pytest.fixture(scope="module")
def client():
    with worker_processes(2) as client:
        yield client


def test_a_block_that_fails_twice_in_a_run(tmp_path, client, monkeypatch):
    """The worker that reads it retries and the client warns; the map is the same."""
    x = blobs(1200)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("nomad_dask.planning.planner._MAX_BLOCK_BYTES", 4 * 20 * 300)
    source = FlakyNpy(tmp_path / "x.npy")
    source.log, source.failures = tmp_path / "log", 2
    with pytest.warns(NomadWarning, match=r"x\.npy, rows 600 to 899, could not be read .*in (0\.1|1) s") as caught:
        found = project(source, Params(**SETTINGS), cluster=ClusterOptions(client))
    np.testing.assert_array_equal(found.positions, make_map(x, **SETTINGS).positions)
    assert len(caught) == 2
    tries = (tmp_path / "log").read_text().split()
    assert len(tries) == 4, "two that failed, and one for each pass"
    assert set(map(int, tries)) <= set(client.run(os.getpid).values())


def test_a_block_that_never_works_in_a_run(tmp_path, client):
    np.save(tmp_path / "x.npy", blobs(1200))
    source = FlakyNpy(tmp_path / "x.npy")
    source.log, source.failures = tmp_path / "log", 1000
    client.run(lambda: setattr(retry, "WAITS", (0.01, 0.01)))
    with (
        pytest.warns(NomadWarning, match="trying again"),
        pytest.raises(InputError, match=r"x\.npy, rows 0 to 1199, cannot be read, tried 3 times"),
    ):
        project(source, Params(**SETTINGS), cluster=ClusterOptions(client))
    client.run(lambda: setattr(retry, "WAITS", (0.1, 1.0, 5.0)))


def one_npy(folder, x):
    np.save(folder / "x.npy", x)
    return folder / "x.npy", folder / "x.npy"


def one_parquet(folder, x):
    for name, part in zip("ab", np.array_split(x, 2), strict=True):
        pq.write_table(list_table(part), folder / f"{name}.parquet")
    return folder, folder / "a.parquet"


def one_zarr(folder, x):
    zarr.create_array(folder / "x.zarr", data=x, chunks=(10, 5))
    return folder / "x.zarr", folder / "x.zarr" / "c" / "0" / "0"


@pytest.mark.parametrize("make", [one_npy, one_parquet, one_zarr])
def test_changed_since_it_was_opened(tmp_path, x, make):
    """Of the same size, by its time; of another size; and gone. Rows that others hold can still be read."""
    path, part = make(tmp_path, x)
    source = open_source(path)
    source.read(0, 5)
    before = part.stat()
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns + 10_000))
    with pytest.raises(InputError, match=r"has changed .*since (it|the array) was opened.*start again.*cp -p"):
        source.read(0, 5)
    with pytest.raises(InputError, match="has changed"):
        source.check_unchanged()
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(source.read(0, 5), x[:5])
    source.check_unchanged()
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    with pytest.raises(InputError, match="has changed"):
        source.read(0, 5)
    part.unlink()
    with pytest.raises((MissingInputError, InputError), match="gone"):
        source.read(0, 5)
    if make is not one_npy:
        np.testing.assert_array_equal(source.read(30, 41), x[30:])


def test_changed_during_a_run(tmp_path, client):
    """Between the sample and the exchange: the error names the file."""
    from nomad_dask.callbacks import StageFinished

    np.save(tmp_path / "x.npy", blobs(1200))

    def emit(event):
        if isinstance(event, StageFinished) and event.stage == "sample":
            np.save(tmp_path / "x.npy", blobs(1200, seed=1))

    with pytest.raises(InputError, match=r"x\.npy has changed since it was opened"):
        make_map(tmp_path / "x.npy", client=client, emit=emit, **SETTINGS)


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="becomes another user, which takes root")
def test_not_permitted(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    pq.write_table(list_table(x), tmp_path / "x.parquet")
    for path in tmp_path.iterdir():
        path.chmod(0)
    code = """
import contextlib, os, sys
from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
for path in sys.argv[1:]:  # imports what it needs, which another user may not be able to read
    with contextlib.suppress(InputError):
        open_source(path)
os.seteuid(12345)
for path in sys.argv[1:]:
    try:
        open_source(path)
    except InputError as error:
        print(error)
"""
    for folder in (tmp_path, *tmp_path.parents[:3]):  # one more where tests run side by side
        folder.chmod(0o755)
    command = [sys.executable, "-c", code, tmp_path / "x.npy", tmp_path / "x.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("may not be read (PermissionError") == 2
