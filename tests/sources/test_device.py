"""Arrays and frames in GPU memory: here by stand-ins, and on a machine with a GPU by the real ones."""

from __future__ import annotations

import pickle
import sys
from itertools import pairwise
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pyarrow as pa
import pytest

from nomad_dask import NomadProjection
from nomad_dask.errors import InputError
from nomad_dask.maps import Map
from nomad_dask.metrics import score
from nomad_dask.sources import open_source
from nomad_dask.sources.npy import copy_to_npy
from nomad_dask.utils.array_types import to_host, to_output_type
from tests.helpers.device_arrays import Card, Column, DaskFrame, Frame, to_card, to_frame
from tests.helpers.runs import blobs, worker_processes
from tests.helpers.source_kinds import arrow_numbers, list_table


def card(x):
    return to_card(x)


def card_strided(x):
    wide = np.zeros((2 * len(x), 2 * x.shape[1]), x.dtype)
    wide[::2, 1::2] = x
    return to_card(wide[::2, 1::2])


def card_fortran(x):
    return to_card(np.asfortranarray(x))


def frame_of_lists(x):
    return to_frame(list_table(x, id=range(len(x)), text=["a"] * len(x)))


def frame_sliced(x):
    return to_frame(list_table(np.concatenate([x[:3], x, x[:2]]))).iloc[3 : 3 + len(x)]


def frame_of_numbers(x):
    return to_frame(arrow_numbers(None, x), range(x.shape[1]))


def dask_cards(x):
    return da.from_array(x, chunks=(7, 2)).map_blocks(to_card, dtype=x.dtype, meta=to_card(np.empty((0, 0), x.dtype)))


def part_of(table, start, stop):
    return to_frame(table.slice(start, stop - start))


def in_parts(table):
    bounds = [0, 7, 7, 20, table.num_rows]
    parts = [dask.delayed(part_of, pure=True)(table, a, b) for a, b in pairwise(bounds)]
    return DaskFrame(parts, to_frame(table.slice(0, 0)))


def dask_frame_of_lists(x):
    return in_parts(list_table(x, id=range(len(x))))


def dask_frame_of_numbers(x):
    return in_parts(arrow_numbers(None, x))


RESIDENT = [card, card_strided, card_fortran, frame_of_lists, frame_sliced, frame_of_numbers]
LAZY = [dask_cards, dask_frame_of_lists, dask_frame_of_numbers]


@pytest.mark.parametrize("kind", RESIDENT + LAZY)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "?"])
def test_rows_are_read_on_the_device_and_downloaded(x, kind, dtype):
    x = (30 * x).astype(dtype)
    source = open_source(kind(x))
    assert (source.n_rows, source.n_dims, source.dtype) == (41, 5, np.dtype("u1" if dtype == "?" else dtype))
    for start, stop in [(0, 41), (0, 7), (5, 23), (6, 8), (40, 41), (9, 9)]:
        rows = source.read_device(start, stop)
        assert type(rows) is Card
        assert rows.flags.c_contiguous
        assert rows.dtype == source.dtype
        np.testing.assert_array_equal(rows.get(), x[start:stop])
        downloaded = source.read(start, stop)
        assert type(downloaded) is np.ndarray
        assert downloaded.flags.c_contiguous
        np.testing.assert_array_equal(downloaded, x[start:stop])
    parts = [rows for _, rows in source.iterate(10)]
    np.testing.assert_array_equal(np.concatenate(parts), x)


@pytest.mark.parametrize("kind", [card, frame_of_lists])
def test_a_block_is_a_view(x, kind):
    data = kind(x)
    rows = open_source(data).read_device(5, 23).held
    held = data.held if kind is card else data["v"].list.leaves.values.held
    assert np.shares_memory(rows, held)


@pytest.mark.parametrize("kind", RESIDENT)
def test_the_fingerprint_is_that_of_the_same_rows_on_the_host(x, kind):
    assert open_source(kind(x)).fingerprint() == open_source(x).fingerprint()
    assert open_source(kind(x + 1)).fingerprint() != open_source(x).fingerprint()


@pytest.mark.parametrize("kind", LAZY)
def test_lazy_ones_have_the_token_of_dask_and_can_be_pickled(x, kind):
    source = open_source(kind(x))
    assert source.fingerprint() == open_source(kind(x)).fingerprint()
    assert source.fingerprint() != open_source(kind(x + 1)).fingerprint()
    assert source.shareable
    again = pickle.loads(pickle.dumps(source))
    assert again is not source
    np.testing.assert_array_equal(again.read_device(5, 23).get(), x[5:23])
    np.testing.assert_array_equal(again.read(5, 23), x[5:23])


@pytest.mark.parametrize("kind", RESIDENT)
def test_worker_processes_get_a_copy_in_the_workspace(x, kind, tmp_path):
    source = open_source(kind(x))
    assert not source.shareable
    assert pickle.loads(pickle.dumps(source)) is source
    copy = copy_to_npy(source, tmp_path / "x.npy", max_rows=10)
    assert copy.shareable
    assert copy.fingerprint() == source.fingerprint()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)


@pytest.mark.parametrize("kind", [frame_of_lists, dask_frame_of_lists])
def test_columns_beside_the_vectors(x, kind):
    source = open_source(kind(x), metadata_columns=["id"])
    assert "v" not in source.column_names()
    assert source.columns(["id"], 5, 23).column("id").to_pylist() == list(range(5, 23))


def test_columns_of_numbers_of_several_types_and_labels():
    table = pa.table({"0": pa.array([1, 2], pa.int16()), "1": [0.5, 1.5], "x": ["a", "b"]})
    source = open_source(to_frame(table, [0, 1, "x"]), metadata_columns=["x"])
    assert source.dtype == np.float64
    np.testing.assert_array_equal(source.read(0, 2), [[1, 0.5], [2, 1.5]])
    with pytest.raises(InputError, match="not all its columns are numbers: 'x'"):
        open_source(to_frame(table, [0, 1, "x"]))
    with pytest.raises(InputError, match="two columns of one name"):
        open_source(to_frame(table, [0, "0", "x"]))


@pytest.mark.parametrize("make", [to_frame, in_parts])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1.0], "row 30 has 1 values, row 0 has 2"),
        (None, "row 30 has a missing"),
        ([1.0, None], "row 30 has a missing"),
    ],
)
def test_bad_rows_of_lists_are_named(make, row, message):
    lists = [[1.0, 2.0]] * 30 + [row] + [[1.0, 2.0, 3.0]] * 10
    with pytest.raises(InputError, match=message):
        open_source(make(pa.table({"v": lists[:31] + [[1.0, 2.0]] * 10}))).read_device(0, 41)
    if row == [1.0]:  # as many numbers as if all were of one length
        lists = [*lists[:31], [1.0, 2.0, 3.0]]
        with pytest.raises(InputError, match=message):
            open_source(make(pa.table({"v": lists}))).read_device(0, 32)


@pytest.mark.parametrize("make", [to_frame, in_parts])
def test_missing_numbers_are_named(make, x):
    table = arrow_numbers(None, x)
    holes = pa.array([None if i == 33 else 1.0 for i in range(41)])
    source = open_source(make(table.set_column(2, "x2", holes)))
    with pytest.raises(InputError, match=r"row 33 has a missing value \(null\)"):
        source.read_device(8, 41)


def test_the_first_list_decides_the_dimensions():
    with pytest.raises(InputError, match="row 0 has a missing"):
        open_source(to_frame(pa.table({"v": pa.array([None, [1.0]])})))
    with pytest.raises(InputError, match=r"0 feature\(s\)"):
        open_source(to_frame(pa.table({"v": pa.array([[], []], pa.list_(pa.float32()))})))
    with pytest.raises(InputError, match=r"0 sample\(s\)"):
        open_source(to_frame(pa.table({"v": pa.array([], pa.list_(pa.float32()))})))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (to_card(np.zeros(3)), "Expected 2D array"),
        (to_card(np.zeros((3, 0))), r"0 feature\(s\)"),
        (to_card(np.zeros((3, 2), "M8[s]")), "dtype datetime64"),
        (to_card(np.zeros((3, 2), complex)), "Complex data not supported"),
        (Column(pa.array([1.0])), r"give a CuPy array or a cuDF data frame, as with series\.to_frame\(\)"),
        (type("csr_matrix", (), {"__module__": "cupyx.scipy.sparse._csr"})(), "Sparse data is not supported"),
    ],
)
def test_what_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        open_source(wrong)


@pytest.mark.parametrize("kind", [card, dask_cards])
def test_arrays_have_no_columns(x, kind):
    with pytest.raises(InputError, match="an array has no columns: leave it out"):
        open_source(kind(x), column="v")


@pytest.fixture
def libraries(monkeypatch):
    """Modules that make such arrays and frames."""

    class DataFrame(Frame):
        __module__ = "cudf.core.dataframe"
        from_arrow = staticmethod(to_frame)

        def __init__(self, data, index, nan_as_null):
            assert nan_as_null is False
            super().__init__(pa.table({name: pa.array(column) for name, column in data.items()}))
            self.index = index

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(asarray=to_card, ndarray=Card))
    monkeypatch.setitem(sys.modules, "cudf", SimpleNamespace(DataFrame=DataFrame))


@pytest.mark.parametrize("n_components", [2, 3])
def test_a_map_comes_in_the_kind_of_its_input(x, libraries, n_components):
    positions = x[:, :n_components]
    on_card = to_output_type(to_card(x), positions)
    assert isinstance(on_card, Card)
    np.testing.assert_array_equal(on_card.get(), positions)
    frame = frame_of_lists(x)
    frame.index = object()
    made = to_output_type(frame, positions)
    assert made.columns == ["x", "y", "z"][:n_components]
    assert made.index is frame.index
    for other in (x, dask_cards(x), "x.npy"):
        assert to_output_type(other, positions) is positions
    for given in (on_card, made, positions):
        np.testing.assert_array_equal(to_host(given), positions)


def test_positions_in_a_frame_are_named():
    with pytest.raises(InputError, match=r"\['x', 'height'\]: x and y are required"):
        to_host(to_frame(pa.table({"x": [1.0], "height": [2.0]})))


def test_a_map_as_a_frame_on_the_device(libraries):
    found = Map(np.array([[1, 2], [3, 4]], np.float32), pa.table({"cell": pa.array([7, 8], pa.int32())}), {})
    assert found.to_cudf().held.to_pylist() == [{"x": 1.0, "y": 2.0, "cell": 7}, {"x": 3.0, "y": 4.0, "cell": 8}]


def test_a_map_as_a_frame_needs_cudf(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudf", None)
    with pytest.raises(InputError, match="cudf cannot be imported"):
        Map(np.zeros((1, 2), np.float32), pa.table({"cell": [0]}), {}).to_cudf()


def test_the_estimator_takes_and_gives_arrays_on_the_device(libraries):
    x = blobs(200, n_dims=6)
    expected = NomadProjection(n_epochs=3, device="cpu").fit_transform(x)
    estimator = NomadProjection(n_epochs=3, device="cpu")
    layout = estimator.fit_transform(to_card(x))
    assert isinstance(layout, Card)
    np.testing.assert_array_equal(layout.get(), expected)
    assert type(estimator.embedding_) is np.ndarray
    as_frame = estimator.set_output(transform="pandas").fit_transform(to_card(x))
    np.testing.assert_array_equal(as_frame.to_numpy(), expected)


def test_worker_processes_map_what_is_on_the_device_of_this_one(libraries):
    x = blobs(200, n_dims=6)
    with worker_processes(1) as client:
        layout = NomadProjection(n_epochs=3, device="cpu", client=client).fit_transform(to_card(x))
    np.testing.assert_array_equal(layout.get(), NomadProjection(n_epochs=3, device="cpu").fit_transform(x))


def test_scores_of_what_is_on_the_device(x):
    labels = np.arange(41) % 3
    more = {"ks": (5,), "n_queries": 41}
    expected = score(open_source(x), x[:, :2], labels=labels, **more)
    positions = to_frame(pa.table({"x": x[:, 0], "y": x[:, 1]}))
    assert score(to_card(x), to_card(x[:, :2]), labels=to_card(labels), **more) == expected
    assert score(frame_of_lists(x), positions, labels=Column(pa.array(labels)), **more) == expected


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_real_cupy_arrays(x, dtype):
    import cupy

    x = (30 * x).astype(dtype)
    for array in (cupy.asarray(x), cupy.asarray(np.asfortranarray(x)), cupy.asarray(np.repeat(x, 2, axis=0))[::2]):
        source = open_source(array)
        rows = source.read_device(5, 23)
        assert isinstance(rows, cupy.ndarray)
        assert rows.flags.c_contiguous
        np.testing.assert_array_equal(rows.get(), x[5:23])
        np.testing.assert_array_equal(source.read(5, 23), x[5:23])
        assert source.fingerprint() == open_source(x).fingerprint()
    rows = open_source(cupy.asarray(x))._array
    assert open_source(rows).read_device(5, 23).data.ptr == rows[5:].data.ptr


@pytest.mark.gpu
def test_real_cudf_frames(x):
    import cudf
    import cupy

    frame = cudf.DataFrame.from_arrow(list_table(x, id=range(41), text=["a"] * 41))
    for data, first in ((frame, 0), (frame.iloc[3:], 3)):
        source = open_source(data, metadata_columns=["id"])
        assert source.dtype == np.float32
        np.testing.assert_array_equal(source.read_device(5, 23).get(), x[first + 5 : first + 23])
        assert source.columns(["id"], 5, 9).column("id").to_pylist() == list(range(first + 5, first + 9))
        assert source.read_device(0, 5).data.ptr == data["v"].list.leaves.values.data.ptr  # no copy
    numbers = cudf.DataFrame(cupy.asarray(x))  # labels are numbers
    np.testing.assert_array_equal(open_source(numbers).read(5, 23), x[5:23])
    numbers[2] = numbers[2].astype("float64")
    assert open_source(numbers).dtype == np.float64
    numbers.iloc[7, 2] = None
    with pytest.raises(InputError, match="row 7 has a missing value"):
        open_source(numbers).read_device(5, 23)
    for row, message in (
        ([1.0], "row 2 has 1 values"),
        (None, "row 2 has a missing"),
        ([1.0, None], "row 2 has a miss"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(cudf.DataFrame({"v": [[1.0, 2.0], [1.0, 2.0], row, [3.0, 4.0]]}))


@pytest.mark.gpu
def test_real_dask_collections(x, tmp_path):
    import cupy
    import dask_cudf
    import pyarrow.parquet as pq

    array = da.from_array(x, chunks=(7, 2)).map_blocks(cupy.asarray)
    pq.write_table(list_table(x, id=range(41)), tmp_path / "x.parquet", row_group_size=7)
    frame = dask_cudf.read_parquet(tmp_path / "x.parquet", blocksize=1)
    for data in (array, frame):
        source = pickle.loads(pickle.dumps(open_source(data)))
        rows = source.read_device(5, 23)
        assert isinstance(rows, cupy.ndarray)
        np.testing.assert_array_equal(rows.get(), x[5:23])
        np.testing.assert_array_equal(source.read(5, 23), x[5:23])
    assert source.columns(["id"], 5, 23).column("id").to_pylist() == list(range(5, 23))


@pytest.mark.gpu
def test_the_estimator_with_real_libraries():
    import cudf
    import cupy

    x = blobs(500, n_dims=6)
    estimator = NomadProjection(n_epochs=20, device="gpu")
    layout = estimator.fit_transform(cupy.asarray(x))
    assert isinstance(layout, cupy.ndarray)
    np.testing.assert_array_equal(layout.get(), estimator.embedding_)
    frame = cudf.DataFrame(cupy.asarray(x), index=np.arange(500) * 2)
    framed = estimator.fit_transform(frame)
    assert isinstance(framed, cudf.DataFrame)
    assert list(framed.columns) == ["x", "y"]
    assert framed.index.to_pandas().equals(frame.index.to_pandas())
    np.testing.assert_array_equal(to_host(framed), estimator.embedding_)
    expected = score(open_source(x), estimator.embedding_, labels=np.arange(500) % 3)
    assert score(frame, framed, labels=cudf.Series(np.arange(500) % 3)) == expected
    assert score(cupy.asarray(x), layout, labels=cupy.arange(500) % 3).neighbors[15].value > 0.1
    as_frame = Map(estimator.embedding_, pa.table({"cell": estimator.cell_labels_}), {}).to_cudf()
    assert list(as_frame.columns) == ["x", "y", "cell"]
