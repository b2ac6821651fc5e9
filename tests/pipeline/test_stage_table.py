"""The table of stages: one added row is run, resumed, planned, estimated and described like all others."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks.events import StageAdvanced, StageFinished, StageStarted
from nomad_dask.errors import NomadWarning
from nomad_dask.params import Params
from nomad_dask.pipeline import stages as table
from nomad_dask.pipeline.pending import pending_stages
from nomad_dask.pipeline.resources import estimate_resources
from nomad_dask.pipeline.stage import Stage, StageContext, StageResult
from nomad_dask.pipeline.status import read_status
from nomad_dask.pipeline.time_estimate import estimate_seconds
from nomad_dask.planning.plan_table import format_plan
from nomad_dask.planning.planner import make_plan
from nomad_dask.planning.resources import ResourceModel
from nomad_dask.sources import open_source
from tests.helpers.runs import EventLog, blobs, make_map

SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 10, "cell_size": 60}


def row_norms(run: Any, shard: int) -> float:
    vectors = np.load(run.file(f"shards/{shard:04d}.vectors.npy"))
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    np.save(run.file("norms").joinpath(f"{shard:04d}.npy"), norms)
    return float(norms.max())


def run_norms(context: StageContext, on_progress: Any) -> StageResult:
    context.workspace.file("norms").mkdir(exist_ok=True)
    largest = context.cluster.run(row_norms, context.jobs(), on_progress)
    on_progress(0, context.run.plan.n_rows)
    names = [f"norms/{shard:04d}.npy" for shard in range(context.run.plan.n_shards)]
    return StageResult(context.describe(names), {"largest_norm": max(largest)})


NORMS = Stage(
    name="norms",
    reads=("shards/*.vectors.npy",),
    writes=("norms/*",),
    resources=ResourceModel(lambda plan: 7 << 40, lambda plan: 8 * plan.n_rows),
    total=lambda run: run.plan.n_rows,
    function=run_norms,
    work=lambda load: load.n_rows,
)


@pytest.fixture
def x() -> np.ndarray:
    return blobs(800)


@pytest.fixture
def with_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the row between 'shards' and 'neighbors'."""
    names = [stage.name for stage in table.STAGES]
    place = names.index("neighbors")
    monkeypatch.setattr(table, "STAGES", (*table.STAGES[:place], NORMS, *table.STAGES[place:]))
    monkeypatch.setattr("nomad_dask.pipeline.run.check_resources", lambda *_: None)  # it claims 7 TiB


@pytest.mark.usefixtures("with_norms")
class TestAddedStage:
    def test_it_runs_in_its_place_and_is_reported(self, x, tmp_path):
        event_log = EventLog()
        layout = make_map(x, workspace=tmp_path / "w", keep_stages=True, emit=event_log, **SETTINGS)
        order = [event.stage for event in event_log.of(StageFinished)]
        assert order == ["sample", "cells", "shards", "norms", "neighbors", "layout"]
        assert [event.total for event in event_log.of(StageStarted) if event.stage == "norms"] == [800]
        assert [event.done for event in event_log.of(StageAdvanced) if event.stage == "norms"][-1] == 800
        norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))
        assert layout.diagnostics["largest_norm"] == pytest.approx(norms.max())
        written = np.concatenate([np.load(tmp_path / "w" / f"norms/{s:04d}.npy") for s in range(2)])
        np.testing.assert_allclose(np.sort(written), np.sort(norms), rtol=1e-6)

    def test_it_is_skipped_when_a_run_resumes(self, x, tmp_path):
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
        event_log = EventLog()
        make_map(x, workspace=tmp_path / "w", emit=event_log, **SETTINGS)
        assert {event.stage for event in event_log.of(StageFinished) if event.resumed} >= {"norms"}

    def test_its_artifacts_are_removed_as_nobody_reads_them(self, x, tmp_path):
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
        assert not list((tmp_path / "w").glob("norms/*"))

    def test_damage_to_it_makes_what_it_reads_again(self, x, tmp_path):
        make_map(x, workspace=tmp_path / "w", keep_stages=True, **SETTINGS)
        (tmp_path / "w" / "norms" / "0001.npy").write_bytes(b"")
        assert [s.state for s in read_status(tmp_path / "w").stages] == ["done"] * 3 + ["damaged", "done", "done"]
        event_log = EventLog()
        with pytest.warns(NomadWarning, match="The stage 'norms' is run again"):
            make_map(x, workspace=tmp_path / "w", keep_stages=True, emit=event_log, **SETTINGS)
        assert [event.stage for event in event_log.of(StageStarted)] == ["norms"]

    def test_leftovers_of_a_killed_run_are_removed(self, x, tmp_path):
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
        left: Path = tmp_path / "w" / "norms" / "0009.npy"
        left.parent.mkdir(exist_ok=True)
        left.write_bytes(b"left over")
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
        assert not left.exists()

    def test_it_is_planned_estimated_and_described(self, x, tmp_path):
        source, params = open_source(x), Params(**SETTINGS)
        plan = make_plan(source, params, 1, 8 << 30)
        needed = estimate_resources(plan)
        assert needed.host_bytes == 7 << 40
        assert [(s.disk_bytes, s.host_bytes) for s in needed.stages if s.name == "norms"] == [(6400, 7 << 40)]
        assert "\nnorms " in format_plan(needed)
        assert estimate_seconds(source, params, plan)["norms"] > 0
        make_map(x, workspace=tmp_path / "w", **SETTINGS)
        (status,) = [s for s in read_status(tmp_path / "w").stages if s.name == "norms"]
        assert (status.state, status.facts.keys()) == ("done", {"largest_norm"})


@pytest.mark.parametrize("has_coarse_map", [False, True])
def test_every_stage_reads_what_earlier_ones_write(has_coarse_map):
    stages = table.stages_of_run(has_coarse_map)
    assert [stage.name for stage in stages if stage.is_coarse] == ["coarse"] * has_coarse_map
    for i, stage in enumerate(stages):
        start = stage.coarse_start_reads if has_coarse_map else stage.start_reads
        for pattern in (*stage.reads, *start):
            writers = [s.name for s in stages[: i + 1] if any(fnmatchcase(pattern, w) for w in s.writes)]
            assert writers, f"{stage.name} reads {pattern}, which no stage up to it writes"


def test_a_run_that_has_not_begun_needs_all_its_stages():
    for has_coarse_map in (False, True):
        stages = table.stages_of_run(has_coarse_map)
        assert pending_stages(stages, {}) == {stage.name for stage in stages if stage.function is not None}


def test_no_other_module_names_the_stages_in_order():
    """Order is read from the table: no other module of the pipeline lists two stages one after the other."""
    names = [stage.name for stage in table.STAGES]
    for file in Path(table.__file__).parents[1].rglob("*.py"):
        if file.name != "stages.py":
            text = file.read_text()
            pairs = [f'"{a}", "{b}"' for a, b in pairwise(names)]
            assert not [pair for pair in pairs if pair in text], file


def test_maps_are_the_same_with_the_added_stage(x, monkeypatch):
    plain = make_map(x, **SETTINGS)
    place = [stage.name for stage in table.STAGES].index("neighbors")
    monkeypatch.setattr(table, "STAGES", (*table.STAGES[:place], NORMS, *table.STAGES[place:]))
    monkeypatch.setattr("nomad_dask.pipeline.run.check_resources", lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NomadWarning)
        np.testing.assert_array_equal(make_map(x, **SETTINGS).positions, plain.positions)
