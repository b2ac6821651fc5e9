"""Blocks of rows on the device: the same rows and errors as on the host, whichever way they are read."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.backends.gpu import block_reader
from nomad_dask.backends.gpu.cuda_runtime import CudaRuntime
from nomad_dask.backends.row_reader import to_float32
from nomad_dask.cluster import connect
from nomad_dask.errors import InputError
from nomad_dask.params import Params
from nomad_dask.partition.clustering import PARTITION_FILES, fit_cells_stage
from nomad_dask.partition.sampling import draw_sample
from nomad_dask.partition.shard_files import BLOCK_FILES, block_file
from nomad_dask.partition.shuffle_write import write_runs
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.run_context import RunContext
from nomad_dask.sources import open_source
from nomad_dask.sources.validation import check_finite
from nomad_dask.storage.workspace import Workspace
from tests.helpers.device_arrays import Card, to_card, to_frame
from tests.helpers.host_runtime import HostRuntime
from tests.helpers.runs import blobs

HOST = HostRuntime()
X = np.random.default_rng(0).standard_normal((41, 5)).astype(np.float32)
RANGES = [(0, 41), (0, 7), (7, 14), (5, 23), (40, 41), (9, 9)]


def npy(folder: Path, x: np.ndarray) -> Path:
    np.save(folder / "x.npy", x)
    return folder / "x.npy"


def parquet(folder: Path, x: np.ndarray, **others: list) -> Path:
    """Three files with row groups of 7 rows, in a directory named like a partition."""
    (folder / "year=2020").mkdir()
    for i, part in enumerate(np.split(x, [20, 34])):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), x.shape[1])
        pq.write_table(pa.table({"v": lists, "other": range(len(part))}), folder / f"year=2020/{i}.parquet", 7)
    return folder / "year=2020"


def numbers(folder: Path, x: np.ndarray) -> Path:
    columns = {f"x{j}": x[:, j].astype(np.float64 if j == 1 else x.dtype) for j in range(x.shape[1])}
    pq.write_table(pa.table(columns), folder / "x.parquet", 7)
    return folder / "x.parquet"


KINDS = {
    "array": lambda folder, x: x,
    "npy": npy,
    "fortran": lambda folder, x: npy(folder, np.asfortranarray(x)),
    "big endian": lambda folder, x: npy(folder, x.astype(x.dtype.newbyteorder(">"))),
    "parquet": parquet,
    "numbers": numbers,
}


@pytest.mark.parametrize("dtype", ["f2", "f4", "i4"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_optional_packages_rows_are_read_on_the_host(tmp_path, kind, dtype, monkeypatch):
    monkeypatch.setitem(sys.modules, "kvikio", None)
    monkeypatch.setitem(sys.modules, "cudf", None)
    x = (30 * X).astype(dtype)
    source = open_source(KINDS[kind](tmp_path, x))
    for start, stop in RANGES:
        rows = block_reader.read(source, start, stop, HOST)
        assert rows.dtype == source.dtype
        np.testing.assert_array_equal(rows, x[start:stop])


def test_rows_on_the_device_stay_there():
    rows = block_reader.read(open_source(to_card(X)), 5, 23, HOST)
    assert isinstance(rows, Card)
    assert np.shares_memory(rows.held, X)


class Direct:
    """A stand-in for `kvikio` that reads into host memory."""

    def __init__(self, stop_short: int = 0, n_threads: int = 1) -> None:
        self.calls: list[tuple[int, int]] = []
        self.settings = {"num_threads": n_threads}
        self.defaults = SimpleNamespace(get=self.settings.__getitem__, set=self.settings.__setitem__)
        outer = self

        class CuFile:
            def __init__(self, file, flags="r"):
                assert flags == "r"
                self._file = Path(file).open("rb")  # noqa: SIM115 - it is what __exit__ closes

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self._file.close()

            def pread(self, buf, size=None, file_offset=0, task_size=None):
                outer.calls.append((size, file_offset))
                self._file.seek(file_offset)
                got = self._file.read(size - stop_short)
                memoryview(buf).cast("B")[: len(got)] = got
                return SimpleNamespace(get=lambda: len(got))

        self.CuFile = CuFile


def use_direct(monkeypatch: pytest.MonkeyPatch, **options: int) -> Direct:
    direct = Direct(**options)
    monkeypatch.setitem(sys.modules, "kvikio", direct)
    monkeypatch.setitem(sys.modules, "kvikio.defaults", direct.defaults)
    return direct


@pytest.mark.parametrize(
    ("before", "variable", "expected"), [(1, None, 16), (4, None, 16), (32, None, 32), (3, "KVIKIO_NTHREADS", 3)]
)
def test_an_npy_file_is_read_by_several_threads_unless_the_user_sets_their_number(
    tmp_path, monkeypatch, before, variable, expected
):
    monkeypatch.delenv("KVIKIO_NTHREADS", raising=False)
    monkeypatch.delenv("KVIKIO_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv(variable, str(before))
    direct = use_direct(monkeypatch, n_threads=before)
    block_reader.read(open_source(npy(tmp_path, X)), 5, 23, HOST)
    assert direct.settings == {"num_threads": expected}
    assert len(direct.calls) == 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "u1"])
def test_an_npy_file_is_read_directly_to_the_device(tmp_path, monkeypatch, dtype):
    direct = use_direct(monkeypatch)
    x = np.abs(30 * X).astype(dtype)
    source = open_source(npy(tmp_path, x))
    for start, stop in RANGES:
        rows = block_reader.read(source, start, stop, HOST)
        assert rows.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(rows, x[start:stop])
    width = 5 * x.itemsize
    assert direct.calls == [((b - a) * width, 128 + a * width) for a, b in RANGES if b > a]
    for kind in ("fortran", "big endian"):
        np.testing.assert_array_equal(block_reader.read(open_source(KINDS[kind](tmp_path, x)), 5, 23, HOST), x[5:23])
    assert len(direct.calls) == 5 + (dtype == "u1")  # single bytes have no byte order


def test_a_truncated_file_is_refused(tmp_path, monkeypatch):
    use_direct(monkeypatch, stop_short=8)
    source = open_source(npy(tmp_path, X))
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(128 + 40 * 20)
    with pytest.raises(InputError, match=r"x\.npy.*has changed since it was opened"):
        block_reader.read(source, 30, 41, HOST)


class Decoder:
    """A stand-in for `cudf` that decodes with Arrow."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, list[int]]] = []
        self._error = error

    def read_parquet(self, path, *, columns, row_groups, use_pandas_metadata, dataset_kwargs):
        assert use_pandas_metadata is False
        assert dataset_kwargs == {"partitioning": None}
        (groups,) = row_groups
        self.calls.append((Path(path).name, groups))
        if self._error:
            raise self._error
        table = pq.ParquetFile(path).read_row_groups(groups, columns=columns)
        fields = [
            pa.list_(f.type.value_type) if pa.types.is_fixed_size_list(f.type) else f.type for f in table.schema
        ]  # as cuDF reads them
        return to_frame(table.cast(pa.schema(list(zip(table.column_names, fields, strict=True)))))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("kind", [parquet, numbers])
def test_parquet_is_decoded_on_the_device(tmp_path, monkeypatch, kind, dtype):
    monkeypatch.setitem(sys.modules, "cudf", Decoder())
    x = (30 * X).astype(dtype)
    source = open_source(kind(tmp_path, x))
    for start, stop in RANGES[:-1]:
        rows = block_reader.read(source, start, stop, HOST)
        assert isinstance(rows, Card)
        assert rows.dtype == source.dtype
        np.testing.assert_array_equal(rows.get(), x[start:stop])


@given(st.tuples(st.integers(0, 40), st.integers(1, 41)).filter(lambda ab: ab[0] < ab[1]))
def test_only_the_row_groups_of_a_range_are_decoded(parquet_source, ends):
    start, stop = ends
    pieces = block_reader._row_groups(parquet_source, start, stop)
    # The files begin at rows 0, 20 and 34, their row groups every 7 rows.
    edges = [0, 7, 14, 20, 27, 34, 41]
    file_of, first_of = [0, 0, 0, 1, 1, 2], [0, 3, 5]
    wanted = [g for g in range(6) if edges[g] < stop and edges[g + 1] > start]
    found = [(int(Path(p.path).stem), g) for p in pieces for g in p.groups]
    assert found == [(file_of[g], g - first_of[file_of[g]]) for g in wanted]
    assert pieces[0].start == edges[wanted[0]]
    assert pieces[-1].stop == edges[wanted[-1] + 1]
    assert all(a.stop == b.start for a, b in pairwise(pieces))


@pytest.fixture(scope="module")
def parquet_source(tmp_path_factory):
    return open_source(parquet(tmp_path_factory.mktemp("parts"), X))


def test_row_groups_that_do_not_fit_are_decoded_on_the_host(parquet_source, monkeypatch):
    decoder = Decoder()
    monkeypatch.setitem(sys.modules, "cudf", decoder)
    row_group = 7 * 5
    with monkeypatch.context() as limit:
        limit.setattr(block_reader, "_MAX_VALUES", row_group)
        np.testing.assert_array_equal(block_reader.read(parquet_source, 5, 10, HOST), X[5:10])
        assert decoder.calls == []
        block_reader.read(parquet_source, 2, 7, HOST)
        assert decoder.calls == [("0.parquet", [0])]
    np.testing.assert_array_equal(
        block_reader.read(parquet_source, 5, 6, replace(HOST, free=3 * 4 * row_group - 1)), X[5:6]
    )
    assert len(decoder.calls) == 1
    block_reader.read(parquet_source, 5, 6, replace(HOST, free=3 * 4 * row_group))
    assert len(decoder.calls) == 2


def test_a_file_that_cannot_be_decoded_is_named(parquet_source, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudf", Decoder(RuntimeError("CUDF failure: corrupt header")))
    with pytest.raises(InputError, match=r"1\.parquet cannot be decoded on the GPU \(CUDF failure: corrupt header\)"):
        block_reader.read(parquet_source, 21, 24, HOST)


def test_bad_rows_in_parquet_are_named_by_their_number_in_the_source(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cudf", Decoder())
    pq.write_table(pa.table({"v": [[1.0, 2.0]] * 30 + [[3.0]] + [[1.0, 2.0]] * 10}), tmp_path / "x.parquet", 7)
    source = open_source(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="row 30 has 1 values, row 0 has 2"):
        block_reader.read(source, 29, 33, HOST)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named_as_on_the_host(dtype, bad):
    rows = X.astype(dtype)
    block_reader.check_finite(rows, 100, "it", HOST)
    block_reader.check_finite(np.full_like(rows, np.finfo(dtype).max), 100, "it", HOST)  # whose sum is not finite
    rows[17, 3] = rows[17, 4] = rows[30, 0] = bad
    with pytest.raises(InputError) as ours:
        block_reader.check_finite(rows, 100, "it", HOST)
    with pytest.raises(InputError, match="it, row 117, column 3") as host:
        check_finite(rows, 100, "it")
    assert str(ours.value) == str(host.value)
    block_reader.check_finite((30 * X).astype("i4"), 0, "it", HOST)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1"])
def test_float32_rows_equal_those_of_the_cpu(metric, dtype):
    rows = np.abs(100 * X).astype(dtype)
    rows[7] = 0
    before = rows.copy()
    found = block_reader.to_float32(rows, metric, HOST)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, to_float32(rows, metric), rtol=1e-6)
    np.testing.assert_array_equal(rows, before)


def test_rows_are_gathered_in_the_requested_order():
    order = np.array([3, 0, 3, 40])
    np.testing.assert_array_equal(block_reader.gather_to_host(X, order, HOST), X[order])
    np.testing.assert_array_equal(block_reader.gather_to_host(X[:, :2], order, HOST), X[order, :2])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.usefixtures("process_runtime")
def test_sampling_and_shuffle_equal_those_of_the_cpu(tmp_path, metric):
    for cpu, gpu in compare_devices(tmp_path, metric):
        np.testing.assert_array_equal(gpu["sample"], cpu["sample"])
        np.testing.assert_array_equal(np.sort(gpu["rows"]), np.sort(cpu["rows"]))
        same = np.argsort(gpu["rows"]), np.argsort(cpu["rows"])
        np.testing.assert_array_equal(gpu["vectors"][same[0]], cpu["vectors"][same[1]])
        np.testing.assert_allclose(gpu["start"][same[0]], cpu["start"][same[1]], rtol=1e-4, atol=1e-4)
        # Rounding decides between two centroids that are equally near.
        assert (gpu["cells"][same[0]] == cpu["cells"][same[1]]).mean() > 0.99
        assert (np.diff(gpu["cells"]) >= 0).all()


def compare_devices(folder: Path, metric: str) -> list[tuple[dict, dict]]:
    """Draw a sample and write the blocks on both devices, with the same cells."""
    np.save(folder / "x.npy", blobs(400, n_dims=7).astype(np.float64))
    source = open_source(folder / "x.npy")
    params = Params(metric=metric, cell_size=40)
    plan = replace(make_plan(source, params, 1, 8 << 30), block_rows=250)
    files: dict[str, list[dict]] = {}
    with connect() as cluster:
        for device in ("cpu", "gpu"):
            home = Workspace(folder / device, {})
            run = RunContext(source, params, plan, home.path, device)
            draw_sample(run, cluster, lambda job, done: None)
            if device == "cpu":
                cluster.run(fit_cells_stage, [(run,)])
            else:
                for name in PARTITION_FILES:
                    home.save(f"cells/{name}.npy", np.load(folder / f"cpu/cells/{name}.npy"))
            write_runs(run, cluster, lambda job, done: None)
            files[device] = [
                {name: np.load(run.file(block_file(b, name))) for name in BLOCK_FILES}
                | {"sample": np.load(run.file("sample/vectors.npy"))}
                for b in range(2)
            ]
    return list(zip(files["cpu"], files["gpu"], strict=True))


@pytest.mark.usefixtures("process_runtime")
def test_a_bad_row_is_found_when_the_sample_is_drawn(tmp_path):
    x = blobs(300, n_dims=6)
    x[211, 3] = np.nan
    source = open_source(x)
    plan = replace(make_plan(source, Params(), 1, 8 << 30), block_rows=100)
    with connect() as cluster, pytest.raises(InputError, match="the ndarray, row 211, column 3"):
        draw_sample(RunContext(source, Params(), plan, tmp_path, "gpu"), cluster, lambda job, done: None)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_real_device(tmp_path, kind):
    device = CudaRuntime()
    source = open_source(KINDS[kind](tmp_path, X))
    for start, stop in RANGES:
        rows = block_reader.read(source, start, stop, device)
        assert isinstance(rows, device.xp.ndarray)
        assert rows.dtype == source.dtype
        np.testing.assert_array_equal(device.download(rows), X[start:stop])
    rows = block_reader.read(source, 0, 41, device)
    for metric in ("euclidean", "cosine"):
        found = device.download(block_reader.to_float32(rows, metric, device))
        np.testing.assert_allclose(found, to_float32(X, metric), rtol=1e-6)
    order = np.array([3, 0, 3, 40])
    np.testing.assert_array_equal(block_reader.gather_to_host(rows[:, :2], order, device), X[order, :2])
    block_reader.check_finite(rows, 0, "it", device)
    broken = rows.copy()
    broken[17, 3] = np.nan
    with pytest.raises(InputError, match="Input X contains NaN: it, row 117, column 3"):
        block_reader.check_finite(broken, 100, "it", device)
