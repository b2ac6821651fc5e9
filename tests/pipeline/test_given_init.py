"""Initial positions that the user gives, and those that are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from scipy.spatial import procrustes

from nomad_dask import NomadProjection, Params, read_map
from nomad_dask.cli.commands import cli
from nomad_dask.errors import InputError, WorkspaceError
from nomad_dask.pipeline.given_init import resolve_init
from nomad_dask.planning.disk_space import sample_disk_bytes
from nomad_dask.planning.host_memory import sample_host_bytes
from nomad_dask.planning.planner import make_plan
from nomad_dask.sources import open_source
from tests.helpers.runs import blobs, make_map

STILL = {"n_epochs": 1, "learning_rate": 1e-9}


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(1200)


@pytest.fixture(scope="module")
def positions() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1200, 2)) * [50, 7] + 300


def fit(x: np.ndarray, init: object, **settings: object) -> np.ndarray:
    return NomadProjection(init=init, **settings).fit(x).embedding_


@pytest.mark.parametrize("n_shards", [1, 3])
def test_rows_start_at_the_given_positions_in_their_order(x, positions, n_shards):
    made = fit(x, positions, n_shards=n_shards, **STILL)
    np.testing.assert_allclose(made, positions, atol=1e-2)


def test_a_map_continues_where_it_was(x):
    first = fit(x, "mds", n_epochs=100)
    again = fit(x, first, n_epochs=30)
    assert procrustes(first, again)[2] < 0.05
    assert procrustes(first, fit(x, "random", n_epochs=100))[2] > 0.1


def test_a_map_is_refined_where_it_is_and_only_if_it_is_given(x):
    first = fit(x, "mds", n_epochs=100)
    nomad = NomadProjection(init=first, preset="refine").fit(x)
    assert nomad.n_epochs_ == 100
    assert np.abs(nomad.embedding_ - first).max() > 0
    assert min(np.corrcoef(first[:, axis], nomad.embedding_[:, axis])[0, 1] for axis in (0, 1)) > 0.99
    with pytest.raises(InputError, match="preset='refine' refines a map that is given, and init is 'mds'"):
        NomadProjection(preset="refine").fit(x)


def test_maps_frames_and_files_give_the_same_positions(x, positions, tmp_path):
    estimator = NomadProjection(n_epochs=2).fit(x)
    path = estimator.map_.to_parquet(tmp_path / "m.parquet")
    made = estimator.embedding_
    frame = pd.DataFrame({"x": made[:, 0], "y": made[:, 1], "name": "row"})
    found = [resolve_init(init) for init in (made, estimator.map_, path, str(path), frame, made.tolist())]
    assert len({name for name, _ in found}) == 1
    for name, given in found:
        assert Params(init=name).has_given_init
        assert given is not None
        np.testing.assert_array_equal(given.positions, made)
    assert resolve_init(positions)[0] != found[0][0]


def test_names_are_kept(x):
    assert [resolve_init(name) for name in ("mds", "pca", "random")] == [("mds", None), ("pca", None), ("random", None)]


def test_the_size_of_the_start_is_that_requested(x):
    for init in ("mds", "pca", "random"):
        for n_shards in (1, 2):
            made = fit(x, init, n_shards=n_shards, init_std=30.0, **STILL)
            assert made.std(axis=0).max() == pytest.approx(30, rel=0.15)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("pcaa", "init='pcaa' is neither accepted nor the path of a map. Did you mean 'pca'"),
        ("a" * 5000, "init='a+' is neither accepted nor the path of a map"),
        ("a\0", "is neither accepted nor the path of a map"),
        (3, r"init has shape \(\) and dtype int64"),
        (None, r"init has shape \(\) and dtype object"),
        ([[1, 2], [3]], "init is no array"),
        (np.zeros(1200), r"init has shape \(1200,\)"),
        (np.full((1200, 2), "a"), "init has shape .* and dtype <U1"),
        (np.zeros((1200, 3)), r"init has shape \(1200, 3\), and the map of .* has shape \(1200, 2\)"),
        (np.zeros((1199, 2)), r"init has shape \(1199, 2\)"),
        (np.append(np.zeros((1199, 2)), [[np.nan, 0]], axis=0), r"init has \[nan, 0.0\] in row 1199"),
        (np.full((1200, 2), 1e7), r"init has .* in row 0: give finite positions from -1,000,000 to 1,000,000"),
        (pd.DataFrame({"a": np.zeros(1200)}), "x and y are required"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_start_is_refused(x, init, message):
    with pytest.raises(InputError, match=message):
        fit(x, init)


def test_a_coarse_start_contradicts_a_given_one(x, positions):
    with pytest.raises(InputError, match="coarse_init='always' replaces the given init"):
        fit(x, positions, coarse_init="always")


def test_a_digest_without_positions_is_refused(x):
    with pytest.raises(InputError, match="stands for positions that are missing"):
        make_map(x, init=f"given:{'0' * 32}")


def test_a_workspace_belongs_to_the_positions(x, positions, tmp_path):
    made = fit(x, positions, workspace=tmp_path / "w", n_epochs=2)
    np.testing.assert_array_equal(fit(x, positions, workspace=tmp_path / "w", n_epochs=2), made)
    with pytest.raises(WorkspaceError, match="belongs to another run"):
        fit(x, positions + 1, workspace=tmp_path / "w", n_epochs=2)


def test_the_start_is_read_again_after_its_shard_was_damaged(x, positions, tmp_path: Path):
    """The positions are removed once the shards hold them."""
    name, given = resolve_init(positions)
    settings = {"init": name, "given_positions": given, "workspace": tmp_path / "w", "n_shards": 2, "n_epochs": 3}
    made = make_map(x, **settings).positions
    assert not (tmp_path / "w/sample/init.npy").exists()
    (tmp_path / "w/shards/0001.rows.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        again = make_map(x, **settings).positions
    np.testing.assert_array_equal(again, made)


def test_a_map_is_not_replaced_by_the_one_that_starts_from_it(x, tmp_path):
    """After a kill, the same command would start from the other."""
    np.save(tmp_path / "x.npy", x)
    made = tmp_path / "m.parquet"
    arguments = ["fit", str(tmp_path / "x.npy"), "--n-epochs", "3", "-o", str(made)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    before = made.read_bytes()
    (tmp_path / "other.parquet").hardlink_to(made)
    for start in (made, tmp_path / "other.parquet"):
        refused = CliRunner().invoke(cli, [*arguments, "--overwrite", "--init", str(start)])
        assert refused.exit_code == 2, refused.output
        assert str(made) in refused.output
        assert made.read_bytes() == before


def test_given_positions_take_disk_and_memory(x):
    source = open_source(x)
    plans = [make_plan(source, Params(init=init), 1, 8 << 30) for init in ("mds", f"given:{'0' * 32}")]
    for needed in (sample_disk_bytes, sample_host_bytes):
        assert needed(plans[1]) == needed(plans[0]) + 4 * 2 * len(x)


def test_on_the_command_line(x, tmp_path):
    np.save(tmp_path / "x.npy", x)

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    options = ["--quiet", "--set", "learning_rate=1e-9", "--epochs", 1]
    assert call("fit", tmp_path / "x.npy", "-o", first, "--init", "random", *options).exit_code == 0
    assert call("fit", tmp_path / "x.npy", "-o", second, "--init", first, *options).exit_code == 0
    np.testing.assert_allclose(read_map(second).positions, read_map(first).positions, atol=1e-2)
    assert call("plan", tmp_path / "x.npy", "--init", first, "--no-time").exit_code == 0
    np.save(tmp_path / "half.npy", x[:600])
    refused = call("plan", tmp_path / "half.npy", "--init", first, "--no-time")
    assert refused.exit_code == 2
    assert "init has shape (1200, 2)" in refused.output
