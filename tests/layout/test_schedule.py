"""Learning rate, momentum and exaggeration by epoch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.layout.schedule import is_exchange_epoch, make_schedule, next_sync_epoch
from nomad_dask.params import PRESETS, REFINE, Params


@pytest.mark.parametrize(
    ("preset", "n_epochs", "learning_rate", "momentum"),
    [("fast", 100, 2, 0.9), ("default", 200, 2, 0.95), ("best", 300, 2, 0.95)],
)
def test_presets_are_those_that_were_measured(preset, n_epochs, learning_rate, momentum):
    schedule = make_schedule(Params(preset=preset), 1000)
    assert (schedule.n_epochs, schedule.learning_rate, schedule.momentum) == (n_epochs, learning_rate, momentum)
    assert schedule.at(0).learning_rate == learning_rate
    for epoch in range(n_epochs):
        assert schedule.at(epoch).learning_rate == pytest.approx(learning_rate * min(1, 1.02 - epoch / n_epochs))
        assert schedule.at(epoch).momentum == momentum
        assert schedule.at(epoch).max_step_norm == 5


@pytest.mark.parametrize(("n_rows", "longest"), [(1000, 5), (20_000, 5), (80_000, 10), (320_000, 20), (10**8, 20)])
def test_steps_in_larger_maps_are_longer(n_rows, longest):
    assert make_schedule(Params(), n_rows).max_step_norm == pytest.approx(longest)
    assert make_schedule(Params(max_step_norm=3.0), n_rows).max_step_norm == 3


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset != REFINE])
def test_fewer_epochs_follow_a_coarse_initialization(preset):
    params, coarse = Params(preset=preset), Params(preset=preset, coarse_init="always")
    n_epochs = make_schedule(params, 20_000).n_epochs
    refining_epochs = make_schedule(coarse, 20_000).n_epochs
    assert refining_epochs < n_epochs
    assert make_schedule(coarse, 900).n_epochs == n_epochs, "too few rows for a coarse map"
    assert make_schedule(coarse.replace(n_epochs=77), 20_000).n_epochs == 77
    assert make_schedule(params, 800_000).n_epochs == make_schedule(params, 10**7).n_epochs == refining_epochs


@pytest.mark.parametrize("preset", PRESETS)
def test_no_number_of_rows_is_a_threshold(preset):
    """One row more changes the epochs by less than one in a hundred."""
    sizes = np.unique(np.geomspace(100_000, 2_000_000, 2000).astype(int))
    epochs = np.array([make_schedule(Params(preset=preset), int(n)).n_epochs for n in sizes])
    assert (np.abs(np.diff(epochs)) <= np.maximum(1, 0.01 * epochs[1:])).all()


@pytest.mark.parametrize("n_rows", [1000, 150_000, 10**7])
def test_a_map_that_is_refined_ends_as_it_was_made(n_rows):
    """With as many epochs whatever its size, and with the same attraction."""
    schedule, of_fit = make_schedule(Params(preset=REFINE), n_rows), make_schedule(Params(), n_rows)
    assert schedule.n_epochs == 100 < of_fit.n_epochs
    assert schedule.momentum < of_fit.momentum
    assert schedule.at(99).exaggeration == of_fit.at(of_fit.n_epochs - 1).exaggeration


def test_parameters_override_the_preset():
    schedule = make_schedule(
        Params(preset="best", n_epochs=10, learning_rate=0.5, momentum=0, max_step_norm=2, learning_rate_end=0.5),
        1000,
    )
    assert [schedule.at(e).learning_rate for e in (0, 5, 9)] == pytest.approx([0.5, 0.5, 0.3])
    assert schedule.at(3).momentum == 0
    assert schedule.at(3).max_step_norm == 2


def test_the_learning_rate_of_the_paper_decreases_to_zero():
    schedule = make_schedule(Params.paper(), 1000)
    rates = [schedule.at(epoch).learning_rate for epoch in range(400)]
    assert rates[0] == 0.1
    assert rates[200] == pytest.approx(0.05)
    assert rates[399] == pytest.approx(0.1 / 400)


@given(epochs=st.integers(1, 500), factor=st.floats(0.5, 20))
def test_exaggeration_applies_to_the_second_half(epochs, factor):
    schedule = make_schedule(Params(n_epochs=epochs, late_exaggeration=factor), 1000)
    for epoch in range(epochs):
        assert schedule.at(epoch).exaggeration == (factor if 2 * epoch >= epochs else 1)


@pytest.mark.parametrize(
    ("n_rows", "factor"),
    [(1, 1), (20_000, 1), (34_641, 0.9), (60_000, 0.8), (200_000, 0.7), (400_000, 0.6), (800_000, 0.5), (10**7, 0.5)],
)
def test_attraction_is_weaker_at_the_end_and_gradually_more_so_in_large_maps(n_rows, factor):
    schedule = make_schedule(Params(n_epochs=10), n_rows)
    assert [schedule.at(epoch).exaggeration for epoch in (0, 4, 5, 9)] == pytest.approx(
        [1, 1, factor, factor], abs=1e-4
    )
    assert make_schedule(Params.paper(), n_rows).at(399).exaggeration == 1


@given(epochs=st.integers(1, 500), end=st.floats(0, 1))
def test_learning_rates_never_increase_and_the_last_loss_is_measured(epochs, end):
    schedule = make_schedule(Params(n_epochs=epochs, learning_rate_end=end), 1000)
    steps = [schedule.at(epoch) for epoch in range(epochs)]
    assert [step.epoch for step in steps] == list(range(epochs))
    assert all(a.learning_rate >= b.learning_rate > 0 for a, b in pairwise(steps))
    assert steps[0].measure_loss
    assert steps[-1].measure_loss


def test_the_epochs_of_large_maps_are_proportional_to_their_width():
    params = Params(coarse_init="never")
    epochs = {n: make_schedule(params, n).n_epochs for n in (10, 100_000, 400_000)}
    assert epochs == {10: 200, 100_000: 200, 400_000: 400}
    assert make_schedule(params.replace(n_epochs=7), 400_000).n_epochs == 7


@pytest.mark.parametrize(
    ("sync_every", "in_period"),
    [(1, list(range(1, 27))), (2, [1, 3, 5, 7, 9, 11, 13]), (3, [1, 4, 7, 10, 13]), (4, [1, 5, 9, 13])],
)
def test_when_shards_exchange_summaries(sync_every, in_period):
    expected = in_period if sync_every == 1 else in_period + [13 + epoch for epoch in in_period]
    assert [epoch for epoch in range(1, 27) if is_exchange_epoch(epoch, sync_every)] == expected


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 4))
def test_batches_end_where_shards_can_resume(n_done, n_epochs, sync_every):
    epoch = 13 * n_done if sync_every > 1 else n_done
    last = epoch + 100
    stop = next_sync_epoch(epoch, n_epochs, sync_every, last)
    assert epoch < stop <= last
    assert stop == last or stop - epoch >= n_epochs
    assert sync_every == 1 or stop == last or stop % 13 == 0
