"""Progress bars on a real pseudo-terminal, lines in a log, silence in a pipe."""

from __future__ import annotations

import io
import re

import pytest

from nomad_dask.callbacks import (
    EpochDone,
    Event,
    Measured,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
)
from nomad_dask.callbacks.progress_bars import progress_bars, stage_progress
from tests.helpers.terminals import on_a_terminal, screen


def test_a_terminal_shows_stage_rate_and_time_left() -> None:
    written = on_a_terminal("""
        with progress_bars() as emit:
            emit(StageStarted("neighbors", 70_000, "rows"))
            for i in range(6):
                time.sleep(0.25)
                emit(StageAdvanced("neighbors", 1_000 * (i + 1)))
            time.sleep(0.5)
            emit(StageAdvanced("neighbors", 70_000))
            emit(StageFinished("neighbors", 2.0))
    """)
    while_running = re.findall(r" \d?\d% +[\d,]+ rows/s +(\d\d:\d\d)", re.sub(r"\x1b\[\d+m", "", written))
    assert while_running, "no rate with the time left was shown before the end"
    (left,) = screen(written)
    assert left.startswith("neighbors")
    assert "100%" in left


def test_short_and_resumed_stages_leave_no_bar_but_long_ones_do() -> None:
    left = screen(
        on_a_terminal("""
        with progress_bars() as emit:
            emit(StageStarted("sample", 10, "rows"))
            emit(StageAdvanced("sample", 10))
            emit(StageFinished("sample", 0.2))
            emit(StageStarted("cells", 10, "rows"))
            emit(StageFinished("cells", 30.0, resumed=True))
            emit(StageStarted("layout", 4, "epochs"))
            for epoch in range(1, 5):
                emit(StageAdvanced("layout", epoch))
                emit(EpochDone(epoch, 4, 8.125, 64))
            emit(StageFinished("layout", 5.0))
    """)
    )
    assert len(left) == 1, left
    assert left[0].startswith("layout")
    assert "loss 8.125" in left[0]


def test_side_by_side_stages_and_messages_stand_clear_of_the_bars() -> None:
    left = screen(
        on_a_terminal("""
        with progress_bars(verbose=True) as emit:
            emit(StageStarted("first", 10, "rows"))
            emit(StageStarted("second", 0, "rows"))
            emit(WorkerLost("tcp://10.0.0.1:5"))
            emit(Measured("recall", 0.9531))
            emit(StageFinished("second", 2.0))
            emit(StageFinished("first", 3.0))
            print("the result")
    """)
    )
    assert left[:2] == ["worker tcp://10.0.0.1:5 was lost", "recall: 0.9531"]
    assert sorted(line.split()[0] for line in left[-2:]) == ["first", "second"]


def test_an_interrupt_leaves_the_terminal_usable() -> None:
    written = on_a_terminal("""
        try:
            with progress_bars() as emit:
                emit(StageStarted("layout", 200, "epochs"))
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
    """)
    assert screen(written)[-1] == "stopped"
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor stays hidden"


def test_a_pipe_gets_nothing() -> None:
    stream = io.StringIO()
    with progress_bars(stream) as emit:
        emit(StageStarted("sample", 10, "rows"))
        emit(StageFinished("sample", 20.0))
        emit(WorkerLost("tcp://10.0.0.1:5"))
    assert stream.getvalue() == ""


def test_a_log_gets_a_line_a_stage_with_its_figures() -> None:
    stream = io.StringIO()
    with progress_bars(stream, verbose=True) as emit:
        emit(StageStarted("neighbors", 70_000, "rows"))
        emit(StageAdvanced("neighbors", 30_000))
        emit(Measured("recall", 0.95312))
        emit(StageFinished("neighbors", 3.5))
        emit(StageStarted("sample", 10, "rows"))
        emit(StageFinished("sample", 0.0, resumed=True))
        emit(StageStarted("layout", 200, "epochs"))
        emit(EpochDone(199, 200, 8.5, 1024))
        emit(EpochDone(200, 200, 8.25, 1024))
        emit(StageFinished("layout", 4.0))
        emit(WorkerLost("tcp://10.0.0.1:5"))
    assert stream.getvalue().splitlines() == [
        "recall: 0.95312",
        "neighbors: 70,000 rows in 3.50 s (20,000 rows/s)",
        "sample: done in an earlier run",
        "layout: 200 epochs in 4.00 s (50 epochs/s), loss 8.2500, 1,024 bytes exchanged an epoch",
        "worker tcp://10.0.0.1:5 was lost",
    ]


def test_a_stage_that_fails_is_never_said_to_be_finished() -> None:
    events: list[Event] = []
    with stage_progress(events.append, "score", 10, "rows") as advance:
        advance(4)
    started, advanced, finished = events
    assert started == StageStarted("score", 10, "rows")
    assert advanced == StageAdvanced("score", 4)
    assert isinstance(finished, StageFinished)
    assert finished.stage == "score"
    assert finished.seconds >= 0
    events.clear()
    with pytest.raises(ZeroDivisionError), stage_progress(events.append, "score", 10, "rows"):
        raise ZeroDivisionError
    assert events == [started]
