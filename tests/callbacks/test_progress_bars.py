"""Progress bars on a real pseudo-terminal, lines in a log, silence in a pipe."""

from __future__ import annotations

import io
import re
import threading

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
from tests.helpers.processes import wait_until
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


def plain(written: str) -> list[str]:
    """Return all that was ever drawn, line by line, without control sequences."""
    return [
        line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written)) if line.strip()
    ]


def test_a_terminal_shows_elapsed_time_before_anything_is_done() -> None:
    drawn = plain(
        on_a_terminal("""
        with progress_bars() as emit:
            time.sleep(2.2)  # what comes before the first stage, such as imports
            emit(StageStarted("neighbors", 70_000, "rows"))
            time.sleep(2.2)  # the first rows take long
            emit(StageAdvanced("neighbors", 70_000))
            emit(StageFinished("neighbors", 1.3))
            time.sleep(0.5)
            print("the result", file=sys.stderr)
    """)
    )
    assert re.search(r"^preparing \S+ +00:00$", drawn[0]), drawn
    for stage in ("preparing", "neighbors"):
        assert any(re.search(rf"^{stage} \S+ +00:0[1-9]$", line) for line in drawn), drawn
    assert any(line.startswith("working") for line in drawn)
    assert not any("--:--" in line for line in drawn)


def test_bars_take_one_line_each_on_a_terminal_of_80_columns() -> None:
    shown = screen(
        on_a_terminal(
            """
        import os
        with progress_bars() as emit:
            emit(StageStarted("coarse neighbors", 70_000_000, "rows"))
            emit(StageStarted("layout", 200, "epochs"))
            for done in (1, 2, 3):
                time.sleep(0.3)
                emit(StageAdvanced("coarse neighbors", 100_000 * done))
                emit(StageAdvanced("layout", done))
                emit(EpochDone(done, 200, 8.125, 64))
            time.sleep(0.5)
            os._exit(0)  # leaves what a reader sees at this moment
    """,
            columns=80,
        )
    )
    assert [line.split()[0] for line in shown] == ["coarse", "layout"]
    assert all(re.search(r"\d\d:\d\d left, \d\d:\d\d$", line) and len(line) <= 80 for line in shown), shown
    assert "loss 8.125" in shown[1]


def test_only_finished_stages_are_left_on_a_terminal() -> None:
    left = screen(
        on_a_terminal("""
        with progress_bars() as emit:
            time.sleep(0.3)
            emit(StageStarted("layout", 10, "epochs"))
            time.sleep(0.3)
            emit(StageFinished("layout", 2.0))
            time.sleep(0.3)
    """)
    )
    assert len(left) == 1, left
    assert re.search(r"^layout .* 100% .*\d\d:\d\d$", left[0])


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


def test_a_pipe_gets_nothing_of_a_short_run() -> None:
    stream = io.StringIO()
    with progress_bars(stream) as emit:
        emit(StageStarted("sample", 10, "rows"))
        emit(StageFinished("sample", 20.0))
        emit(WorkerLost("tcp://10.0.0.1:5"))
    assert stream.getvalue() == ""


def test_a_pipe_gets_lines_that_say_what_runs() -> None:
    stream = io.StringIO()

    def wait_for(line: str) -> None:
        wait_until(lambda: re.fullmatch(line, (stream.getvalue().splitlines() or [""])[-1]), what=line)

    with progress_bars(stream, silent_seconds=0.01, interval=0.1) as emit:
        wait_for(r"working for \d\.\d s")
        emit(StageStarted("neighbors", 70_000, "rows"))
        emit(StageAdvanced("neighbors", 30_000))
        wait_for(r"neighbors: 30,000 of 70,000 rows, \d\.\d s")
        emit(StageStarted("second", 0, "rows"))
        wait_for(r"neighbors: 30,000 of 70,000 rows, \d\.\d s; second: \d\.\d s")
        emit(StageFinished("second", 0.1))
        emit(StageFinished("neighbors", 0.1))
        wait_for(r"working for \d\.\d s")
    ended = stream.getvalue()
    assert ended.endswith("\n")
    assert not [thread for thread in threading.enumerate() if thread.name == "signs of life"]


def test_a_pipe_that_nobody_reads_does_not_end_the_run() -> None:
    stream = io.StringIO()
    with progress_bars(stream, silent_seconds=0.01) as emit:
        emit(StageStarted("sample", 10, "rows"))
        stream.close()
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "signs of life"])
        emit(StageFinished("sample", 0.1))


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
