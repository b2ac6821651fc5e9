"""Learning rate, momentum and exaggeration by epoch."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_dask.layout.schedule import is_exchange_epoch, next_sync_epoch, schedule
from nomad_dask.params import PRESETS, Params


@pytest.mark.parametrize(
    ("preset", "epochs", "rate", "momentum"), [("fast", 100, 2, 0.9), ("default", 200, 1, 0.95), ("best", 300, 2, 0.95)]
)
def test_presets_are_those_that_were_measured(preset, epochs, rate, momentum):
    plan = schedule(Params(preset=preset), 1000, refining=False)
    assert (plan.n_epochs, plan.rate, plan.momentum) == (epochs, rate, momentum)
    assert plan.at(0).learning_rate == rate
    for epoch in range(epochs):
        assert plan.at(epoch).learning_rate == pytest.approx(rate * min(1, 1.02 - epoch / epochs))
        assert plan.at(epoch).momentum == momentum
        assert plan.at(epoch).max_step_norm == 5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_coarse_start_needs_fewer_epochs(preset):
    params = Params(preset=preset)
    assert schedule(params, 1000, refining=True).n_epochs < schedule(params, 1000, refining=False).n_epochs
    assert schedule(params.replace(n_epochs=77), 1000, refining=True).n_epochs == 77


def test_what_is_given_takes_the_presets_place():
    plan = schedule(
        Params(preset="best", n_epochs=10, learning_rate=0.5, momentum=0, max_step_norm=2, learning_rate_end=0.5),
        1000,
        refining=False,
    )
    assert [plan.at(e).learning_rate for e in (0, 5, 9)] == pytest.approx([0.5, 0.5, 0.3])
    assert plan.at(3).momentum == 0
    assert plan.at(3).max_step_norm == 2


def test_the_papers_rate_falls_to_zero():
    plan = schedule(Params.paper(), 1000, refining=False)
    rates = [plan.at(epoch).learning_rate for epoch in range(400)]
    assert rates[0] == 0.1
    assert rates[200] == pytest.approx(0.05)
    assert rates[399] == pytest.approx(0.1 / 400)


@given(epochs=st.integers(1, 500), factor=st.floats(0.5, 20))
def test_exaggeration_holds_for_the_second_half(epochs, factor):
    plan = schedule(Params(n_epochs=epochs, late_exaggeration=factor), 1000, refining=False)
    for epoch in range(epochs):
        assert plan.at(epoch).exaggeration == (factor if 2 * epoch >= epochs else 1)


@given(epochs=st.integers(1, 500), end=st.floats(0, 1))
def test_rates_never_rise_and_the_last_loss_is_measured(epochs, end):
    plan = schedule(Params(n_epochs=epochs, learning_rate_end=end), 1000, refining=False)
    steps = [plan.at(epoch) for epoch in range(epochs)]
    assert [step.epoch for step in steps] == list(range(epochs))
    assert all(a.learning_rate >= b.learning_rate > 0 for a, b in pairwise(steps))
    assert steps[0].measure_loss
    assert steps[-1].measure_loss


def test_large_maps_get_epochs_in_proportion_to_their_width():
    epochs = {n: schedule(Params(), n, refining=False).n_epochs for n in (10, 100_000, 400_000)}
    assert epochs[10] == epochs[100_000] == 200
    assert epochs[400_000] == 400
    assert schedule(Params(), 400_000, refining=True).n_epochs == schedule(Params(), 10, refining=True).n_epochs
    assert schedule(Params(n_epochs=7), 400_000, refining=False).n_epochs == 7


@pytest.mark.parametrize(
    ("every", "told"),
    [(1, list(range(1, 27))), (2, [1, 3, 5, 7, 9, 11, 13]), (3, [1, 4, 7, 10, 13]), (4, [1, 5, 9, 13])],
)
def test_when_shards_tell_each_other(every, told):
    expected = told if every == 1 else told + [13 + epoch for epoch in told]
    assert [epoch for epoch in range(1, 27) if is_exchange_epoch(epoch, every)] == expected


@given(st.integers(0, 200), st.integers(1, 60), st.integers(1, 4))
def test_batches_end_where_shards_can_begin_again(done, n_epochs, every):
    epoch = 13 * done if every > 1 else done
    last = epoch + 100
    stop = next_sync_epoch(epoch, n_epochs, every, last)
    assert epoch < stop <= last
    assert stop == last or stop - epoch >= n_epochs
    assert every == 1 or stop == last or stop % 13 == 0
