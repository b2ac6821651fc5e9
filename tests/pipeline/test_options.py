"""Every option makes a valid map and has its documented effect."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.manifold import trustworthiness

from nomad_dask.callbacks import EpochDone, Measured, StageAdvanced, StageFinished, StageStarted
from nomad_dask.errors import InputError, NomadWarning
from nomad_dask.params import AFFINITIES, NORMALIZATIONS, PRESETS, REFINE, REPULSION_METHODS, Params
from nomad_dask.pipeline.collect import Layout
from tests.helpers.runs import EventLog, blobs, make_map


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return blobs(500)


def trusted(x: np.ndarray, positions: np.ndarray) -> float:
    assert np.isfinite(positions).all()
    return float(trustworthiness(x, positions, n_neighbors=10))


OPTIONS: dict[str, dict[str, Any]] = {
    **{f"{n} {r}": {"normalization": n, "repulsion_method": r} for n in NORMALIZATIONS for r in REPULSION_METHODS},
    "point field, little noise": {"normalization": "point", "n_noise": 50},
    "means of all cells": {"repulsion_method": "means", "n_negatives": 0},
    "several exact cells": {"repulsion_method": "means", "n_sampled_cells": 3},
    **{weights: {"affinity": weights} for weights in AFFINITIES},
    **{preset: {"preset": preset, "n_epochs": None} for preset in PRESETS if preset != REFINE},
    "late_exaggeration": {"late_exaggeration": 4.0},
    "learning rate": {"learning_rate": 0.5, "momentum": 0.8, "learning_rate_end": 0.2, "max_step_norm": 2.0},
    "tiny start": {"init_std": 1e-4},
    "start at the axes": {"init": "pca"},
    "random start": {"init": "random"},
    "three dimensions": {"n_components": 3},
    "fine mesh": {"mesh_spacing": 0.3},
    "one neighbor": {"n_neighbors": 1},
    "many neighbors": {"n_neighbors": 60},
    "one probe": {"n_probes": 1, "cell_size": 60},
    "low recall": {"target_recall": 0.5},
    "no foreign attraction": {"cross_shard_attraction": False},
    "seldom exchange": {"sync_every": 3},
    "a coarse start": {"coarse_init": "always"},
}


# A map at random has 0.5. One neighbor a row, or a few samples for all repulsion, cannot do much.
FLOORS = {
    "one neighbor": 0.6,
    "means of all cells": 0.6,
    "global means": 0.55,
    "several exact cells": 0.55,
}


CROSSING = [name for name in OPTIONS if any(word in name for word in ("field", "means", "dimensions", "start"))]


@pytest.mark.parametrize(("name", "n_shards"), [*((name, 1) for name in OPTIONS), *((name, 2) for name in CROSSING)])
def test_every_option_makes_a_valid_map(x, name, n_shards):
    options = {"n_epochs": 80} | OPTIONS[name]
    with warnings.catch_warnings():
        if name == "one neighbor":
            warnings.filterwarnings("ignore", ".* small components of the neighbor graph", NomadWarning)
        positions = make_map(x, n_shards=n_shards, **options).positions
    assert positions.shape == (len(x), options.get("n_components", 2))
    assert trusted(x, positions) > FLOORS.get(name, 0.8)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_settings_of_the_paper(x, n_shards):
    positions = make_map(x, **Params.paper(n_shards=n_shards, n_epochs=150).as_dict()).positions
    assert trusted(x, positions) > 0.6


def test_a_coarse_start():
    x = blobs(16_500, n_dims=10)
    event_log = EventLog()
    result = make_map(x, coarse_init="always", n_epochs=10, n_shards=2, emit=event_log)
    finished = [event.stage for event in event_log.of(StageFinished)]
    assert finished == ["sample", *[f"coarse {s}" for s in ("sample", "cells", "shards", "neighbors", "layout")],
                        "coarse", "cells", "shards", "neighbors", "layout"]  # fmt: skip
    rows = np.random.default_rng(0).choice(len(x), 1500, replace=False)
    assert trusted(x[rows], result.positions[rows]) > 0.9


def test_cross_shard_attraction_keeps_neighbors_of_different_shards_together():
    x = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    near = cKDTree(x).query(x, k=11)[1][:, 1:]
    kept = []
    for use in (True, False):
        result = make_map(x, n_shards=3, n_epochs=80, cross_shard_attraction=use, cell_size=50)
        in_map = cKDTree(result.positions).query(result.positions, k=11)[1][:, 1:]
        torn = shards_of(result.cell_labels, 3)[near] != shards_of(result.cell_labels, 3)[:, None]
        found = (near[:, :, None] == in_map[:, None, :]).any(axis=2)
        kept.append(found[torn].mean())
    assert kept[0] > 1.2 * kept[1]


def shards_of(cells: np.ndarray, n_shards: int) -> np.ndarray:
    """Cells are numbered shard by shard: split them into as many ranges of about equal rows."""
    ends = np.cumsum(np.bincount(cells)) / len(cells)
    return np.minimum((ends * n_shards).astype(int), n_shards - 1)[cells]


@pytest.fixture(scope="module")
def heard() -> tuple[Layout, EventLog]:
    """A map by constant attraction, and the events of its run."""
    event_log = EventLog()
    return make_map(blobs(2000), n_shards=2, n_epochs=60, late_exaggeration=1, emit=event_log), event_log


def test_the_loss_is_reported_and_decreases_while_attraction_is_constant(heard):
    result, event_log = heard
    losses = [event.loss for event in event_log.of(EpochDone) if event.loss is not None]
    assert len(losses) == 7
    assert losses[-1] < losses[1] < losses[0]
    assert result.diagnostics["loss"] == losses[-1]


def test_events_cover_the_whole_run(heard):
    result, event_log = heard
    stages = ["sample", "cells", "shards", "neighbors", "layout"]
    assert [event.stage for event in event_log.of(StageStarted)] == stages
    assert [event.stage for event in event_log.of(StageFinished)] == stages
    assert list(result.seconds) == stages
    assert [event.epoch for event in event_log.of(EpochDone)] == list(range(1, 61))
    totals = {event.stage: event.total for event in event_log.of(StageStarted)}
    for event in event_log.of(StageAdvanced):
        assert 0 <= event.done <= totals[event.stage]
    assert {event.name for event in event_log.of(Measured)} >= {"recall", "imbalance"}


def test_the_search_reports_its_progress_from_all_threads(monkeypatch):
    monkeypatch.setattr("nomad_dask.cluster.tasks._PROGRESS_SECONDS", 0.0)
    event_log = EventLog()
    make_map(blobs(6000), n_epochs=1, emit=event_log)
    done = [event.done for event in event_log.of(StageAdvanced) if event.stage == "neighbors"]
    # One for each chunk of 2,048 rows; the last may come after the result.
    assert {2048, 4096, 6000 - 2048} & set(done)
    assert max(done) <= 6000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_cells": 600}, "n_cells=600 is more than the 500 rows"),
        ({"n_shards": 9}, "n_shards=9 for 500 rows leaves fewer than 100 rows a shard: give at most 5"),
        ({"n_shards": 3, "n_cells": 2}, "n_cells=2 is fewer than the 3 shards"),
        ({"device": "tpu"}, "device='tpu' is not accepted"),
    ],
)
def test_contradictory_settings_are_refused(x, settings, message):
    with pytest.raises(InputError) as caught:
        make_map(x, n_epochs=1, **settings)
    assert message in str(caught.value)
