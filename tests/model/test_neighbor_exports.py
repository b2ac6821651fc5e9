"""Neighbors in files and for other programs are those of brute force, block by block and of any size."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from nomad_dask import load_model
from nomad_dask.errors import InputError
from nomad_dask.model.arrays import ModelArrays
from nomad_dask.model.map_model import MapModel
from nomad_dask.model.neighbor_tables import neighbor_tables
from nomad_dask.model.search import _parts
from nomad_dask.model.stored_neighbors import stored_neighbors_in_parts
from tests.helpers.forked import ForkedProcess
from tests.helpers.instants import record
from tests.helpers.processes import run_nomad
from tests.helpers.runs import blobs, make_map

K = 6


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def model(x, folder) -> MapModel:
    make_map(x[:1500], model=folder / "m", n_epochs=2, n_neighbors=K, n_shards=2, target_recall=1.0)
    return load_model(folder / "m")


def lists_of(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the lists of a file, and check their types."""
    table = pq.read_table(file)
    k = table.schema.field("neighbors").type.list_size
    assert table.schema.names == ["neighbors", "distances"]
    assert table.schema.field("neighbors").type.equals(pa.list_(pa.field("element", pa.int64()), k))
    assert table.schema.field("distances").type.equals(pa.list_(pa.field("element", pa.float32()), k))
    columns = [table[name].combine_chunks().flatten().to_numpy() for name in table.schema.names]
    return columns[0].reshape(-1, k), columns[1].reshape(-1, k)


def check_lists(x: np.ndarray, queries: np.ndarray, neighbors: np.ndarray, distances: np.ndarray, own: bool) -> None:
    """Compare lists with those of brute force; a row that is `own` is not its own neighbor."""
    search = NearestNeighbors(n_neighbors=neighbors.shape[1], algorithm="brute").fit(x.astype(np.float64))
    true, _ = search.kneighbors() if own else search.kneighbors(queries.astype(np.float64))
    expected = np.linalg.norm(queries[:, None].astype(np.float64) - x[neighbors], axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)
    assert (distances <= true * (1 + 1e-4) + 1e-5).mean() > 0.99
    assert not own or (neighbors != np.arange(len(x))[:, None]).all()


def test_the_command_writes_the_lists_of_the_model(x, model, tmp_path):
    out = tmp_path / "neighbors.parquet"
    done = run_nomad("neighbors", model.path, "-o", out, "--json", "--memory-limit", "30KB")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "neighbors": str(out), "model": str(model.path), "input": None, "n_neighbors": K, "form": "lists",
    }  # fmt: skip
    assert pq.ParquetFile(out).num_row_groups > 5
    neighbors, distances = lists_of(out)
    assert neighbors.shape == (1500, K)
    check_lists(x[:1500], x[:1500], neighbors, distances, own=True)
    again = run_nomad("neighbors", model.path, "-o", out)
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    shorter = run_nomad("neighbors", model.path, "-o", out, "--overwrite", "--n-neighbors", "2")
    assert (shorter.returncode, shorter.stdout) == (0, f"{out}\n")
    np.testing.assert_array_equal(lists_of(out)[0], neighbors[:, :2])


def test_the_command_writes_the_lists_of_new_rows(x, model, tmp_path):
    new = x[1500:]
    pq.write_table(pa.table({"v": list(new), "w": list(new[:, :3])}), tmp_path / "new.parquet", row_group_size=60)
    out = tmp_path / "neighbors.parquet"
    options = ["--column", "v", "--n-neighbors", "9", "--memory-limit", "60KB"]
    done = run_nomad("neighbors", model.path, tmp_path / "new.parquet", "-o", out, *options)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert pq.ParquetFile(out).num_row_groups > 1
    neighbors, distances = lists_of(out)
    assert neighbors.shape == (200, 9)
    true = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(x[:1500]).kneighbors(new)[1]
    assert np.mean([len(set(a) & set(b)) / 9 for a, b in zip(neighbors, true, strict=True)]) > 0.95
    expected = np.linalg.norm(new[:, None].astype(np.float64) - x[neighbors], axis=-1)
    np.testing.assert_allclose(distances, expected, rtol=1e-4)


@settings(max_examples=25)
@given(k=st.integers(1, K), memory=st.integers(4_000, 200_000))
def test_parts_of_any_size_are_the_lists_of_the_model(model, k, memory):
    found = list(stored_neighbors_in_parts(model.arrays, k, memory))
    assert max(distances.nbytes + indices.nbytes for distances, indices in found) <= memory
    for joined, expected in zip(zip(*found, strict=True), model.kneighbors(n_neighbors=k), strict=True):
        np.testing.assert_array_equal(np.concatenate(joined), expected)


def test_a_part_has_a_row_at_least(model):
    distances, indices = next(stored_neighbors_in_parts(model.arrays, K, 1))
    np.testing.assert_array_equal(distances, model.kneighbors()[0][:1])
    np.testing.assert_array_equal(indices, model.kneighbors()[1][:1])


def test_parts_take_the_memory_that_they_may(tmp_path):
    n_rows, k, memory = 40_000, 20, 1_000_000
    rng = np.random.default_rng(0)
    arrays = {
        "shards/0000.rows": rng.permutation(n_rows),
        "lists/0000.neighbors": rng.integers(n_rows, size=(n_rows, k), dtype=np.uint32),
        "lists/0000.distances": rng.random((n_rows, k), np.float32),
    }
    for name, array in arrays.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", array)
    parts = stored_neighbors_in_parts(ModelArrays(tmp_path, 1), k, memory)
    next(parts)
    tracemalloc.start()
    try:
        n_found = sum(len(indices) for _, indices in parts)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_found > 35_000
    assert peak < 1.5 * memory < n_rows * k * 12 / 6  # of a sixth of all lists


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=8),
    max_rows=st.integers(1, 30),
)
def test_parts_of_a_search_have_all_blocks_in_order(sizes, max_rows):
    edges = iter(np.cumsum([0, *(size for group in sizes for size in group)]).tolist())
    groups, start = [], next(edges)
    for group in sizes:
        groups.append([])
        for _ in group:
            stop = next(edges)
            groups[-1].append((start, stop))
            start = stop
    parts = list(_parts(groups, max_rows))
    assert [block for part in parts for group in part for block in group] == [b for group in groups for b in group]
    for part in parts:
        n_rows = sum(stop - start for group in part for start, stop in group)
        assert n_rows <= max_rows or len(part[0]) == len(part) == 1
        # Blocks of two groups are never one task.
        assert all(any(set(group) <= set(g) for g in groups) for group in part)


parts_of_lists = st.integers(1, 5).flatmap(
    lambda k: st.lists(
        st.lists(st.lists(st.integers(-1, 50), min_size=k, max_size=k, unique=False), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )
)


@given(parts_of_lists)
def test_forms_hold_the_same_neighbors(lists):
    parts = []
    for rows in lists:
        indices = np.array(rows, np.int64)
        indices = np.take_along_axis(indices, np.argsort(indices < 0, axis=1, kind="stable"), axis=1)
        distances = np.where(indices < 0, np.inf, np.arange(indices.size).reshape(indices.shape)).astype(np.float32)
        parts.append((distances, indices))
    every_row = [
        [(j, d) for j, d in zip(*row, strict=True) if j >= 0]
        for distances, indices in parts
        for row in zip(indices.tolist(), distances.tolist(), strict=True)
    ]
    tables = {form: pa.concat_tables(neighbor_tables(parts, form)) for form in ("lists", "edges", "embedding-atlas")}
    for table in tables.values():
        table.validate(full=True)
    of_lists = tables["lists"].to_pydict()
    pairs = zip(of_lists["neighbors"], of_lists["distances"], strict=True)
    assert [[(j, d) for j, d in zip(*row, strict=True) if j >= 0] for row in pairs] == every_row
    of_edges = tables["edges"].to_pydict()
    assert list(zip(*(of_edges[name] for name in ("source", "destination", "distance")), strict=True)) == [
        (i, j, d) for i, row in enumerate(every_row) for j, d in row
    ]
    column = tables["embedding-atlas"].to_pydict()["neighbors"]
    assert column == [{"ids": [j for j, _ in row], "distances": [d for _, d in row]} for row in every_row]


def test_edges_are_the_graph(x, model, tmp_path):
    edges = model.neighbor_table(form="edges", n_neighbors=4)
    assert edges.schema.names == ["source", "destination", "distance"]
    graph = model.kneighbors_graph(4, mode="distance").tocoo()
    found = {name: edges[name].to_numpy() for name in edges.schema.names}
    np.testing.assert_array_equal(found["source"], graph.row)
    order = np.lexsort((found["destination"], found["source"]))
    expected = np.lexsort((graph.col, graph.row))
    np.testing.assert_array_equal(found["destination"][order], graph.col[expected])
    np.testing.assert_array_equal(found["distance"][order], graph.data[expected])
    model.write_neighbors(tmp_path / "edges.csv", form="edges", n_neighbors=4)
    assert pa.csv.read_csv(tmp_path / "edges.csv").drop_columns("distance").equals(edges.drop_columns("distance"))
    model.write_neighbors(tmp_path / "edges.feather", x[1500:], form="edges", n_neighbors=4)
    of_new = pa.feather.read_table(tmp_path / "edges.feather")
    np.testing.assert_array_equal(of_new["source"], np.repeat(np.arange(200), 4))
    expected = model.kneighbors(x[1500:], n_neighbors=4, return_distance=False)
    np.testing.assert_array_equal(of_new["destination"], expected.ravel())


def test_the_column_of_embedding_atlas_stands_beside_the_map(model):
    column = model.neighbor_table(form="embedding-atlas")["neighbors"]
    table = model.to_map().to_arrow().append_column("neighbors", column)
    distances, indices = model.kneighbors()
    assert table.num_rows == 1500
    assert table["neighbors"][7].as_py() == {"ids": indices[7].tolist(), "distances": distances[7].tolist()}


def test_precomputed_knn_is_that_of_umap_learn(x, model):
    indices, distances = model.precomputed_knn()
    assert indices.shape == distances.shape == (1500, K + 1)
    assert (indices.dtype, distances.dtype) == (np.int64, np.float32)
    # scikit-learn finds the rows that were fitted as their own neighbors, as umap-learn's search does.
    search = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(x[:1500].astype(np.float64))
    true_distances, true_indices = search.kneighbors(x[:1500].astype(np.float64))
    assert (indices == true_indices).mean() > 0.99
    np.testing.assert_allclose(distances, true_distances, rtol=1e-3, atol=1e-4)
    shorter = model.precomputed_knn(n_neighbors=3)
    np.testing.assert_array_equal(shorter[0], indices[:, :3])
    assert model.precomputed_knn(n_neighbors=1)[0].tolist() == [[i] for i in range(1500)]
    with pytest.raises(InputError, match=f"n_neighbors={K + 2} is out of range: the model has {K + 1} neighbors"):
        model.precomputed_knn(n_neighbors=K + 2)


def test_opentsne_takes_the_lists(model):
    nearest = pytest.importorskip("openTSNE.nearest_neighbors")
    distances, indices = model.kneighbors()
    built = nearest.PrecomputedNeighbors(indices, distances).build()
    np.testing.assert_array_equal(built[0], indices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "n.csv"], "CSV file, which cannot hold the lists of the form 'lists'"),
        (["-o", "n.txt"], r"ends in '\.txt'"),
        (["-o", "nothing/n.parquet"], "does not exist"),
        (["-o", "n.parquet", "--n-neighbors", "7"], "n_neighbors=7 is out of range: the model has 6 neighbors"),
        (["-o", "n.parquet", "--column", "v"], "--column 'v' is that of INPUT"),
        (["new.npy", "-o", "n.parquet", "--column", "v"], "column='v' was given, but"),
        (["new.npy", "-o", "new.npy"], "suffix|source would be lost"),
        (["new.npy", "-o", "n.parquet", "--n-neighbors", "1501"], "n_neighbors=1501 is out of range"),
        (["thin.npy", "-o", "n.parquet"], "has 3 dimensions, the rows of the model have 20"),
        (["broken.npy", "-o", "n.parquet"], "row 150, column 3"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(x, model, tmp_path, arguments, message):
    broken = x[1500:].copy()
    broken[150, 3] = np.nan
    for name, rows in (("new", x[1500:]), ("thin", x[1500:, :3]), ("broken", broken)):
        np.save(tmp_path / f"{name}.npy", rows)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run_nomad("neighbors", model.path, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert any(part in done.stderr for part in message.replace("\\", "").split("|")), done.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_the_model_or_in_place_of_the_input_is_refused(x, model, tmp_path):
    pq.write_table(pa.table({"v": list(x[1500:])}), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="the source would be lost"):
        model.write_neighbors(tmp_path / "new.parquet", tmp_path / "new.parquet", overwrite=True)
    with pytest.raises(InputError, match="lies in the source"):
        model.write_neighbors(model.path / "neighbors.parquet")
    with pytest.raises(InputError, match=r"form='edge' is not accepted\. Did you mean 'edges'"):
        model.write_neighbors(tmp_path / "n.parquet", form="edge")


def test_a_model_of_one_row_has_no_neighbors_to_write(x, tmp_path):
    make_map(x[:1], model=tmp_path / "m", n_epochs=2)
    with pytest.raises(InputError, match="single row"):
        load_model(tmp_path / "m").write_neighbors(tmp_path / "n.parquet")
    assert load_model(tmp_path / "m").precomputed_knn()[0].tolist() == [[0]]
    load_model(tmp_path / "m").write_neighbors(tmp_path / "n.parquet", x[1:4], n_neighbors=1)
    assert lists_of(tmp_path / "n.parquet")[0].tolist() == [[0]] * 3


def test_at_every_instant_there_is_no_file_or_a_whole_one(model, tmp_path):
    out, copies = tmp_path / "out", tmp_path / "copies"
    out.mkdir()
    command = ["neighbors", str(model.path), "-o", str(out / "n.parquet"), "--memory-limit", "40KB"]
    recorder = ForkedProcess(record, out, copies, command)
    _, errors = recorder.communicate()
    assert recorder.returncode == 0, errors
    states = sorted(copies.iterdir())
    whole = (out / "n.parquet").read_bytes()
    found = [(state / "n.parquet").read_bytes() for state in states if (state / "n.parquet").exists()]
    assert len(states) > len(found) > 0
    assert set(found) == {whole}
    # What a kill leaves is removed by the next run.
    state = next(state for state in states if not (state / "n.parquet").exists() and any(state.iterdir()))
    assert run_nomad("neighbors", model.path, "-o", state / "n.parquet").returncode == 0
    assert [path.name for path in state.iterdir()] == ["n.parquet"]


def test_an_error_while_it_is_written_leaves_the_file_as_it_was(model, tmp_path, monkeypatch):
    def parts(*_: object) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.zeros((3, K), np.float32), np.zeros((3, K), np.int64)
        raise InputError("the disk is gone")

    model.write_neighbors(tmp_path / "n.parquet")
    before = (tmp_path / "n.parquet").read_bytes()
    monkeypatch.setattr("nomad_dask.model.neighbors.stored_neighbors_in_parts", parts)
    with pytest.raises(InputError, match="the disk is gone"):
        model.write_neighbors(tmp_path / "n.parquet", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"n.parquet": before}
