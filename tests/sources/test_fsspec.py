"""Vectors behind URLs: the same rows as from files, no more bytes than they need, and clear errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from nomad_dask.errors import InputError, MissingInputError, NomadWarning
from nomad_dask.sources import open_source, retry
from tests.helpers.commands import run_command
from tests.helpers.object_store import CREDENTIALS, s3
from tests.helpers.runs import blobs, make_map
from tests.helpers.source_kinds import list_table, npy_fortran, parquet_directory


@pytest.fixture(scope="module")
def store():
    with pytest.MonkeyPatch.context() as patch, s3(patch.setenv) as server:
        yield server


@pytest.fixture
def memory():
    """A function that copies a folder to fsspec's memory, and returns its URL there."""
    fs = fsspec.filesystem("memory")

    def put(path):
        for p in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
            fs.pipe_file(f"/data/{p.relative_to(path.parent).as_posix()}", p.read_bytes())
        return f"memory://data/{path.name}"

    yield put
    fs.store.clear()


@pytest.fixture
def on(request, store, memory):
    """Functions that put a file or folder where its URL reaches it."""
    return {"file": lambda p: p.as_uri(), "memory": memory, "s3": store.put}


def folder_of(tmp_path, x):
    """One of every kind that can be behind a URL."""
    home = tmp_path / "with space"
    (home / "parts").mkdir(parents=True)
    np.save(home / "c.npy", x)
    npy_fortran(home, x)
    (home / "x.npy").rename(home / "f.npy")
    parquet_directory(home / "parts", x)
    pq.write_table(list_table(x, id=range(len(x))), home / "one.parquet", row_group_size=7)
    zarr.create_array(home / "x.zarr", data=x, chunks=(14, 3))
    zarr.create_array(home / "s.zarr", data=x, chunks=(4, 5), shards=(8, 5))
    return home


@pytest.mark.parametrize("protocol", ["file", "memory", "s3"])
def test_the_same_rows_by_every_protocol(tmp_path, x, on, protocol):
    home = folder_of(tmp_path, x)
    base = on[protocol](home)
    for name in ("c.npy", "f.npy", "one.parquet", "parts", "parts/part.*.parquet", "x.zarr", "s.zarr"):
        source = open_source(f"{base}/{name}")
        assert source.shareable
        assert source.n_dims == 5
        for start, stop in [(0, 9), (7, 14), (40, 41), (9, 9), (10, 25)]:
            np.testing.assert_array_equal(source.read(start, stop), x[start:stop])
        again_here = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(again_here.slice_rows(20, 41).read(20, 41), x[20:])
        local = home / name
        same = open_source(local)
        assert again_here.fingerprint() == same.fingerprint(), "a file that was uploaded is the same data"
        assert source.blocks(10) == same.blocks(10)
        source.check_unchanged()
    kept = open_source(f"{base}/one.parquet", metadata_columns=["id"]).columns(["id"], 5, 9)
    assert kept.column("id").to_pylist() == [5, 6, 7, 8]
    listed = [f"{base}/parts/part.{i}.parquet" for i in range(11)]
    np.testing.assert_array_equal(open_source(listed).read(0, 41), x)


def test_only_the_bytes_of_the_rows_are_fetched(tmp_path, store):
    x = np.random.default_rng(0).standard_normal((100_000, 16), dtype="f4")
    np.save(tmp_path / "x.npy", x)
    url = store.put(tmp_path / "x.npy", "ranges")
    store.sent.clear()
    source = open_source(url)
    assert sum(store.sent.values()) < 1 << 17
    store.sent.clear()
    np.testing.assert_array_equal(source.read(50_000, 60_000), x[50_000:60_000])
    assert store.sent == {"/ranges/x.npy": 10_000 * 64}


def test_only_the_columns_of_the_vectors_are_fetched(tmp_path, store):
    x = np.random.default_rng(0).standard_normal((20_000, 16), dtype="f4")
    table = list_table(x, "fixed", text=[f"{i:0200d}" for i in range(20_000)])
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=5_000, compression="none", use_dictionary=False)
    source = open_source(store.put(tmp_path / "x.parquet", "columns"))
    store.sent.clear()
    np.testing.assert_array_equal(source.read(5_000, 10_000), x[5_000:10_000])
    assert sum(store.sent.values()) < 1.1 * 5_000 * 64 + (1 << 16)  # and the footer


def test_pipeline_on_worker_processes(tmp_path, store):
    """Two worker processes each fetch what they need."""
    x = blobs(1500)
    (tmp_path / "d").mkdir()
    for i, part in enumerate(np.array_split(x, 3)):
        pq.write_table(list_table(part, id=pa.array(range(len(part)))), tmp_path / "d" / f"{i}.parquet")
    settings = {"n_shards": 2, "n_epochs": 5, "cell_size": 50}
    expected = make_map(x, **settings).positions
    url = store.put(tmp_path / "d", "fit")
    output = tmp_path / "map.parquet"
    command = ["fit", url, "-o", str(output), "--workers", "2", "--shards", "2", "--epochs", "5"]
    code, _, errors = run_command([*command, "--set", "cell_size=50", "--keep", "id", "--quiet"])
    assert code == 0, errors
    table = pq.read_table(output)
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], axis=1), expected)
    assert table["id"].to_pylist() == [*range(500)] * 3


@pytest.mark.parametrize("protocol", ["file", "memory", "s3"])
def test_missing(tmp_path, x, on, protocol):
    (tmp_path / "home").mkdir()
    np.save(tmp_path / "home" / "embeddings.npy", x)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    base = on[protocol](tmp_path / "home")
    with pytest.raises(MissingInputError, match=r"embedings\.npy does not exist.*Did you mean 'embeddings\.npy'"):
        open_source(f"{base}/embedings.npy")
    with pytest.raises(MissingInputError, match=r"no (file|object) matches .*check the pattern"):
        open_source(f"{base}/*.parquet")
    with pytest.raises(MissingInputError):
        open_source([f"{base}/a.parquet", f"{base}/b.parquet"])
    with pytest.raises(InputError, match=r"contains no Parquet or \.npy files and is not a zarr array"):
        open_source(on[protocol](tmp_path / "empty"))


def test_no_bucket(store):
    with pytest.raises(MissingInputError, match=r"s3://nowhere/x\.npy does not exist"):
        open_source("s3://nowhere/x.npy")


def test_gone_while_it_is_read(tmp_path, x, on):
    np.save(tmp_path / "x.npy", x)
    for protocol in on:
        source = open_source(on[protocol](tmp_path / "x.npy"))
        if protocol == "file":
            (tmp_path / "x.npy").rename(tmp_path / "y.npy")
            (tmp_path / "x.npy").with_name("y.npy").rename(tmp_path / "x.npy")
            np.testing.assert_array_equal(source.read(0, 9), x[:9])
        elif protocol == "memory":
            fsspec.filesystem("memory").rm_file("/data/x.npy")
            with pytest.raises(MissingInputError, match=r"x\.npy is gone since it was opened"):
                source.read(0, 9)


def test_not_permitted(tmp_path, x, store):
    np.save(tmp_path / "x.npy", x)
    url = store.put(tmp_path / "x.npy", "secret")
    source = open_source(url)
    store.answer = lambda method, path, span: 403 if path.startswith("/secret") else None
    try:
        for use in (lambda: open_source(url), lambda: source.read(0, 9)):
            with pytest.raises(InputError, match=r"may not be read .* credentials, on the workers too"):
                use()
    finally:
        store.answer = None


def test_no_server(tmp_path):
    """In a process of its own: nobody listens there."""
    code = """
import warnings
from nomad_dask.errors import InputError
from nomad_dask.sources import open_source, retry
retry.WAITS = (0.01,)
warnings.simplefilter("ignore")
try:
    open_source("s3://data/x.npy")
except InputError as error:
    print(error)
"""
    environ = os.environ | CREDENTIALS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert "s3://data/x.npy cannot be read, tried 2 times (EndpointConnectionError" in done.stdout


def test_no_credentials(store):
    """In a process of its own, as s3fs keeps those it has."""
    code = """
import os
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    del os.environ[name]
from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
try:
    open_source("s3://data/x.npy")
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "may not be read" in done.stdout
    assert "credentials" in done.stdout


@pytest.mark.parametrize(
    ("url", "missing", "message"),
    [
        ("s3://data/x.npy", "s3fs", "pip install 'nomad-dask[s3]'"),
        ("gs://data/x.npy", "gcsfs", "pip install gcsfs"),
        ("nothing://data/x.npy", "none", "a URL that fsspec supports"),
    ],
)
def test_protocols_without_a_package(url, missing, message):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from nomad_dask.errors import InputError
from nomad_dask.sources import open_source
try:
    open_source({url!r})
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert message in done.stdout


def test_paths_need_no_fsspec(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
from nomad_dask.sources import open_source
open_source({str(tmp_path / "x.npy")!r}).read(0, 9)
open_source({(tmp_path / "x.npy").as_uri()!r}).read(0, 9)
print([m for m in ("fsspec", "s3fs", "botocore") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_truncated_and_other_content(tmp_path, x, memory):
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_source(memory(tmp_path / "x.npy"))
    (tmp_path / "x.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="is not a Parquet file"):
        open_source(memory(tmp_path / "x.parquet"))
    (tmp_path / "x.txt").write_bytes(b"text")
    with pytest.raises(InputError, match=r"neither a \.npy nor a Parquet"):
        open_source(memory(tmp_path / "x.txt"))


def failing(times):
    """Answer requests for ranges behind the first MiB with 503, so many times each."""
    left = {}

    def answer(method, path, span):
        if method != "GET" or not path.startswith("/flaky") or not span or span.startswith("bytes=0-"):
            return None
        left[span] = left.get(span, times) - 1
        return 503 if left[span] >= 0 else None

    return answer


def test_a_server_that_fails_and_comes_back(tmp_path, store, monkeypatch):
    """botocore and s3fs retry by themselves; what still fails is retried by us, with a warning."""
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retry, "WAITS", (0.01, 0.02, 0.03))
    x = blobs(500)
    np.save(tmp_path / "x.npy", x)
    source = open_source(store.put(tmp_path / "x.npy", "flaky"))
    try:
        store.answer = failing(2)
        with pytest.warns(NomadWarning, match=r"flaky/x\.npy, rows 100 to 199, could not be read .*trying again"):
            np.testing.assert_array_equal(source.read(100, 200), x[100:200])
        store.answer = failing(1000)
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(InputError, match=r"rows 100 to 199, cannot be read, tried 4 times"),
        ):
            source.read(100, 200)
    finally:
        store.answer = None
