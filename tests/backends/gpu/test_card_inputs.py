"""Input and output on the GPU; files are read to the GPU with KvikIO and cuDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nomad_dask import NomadProjection
from nomad_dask.backends.gpu import block_reader
from nomad_dask.backends.gpu.process_runtime import PROCESS_RUNTIME
from nomad_dask.errors import InputError
from nomad_dask.metrics.scores import score
from nomad_dask.sources import open_source
from tests.helpers.runs import blobs

pytestmark = pytest.mark.gpu

N, D = 6000, 24
RANGES = [(0, N), (0, 1), (17, 4001), (N - 1, N), (N // 3, N // 2)]


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(N, D, 20)


@pytest.fixture(scope="module")
def nomad(worker: Any) -> NomadProjection:
    return NomadProjection(n_epochs=40, device="gpu", client=worker)


@pytest.fixture(scope="module")
def expected(nomad: NomadProjection, x: np.ndarray) -> np.ndarray:
    layout: np.ndarray = nomad.fit_transform(x)
    return layout


def cudf_lists(x: np.ndarray, index: Any = None) -> Any:
    import cudf

    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]).cast(pa.list_(pa.float32()))
    frame = cudf.DataFrame.from_arrow(pa.table({"v": lists, "label": pa.array(range(len(x)))}))
    if index is not None:
        frame.index = index
    return frame


# --- from memory


def test_cupy_in_cupy_out(nomad, x, expected):
    cupy = pytest.importorskip("cupy")
    layout = nomad.fit_transform(cupy.asarray(x))
    assert isinstance(layout, cupy.ndarray)
    assert layout.dtype == cupy.float32
    np.testing.assert_array_equal(layout.get(), expected)


@pytest.mark.parametrize("make", ["fortran", "slice", "float64", "float16"])
def test_cupy_arrays_of_other_layouts_and_dtypes(nomad, x, make):
    cupy = pytest.importorskip("cupy")
    rows = {
        "fortran": lambda: cupy.asfortranarray(cupy.asarray(x)),
        "slice": lambda: cupy.asarray(np.hstack([x, x]))[:, :D],
        "float64": lambda: cupy.asarray(x.astype(np.float64)),
        "float16": lambda: cupy.asarray(x.astype(np.float16)),
    }[make]()
    source = open_source(rows)
    for start, stop in RANGES:
        block = block_reader.read(source, start, stop, PROCESS_RUNTIME.get())
        assert isinstance(block, cupy.ndarray)
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block.get(), rows[start:stop].get())
        np.testing.assert_array_equal(source.read(start, stop), rows[start:stop].get())
    layout = nomad.fit_transform(rows)
    assert isinstance(layout, cupy.ndarray)


def test_cudf_in_cudf_out(nomad, x, expected):
    cudf = pytest.importorskip("cudf")
    index = cudf.Index(np.arange(N)[::-1].copy() * 3)
    layout = nomad.fit_transform(cudf_lists(x, index))
    assert isinstance(layout, cudf.DataFrame)
    assert list(layout.columns) == ["x", "y"]
    assert bool((layout.index == index).all())
    np.testing.assert_array_equal(layout.to_pandas().to_numpy(), expected)


def test_numeric_cudf_columns(nomad, x, expected):
    cudf = pytest.importorskip("cudf")
    frame = cudf.DataFrame({f"x{j}": x[:, j] for j in range(D)})
    np.testing.assert_array_equal(nomad.fit_transform(frame).to_pandas().to_numpy(), expected)


def test_a_missing_cudf_value_is_named(nomad, x):
    cudf = pytest.importorskip("cudf")
    some = pa.array(x[:, 1], mask=np.arange(N) == 4321)
    frame = cudf.DataFrame.from_arrow(pa.table({"x0": x[:, 0], "x1": some}))
    with pytest.raises(InputError, match="row 4321"):
        nomad.fit_transform(frame)


def test_a_list_of_another_length_is_named(nomad, x):
    cudf = pytest.importorskip("cudf")
    lists = [row.tolist() for row in x[:300]]
    lists[123].pop()
    with pytest.raises(InputError, match="123"):
        nomad.fit_transform(cudf.DataFrame({"v": lists}))


def test_scores_accept_maps_and_labels_on_the_gpu(x, expected):
    cupy, cudf = pytest.importorskip("cupy"), pytest.importorskip("cudf")
    labels = np.arange(N) % 7
    wanted = score(x, expected, labels=labels, n_queries=200)
    frame = cudf.DataFrame({"x": expected[:, 0], "y": expected[:, 1]})
    for positions, of_card in ((cupy.asarray(expected), cupy.asarray(labels)), (frame, cudf.Series(labels))):
        assert score(cupy.asarray(x), positions, labels=of_card, n_queries=200) == wanted


@pytest.mark.parametrize("kind", ["cupy", "cudf"])
def test_dask_collections_on_the_gpu(nomad, x, expected, kind):
    import dask.array as da

    if kind == "cupy":
        cupy = pytest.importorskip("cupy")
        collection = da.from_array(x, chunks=(1700, D)).map_blocks(cupy.asarray)
    else:
        dask_cudf = pytest.importorskip("dask_cudf")
        collection = dask_cudf.from_cudf(cudf_lists(x), npartitions=3)
    layout = nomad.fit_transform(collection)
    assert isinstance(layout, np.ndarray)
    got, wanted = (score(x, y, n_queries=500).neighbors[10] for y in (layout, expected))
    assert wanted.low <= got.value <= wanted.high


# --- from files


class Counted:
    """Wraps a function and counts the calls that do not return None."""

    def __init__(self, work: Any) -> None:
        self.work, self.given = work, 0

    def __call__(self, *args: Any, **more: Any) -> Any:
        found = self.work(*args, **more)
        self.given += found is not None
        return found


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4"])
def test_npy_is_read_with_kvikio(x, tmp_path, dtype, monkeypatch):
    cupy = pytest.importorskip("cupy")
    pytest.importorskip("kvikio")
    by_kvikio = Counted(block_reader._read_npy)
    monkeypatch.setattr(block_reader, "_read_npy", by_kvikio)
    rows = (10 * x).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    source = open_source(tmp_path / "x.npy")
    for start, stop in RANGES:
        block = block_reader.read(source, start, stop, PROCESS_RUNTIME.get())
        assert isinstance(block, cupy.ndarray)
        np.testing.assert_array_equal(block.get(), rows[start:stop])
    assert by_kvikio.given == len(RANGES)


@pytest.mark.parametrize("as_lists", [True, False])
def test_parquet_is_decoded_on_the_gpu(x, tmp_path, as_lists, monkeypatch):
    cupy = pytest.importorskip("cupy")
    pytest.importorskip("cudf")
    by_cudf = Counted(block_reader._read_parquet)
    monkeypatch.setattr(block_reader, "_read_parquet", by_cudf)
    for i, part in enumerate(np.split(x, [1000, 4100])):
        columns: dict[str, Any] = {f"x{j}": part[:, j] for j in range(D)}
        if as_lists:
            columns = {"v": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), D)}
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet", row_group_size=700)
    source = open_source(tmp_path)
    for start, stop in RANGES:
        block = block_reader.read(source, start, stop, PROCESS_RUNTIME.get())
        assert isinstance(block, cupy.ndarray)
        np.testing.assert_array_equal(block.get(), x[start:stop])
    assert by_cudf.given == len(RANGES)


def test_a_broken_parquet_file_is_named(nomad, x, tmp_path):
    pytest.importorskip("cudf")
    path: Path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)}), path, compression="none")
    broken = bytearray(path.read_bytes())
    broken[4:200] = b"\xff" * 196
    path.write_bytes(bytes(broken))
    with pytest.raises(InputError, match=r"x\.parquet"):
        nomad.fit(path)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_file_gives_the_map_of_its_array(nomad, x, expected, tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, x)
    else:
        pq.write_table(pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)}), path)
    np.testing.assert_array_equal(nomad.fit_transform(path), expected)
