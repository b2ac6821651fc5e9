"""Known neighbors, in every form, give the map that the search would give; wrong ones are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from sklearn.neighbors import NearestNeighbors

from nomad_dask import NomadProjection, load_model, read_map
from nomad_dask.errors import InputError, NomadWarning, WorkspaceError
from nomad_dask.pipeline.given_neighbors import resolve_neighbors
from tests.helpers.commands import run_command
from tests.helpers.forked import ForkedProcess
from tests.helpers.instants import record
from tests.helpers.processes import run_nomad
from tests.helpers.runs import blobs, make_map
from tests.helpers.stopped_runs import damaged

N, WIDTH = 1200, 60
SETTINGS: dict[str, Any] = {"n_epochs": 10}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(N)


@pytest.fixture(scope="module")
def known(x) -> tuple[np.ndarray, np.ndarray]:
    """The true neighbors of each row, itself first."""
    distances, indices = NearestNeighbors(n_neighbors=WIDTH, algorithm="brute").fit(x).kneighbors(x)
    return indices, distances


@pytest.fixture(scope="module")
def searched(x) -> np.ndarray:
    """The map of an exhaustive search."""
    return NomadProjection(**SETTINGS).fit(x).embedding_


def in_form(known: tuple[np.ndarray, np.ndarray], form: str, folder: Path) -> Any:
    indices, distances = known
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(WIDTH), (N, 1)), axis=1)
    rows = np.repeat(np.arange(N), WIDTH - 1)
    matrix = sp.csr_array((distances[:, 1:].ravel(), (rows, indices[:, 1:].ravel())), shape=(N, N))
    if form == "openTSNE":
        module = pytest.importorskip("openTSNE.nearest_neighbors")
        return module.PrecomputedNeighbors(indices[:, 1:], distances[:, 1:])
    np.save(folder / "indices.npy", indices)
    np.save(folder / "distances.npy", distances)
    chunks = (500, 25)
    forms: dict[str, Any] = {
        "umap-learn": (indices, distances),
        "umap-learn with an index": (indices, distances, None),
        "a list without the rows": [indices[:, 1:], distances[:, 1:].astype(np.float32)],
        "unsorted": tuple(np.take_along_axis(array, order, axis=1) for array in known),
        "unsigned": (indices.astype(np.uint32), distances),
        "CSR": matrix,
        "CSC": sp.csc_matrix(matrix),
        "Dask": tuple(dask.array.from_array(array, chunks=chunks) for array in known),
        "files": (folder / "indices.npy", str(folder / "distances.npy")),
    }
    return forms[form]


@pytest.mark.parametrize(
    "form",
    ["umap-learn", "umap-learn with an index", "a list without the rows", "unsorted", "unsigned", "CSR", "CSC", "Dask",
     "files", "openTSNE"],
)  # fmt: skip
def test_every_form_gives_the_map_of_the_search(x, known, searched, tmp_path, form):
    nomad = NomadProjection(precomputed_knn=in_form(known, form, tmp_path), **SETTINGS).fit(x)
    np.testing.assert_array_equal(nomad.embedding_, searched)
    assert (nomad.diagnostics_["recall"], nomad.diagnostics_["n_probes"]) == (1, 0)
    distances, indices = nomad.kneighbors()
    np.testing.assert_array_equal(indices, known[0][:, 1:16])
    np.testing.assert_array_equal(distances, known[1][:, 1:16].astype(np.float32))


def test_nothing_given_is_the_search(x, searched):
    nomad = NomadProjection(precomputed_knn=(None, None, None), **SETTINGS).fit(x)
    np.testing.assert_array_equal(nomad.embedding_, searched)


def make_given(x: Any, given: Any, **settings: Any) -> Any:
    neighbors = resolve_neighbors(given)
    assert neighbors is not None
    return make_map(x, precomputed_knn=neighbors.param, given_neighbors=neighbors, **(SETTINGS | settings))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_in_several_shards_and_blocks(tmp_path, monkeypatch, metric):
    x = blobs(N, n_blobs=1)
    monkeypatch.setattr("nomad_dask.planning.planner._MIN_BLOCK_BYTES", 4 * 100 * 200)
    monkeypatch.setattr("nomad_dask.planning.planner._MAX_BLOCK_BYTES", 4 * 100 * 200)
    monkeypatch.setattr("nomad_dask.partition.given_lists._BLOCK_BYTES", 16 * WIDTH * 70)
    distances, indices = NearestNeighbors(n_neighbors=WIDTH, algorithm="brute", metric=metric).fit(x).kneighbors(x)
    given = indices, np.maximum(distances, 0)
    layout = make_given(x, given, n_shards=3, metric=metric, model=tmp_path / "m", workspace=tmp_path / "w")
    assert layout.diagnostics["recall"] > 0.99  # equal distances in float64 may differ in float32
    assert layout.diagnostics["foreign_share"] > 0
    found = load_model(tmp_path / "m").kneighbors()
    own = indices == np.arange(N)[:, None]
    assert own.sum() == N
    np.testing.assert_array_equal(found[1], indices[~own].reshape(N, -1)[:, :15])
    np.testing.assert_allclose(found[0], given[1][~own].reshape(N, -1)[:, :15], rtol=1e-6)


def test_neighbors_in_other_shards_are_left_out_without_attraction_across(tmp_path):
    x = blobs(N, n_blobs=1)
    known = NearestNeighbors(n_neighbors=WIDTH, algorithm="brute").fit(x).kneighbors(x)[::-1]
    make_given(x, known, n_shards=2, cross_shard_attraction=False, model=tmp_path / "m", keep_stages=True,
               workspace=tmp_path / "w")  # fmt: skip
    shard_of = np.empty(N, int)
    for shard in range(2):
        shard_of[np.load(tmp_path / "w" / f"shards/{shard:04d}.rows.npy")] = shard
    distances, indices = load_model(tmp_path / "m").kneighbors()
    is_left_out = False
    for i in range(N):
        expected = [(d, j) for d, j in zip(known[1][i, 1:], known[0][i, 1:], strict=True) if shard_of[j] == shard_of[i]]
        fill = [(np.inf, -1)] * (15 - len(expected))
        found = list(zip(distances[i], indices[i], strict=True))
        assert found == [(np.float32(d), j) for d, j in expected[:15] + fill]
        is_left_out = is_left_out or expected[0][1] != known[0][i, 1]
    assert is_left_out


def test_beside_a_coarse_map(x, known, monkeypatch):
    monkeypatch.setattr("nomad_dask.planning.planner.COARSE_MIN_ROWS", 50)
    layout = make_given(x, known, coarse_init="always")
    assert layout.diagnostics["recall"] == 1
    assert np.isfinite(layout.positions).all()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_recall_is_that_of_brute_force(known, share):
    """Of all rows, as there are fewer than are sampled."""
    x = blobs(190, seed=3)
    distances, indices = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(x.astype(np.float64)).kneighbors()
    rng = np.random.default_rng(0)
    given = indices.copy()
    for i in np.flatnonzero(rng.random(190) < share):
        given[i] = rng.choice(np.delete(np.arange(190), i), 11, replace=False)
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(given[:, :10], indices[:, :10], strict=True)])
    # The lists are ordered by the distances that are given with them, so the first ten stay the first.
    arguments = {"n_neighbors": 10, "n_shards": 1}
    if share:
        with pytest.warns(NomadWarning, match=f"given neighbors contain {expected:.0%} of the true ones"):
            layout = make_given(x, (given, distances), **arguments)
    else:
        layout = make_given(x, (given, distances), **arguments)
    assert layout.diagnostics["recall"] == pytest.approx(expected, abs=1e-9)


def neighbor_columns(known: tuple[np.ndarray, np.ndarray], x: np.ndarray) -> pa.Table:
    """Vectors, and neighbors in lists of different lengths, of a fixed size, and in structures."""
    lengths = 16 + np.random.default_rng(0).integers(44, size=N)
    lists = [[array[i, :length].tolist() for i, length in enumerate(lengths)] for array in known]
    return pa.table({
        "vectors": pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1]),
        "neighbors": pa.FixedSizeListArray.from_arrays(known[0].ravel(), WIDTH),
        "distances": pa.FixedSizeListArray.from_arrays(known[1].ravel().astype(np.float32), WIDTH),
        "atlas": pa.array([{"ids": a, "distances": b} for a, b in zip(*(k.tolist() for k in known), strict=True)]),
        "some": pa.array(lists[0], pa.large_list(pa.int32())),
        "how far": pa.array(lists[1]),
        "name": [f"row {i}" for i in range(N)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def table(known, x, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("columns") / "x.parquet"
    pq.write_table(neighbor_columns(known, x), path, row_group_size=350)
    return path


@pytest.mark.parametrize("columns", ["atlas", "neighbors,distances"])
def test_columns_of_a_file_on_the_command_line(searched, known, table, tmp_path, columns):
    options = ["--column", "vectors", "--neighbors-column", columns, "--n-epochs", 10, "--metadata-columns", "name"]
    done = run_nomad("fit", table, "-o", tmp_path / "m.parquet", *options, "--model", tmp_path / "m", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["diagnostics"]["n_probes"] == 0
    assert result["params"]["precomputed_knn"].startswith("given:")
    found = read_map(tmp_path / "m.parquet")
    np.testing.assert_array_equal(found.positions, searched)
    assert found.columns == ["x", "y", "cell", "name"]
    np.testing.assert_array_equal(load_model(tmp_path / "m").kneighbors()[1], known[0][:, 1:16])


def test_columns_of_lists_of_any_lengths(x, known, table):
    nomad = NomadProjection(**SETTINGS).fit(table, column="vectors", neighbors_column=["some", "how far"])
    np.testing.assert_array_equal(nomad.kneighbors()[1], known[0][:, 1:16])
    frame = pd.read_parquet(table)
    again = NomadProjection(**SETTINGS).fit(frame, column="vectors", neighbors_column=["some", "how far"])
    np.testing.assert_array_equal(again.embedding_, nomad.embedding_)


def test_long_lists_in_columns_are_cut_to_the_nearest(x, known, tmp_path, monkeypatch):
    """A row may have all others as neighbors."""
    monkeypatch.setattr("nomad_dask.pipeline.given_neighbors.MAX_WIDTH", 70)
    lists = [[array[i].tolist() for i in range(N)] for array in known]
    distances = np.linalg.norm(x - x[7], axis=1).astype(np.float64)
    lists[0][7], lists[1][7] = list(range(N)), distances.tolist()
    columns = {"v": list(x), "a": lists[0], "b": lists[1]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    nomad = NomadProjection(**SETTINGS).fit(tmp_path / "x.parquet", column="v", neighbors_column=["a", "b"])
    np.testing.assert_array_equal(nomad.kneighbors()[1], known[0][:, 1:16])


def test_what_the_command_neighbors_writes_is_taken(x, tmp_path):
    """The lists of a model as columns beside the vectors."""
    first = NomadProjection(n_tail_neighbors=0, **SETTINGS).fit(x)
    lists = first.model_.neighbor_table()
    for name, columns in (("neighbors", lists), ("atlas", first.model_.neighbor_table(form="embedding-atlas"))):
        vectors = pa.table({"vectors": pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])})
        for column in columns.schema.names:
            vectors = vectors.append_column(column, columns[column])
        pq.write_table(vectors, tmp_path / f"{name}.parquet")
        again = NomadProjection(n_tail_neighbors=0, **SETTINGS)
        again.fit(tmp_path / f"{name}.parquet", column="vectors", neighbors_column=columns.schema.names)
        np.testing.assert_array_equal(again.embedding_, first.embedding_)


def test_lists_of_the_same_length_have_no_tail(x, known):
    """Then the map is that of a search without one."""
    plain = NomadProjection(n_tail_neighbors=0, **SETTINGS).fit(x).embedding_
    short = tuple(array[:, :16] for array in known)
    np.testing.assert_array_equal(NomadProjection(precomputed_knn=short, **SETTINGS).fit(x).embedding_, plain)


def test_other_neighbors_are_another_run(x, known, tmp_path):
    make_given(x, known, workspace=tmp_path / "w")
    with pytest.raises(WorkspaceError):
        make_given(x, (known[0], known[1] * 2), workspace=tmp_path / "w")
    with pytest.raises(WorkspaceError):
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
    make_given(x, known, workspace=tmp_path / "w")


def test_lists_are_kept_as_the_plan_says(x, known, tmp_path):
    make_given(x, known, n_shards=2, workspace=tmp_path / "w", keep_stages=True)
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "w").rglob("*given_*.npy")}
    assert len(sizes) == 6
    # 15 neighbors and 11 of one of every four behind them, of 4 bytes, and a header of 128 bytes in every file.
    assert sum(sizes.values()) == 2 * 2 * 4 * 59 * N + 6 * 128


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "precomputed_knn is a str, which is not accepted: give \\(indices, distances\\)"),
        (3, "precomputed_knn is a int, which is not accepted"),
        ((np.zeros((N, 20), int),), "precomputed_knn is a tuple, which is not accepted"),
        ((np.zeros((N, 20), int), np.zeros((N, 19))), r"indices of shape \(1200, 20\) and distances .*\(1200, 19\)"),
        ((np.zeros((N, 20)), np.zeros((N, 20))), "indices of dtype float64: give whole numbers first"),
        ((np.zeros(N, int), np.zeros(N)), "The indices of precomputed_knn are not accepted: Expected 2D array"),
        ((np.zeros((N - 1, 20), int), np.zeros((N - 1, 20))), "neighbors of 1,199 rows, and .* has 1,200"),
        ((np.zeros((N, 14), int), np.zeros((N, 14))), "lists of 14 neighbors, and n_neighbors=15 .* or n_neighbors=14"),
        ((np.full((N, 16), N), np.ones((N, 16))), "row 0 has the neighbor 1200, and there are rows 0 to 1,199"),
        ((np.zeros((N, 16), int), np.ones((N, 16))), "row 0 has the neighbor 0 twice"),
        (sp.random(N, 30, 0.5, "csr"), r"sparse matrix of shape \(1200, 30\)"),
        (sp.eye(N, format="csr"), "lists of 1 neighbors, and n_neighbors=15"),
    ],
)  # fmt: skip
def test_what_cannot_be_neighbors_is_named(x, tmp_path, given, message):
    nomad = NomadProjection(precomputed_knn=given, workspace=tmp_path / "w", **SETTINGS)
    with pytest.raises(InputError, match=message):
        nomad.fit(x)
    assert not (tmp_path / "w" / "sample").exists()


def test_the_same_command_takes_up_every_state(x, known, table, tmp_path):
    """A kill leaves the files as they are between two changes."""
    folder, copies = tmp_path / "out", tmp_path / "copies"
    folder.mkdir()
    output = folder / "m.parquet"
    command = ["fit", str(table), "--column", "vectors", "--neighbors-column", "atlas", "-o", str(output), "--quiet",
               "--n-epochs", "3", "--n-shards", "2", "--model", str(folder / "m")]  # fmt: skip
    recorder = ForkedProcess(record, folder, copies, command)
    _, errors = recorder.communicate()
    assert recorder.returncode == 0, errors
    expected = read_map(output).positions
    states = sorted(copies.iterdir())
    unfinished = [state for state in states if not (state / "m.parquet").exists()]
    of_given = [state for state in unfinished if any(state.rglob("*given_*"))]
    assert len(of_given) > 20
    for state in [*unfinished[::41], *of_given[::29], unfinished[-1]]:
        shutil.rmtree(folder)
        shutil.copytree(state, folder, symlinks=True)
        code, _, errors = run_command(command)
        assert code == 0, (state.name, errors)
        np.testing.assert_array_equal(read_map(output).positions, expected, err_msg=state.name)
        np.testing.assert_array_equal(load_model(folder / "m").kneighbors()[1], known[0][:, 1:16])
        assert {path.name for path in folder.iterdir()} == {"m.parquet", "m"}


@pytest.mark.parametrize("name", ["sample/given_neighbors.npy", "shards/0001.given_distances.npy"])
def test_damaged_lists_are_read_again(x, known, tmp_path, name):
    workspace = tmp_path / "w"
    arguments = {"n_shards": 2, "workspace": workspace, "keep_stages": True, "model": tmp_path / "m"}
    expected = make_given(x, known, **arguments).positions
    damaged(workspace / name, "flipped")
    with pytest.warns(NomadWarning, match=f"{name} "):
        again = make_given(x, known, overwrite=True, **arguments)
    np.testing.assert_array_equal(again.positions, expected)
    np.testing.assert_array_equal(load_model(tmp_path / "m").kneighbors()[0], known[1][:, 1:16].astype(np.float32))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["neighbor"], "has no column 'neighbor' to keep. Did you mean 'neighbors'"),
        (["neighbors"], "holds fixed_size_list.* give a column of structures"),
        (["name"], "holds (large_)?string"),
        (["distances", "neighbors"], "holds fixed_size_list<.*float"),
        (["some", "distances"], "row 0 has lists of different lengths"),
    ],
)
def test_columns_that_hold_no_neighbors_are_named(table, columns, message):
    with pytest.raises(InputError, match=message):
        NomadProjection(**SETTINGS).fit(table, column="vectors", neighbors_column=columns)


def test_a_missing_list_and_two_ways_at_once_are_refused(x, known, tmp_path):
    lists = [{"ids": a, "distances": b} for a, b in zip(*(k.tolist() for k in known), strict=True)]
    lists[700] = None
    vectors = pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])
    pq.write_table(pa.table({"vectors": vectors, "n": pa.array(lists)}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="row 700 has no list"):
        NomadProjection(**SETTINGS).fit(tmp_path / "x.parquet", column="vectors", neighbors_column="n")
    with pytest.raises(InputError, match="precomputed_knn and the column 'n' of neighbors are both given"):
        NomadProjection(precomputed_knn=known).fit(tmp_path / "x.parquet", column="vectors", neighbors_column="n")
    with pytest.raises(InputError, match=r"precomputed_knn='given:.*' stands for neighbors that are missing"):
        make_map(x, precomputed_knn=f"given:{'0' * 32}")
    with pytest.raises(InputError, match="precomputed_knn='x' is not accepted"):
        make_map(x, precomputed_knn="x")
