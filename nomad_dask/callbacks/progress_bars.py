"""Progress bars on a terminal, or lines elsewhere, from the events of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TextIO

from nomad_dask.callbacks.events import (
    ClusterJoined,
    Emit,
    EpochDone,
    Event,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
    fan_out,
)
from nomad_dask.callbacks.log_lines import SummaryLines, format_rate, line_writer, signs_of_life

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Characters of a bar, and of all that stands around it.
_MAX_BAR_WIDTH, _TEXT_WIDTH = 24, 68
# Bars of shorter stages, in seconds, are removed when they end.
MIN_BAR_SECONDS = 1.0


@contextmanager
def progress_bars(
    stream: TextIO | None = None, *, verbose: bool = False, silent_seconds: float = 10.0, interval: float = 5.0
) -> Iterator[Emit]:
    """Yield a listener that shows the progress of a run until the context ends.

    On a terminal every stage has a bar with its rate, the remaining time and the elapsed time; bars of stages shorter
    than a second are removed. Elsewhere a line every few seconds says what runs, unless that is short.

    Parameters
    ----------
    stream : text file, optional
        Where to write; standard error by default.
    verbose : bool
        Also write one line for every finished stage and every measured quantity.
    silent_seconds : float
        Without a terminal, the time before the first line that says what runs.
    interval : float
        Without a terminal, seconds between two such lines; more of them in long runs.

    Yields
    ------
    Emit
        The listener; stages may overlap.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        write = line_writer(stream)
        with signs_of_life(write, silent_seconds, interval) as signs:
            yield fan_out([SummaryLines(write), signs] if verbose else [signs])
        return
    with _bars(stream) as progress:
        # The console writes above the bars.
        write = partial(progress.console.print, markup=False, highlight=False)
        bars = _Bars(progress, SummaryLines(write) if verbose else None)
        try:
            yield bars
        finally:
            bars.close()


@contextmanager
def stage_progress(emit: Emit, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Emit the start of a stage and, unless an error is raised, its end.

    Parameters
    ----------
    emit : Emit
    name, total, unit
        As in `StageStarted`.

    Yields
    ------
    callable
        To be called with the number of units completed so far.
    """
    emit(StageStarted(name, total, unit))
    start = time.monotonic()
    yield lambda done: emit(StageAdvanced(name, done))
    emit(StageFinished(name, time.monotonic() - start))


class _Bars:
    """Draws a bar for every running stage, and one without end while there is none."""

    def __init__(self, progress: Progress, lines: SummaryLines | None) -> None:
        self._progress = progress
        self._lines = lines
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[TaskID, int] = {}
        self._epochs: TaskID | None = None
        self._idle: TaskID | None = None
        self._show_idle("preparing")

    def __call__(self, event: Event) -> None:
        if self._lines is not None:
            self._lines(event)
        match event:
            case StageStarted(stage, total, unit):
                self.close()
                # Without a total the bar moves to and fro, until the first part of the stage is done.
                task = self._progress.add_task(stage, total=None, unit=unit, note="")
                self._tasks[stage] = task
                self._totals[task] = total
                if unit == "epochs":
                    self._epochs = task
            case StageAdvanced(stage, done) if stage in self._tasks:
                task = self._tasks[stage]
                self._progress.update(task, completed=done, total=self._totals[task] or None)
            case EpochDone(_, _, loss) if self._epochs is not None and loss is not None:
                self._progress.update(self._epochs, note=f"loss {loss:.3f}")
            case StageFinished(stage, seconds, resumed) if stage in self._tasks:
                self._finish(self._tasks.pop(stage), seconds, resumed)
                if not self._tasks:
                    self._show_idle("working")
            case WorkerLost(address) if self._lines is None:
                self._progress.console.print(f"worker {address} was lost", markup=False, highlight=False)
            case ClusterJoined(_, str(dashboard)) if self._lines is None:
                self._progress.console.print(f"Dask dashboard: {dashboard}", markup=False, highlight=False)
            case _:
                pass

    def close(self) -> None:
        """Remove the bar that is shown while no stage runs."""
        if self._idle is not None:
            self._progress.remove_task(self._idle)
            self._idle = None

    def _show_idle(self, description: str) -> None:
        self._idle = self._progress.add_task(description, total=None, unit="", note="")

    def _finish(self, task: TaskID, seconds: float, resumed: bool) -> None:
        if task == self._epochs:
            self._epochs = None
        total = self._totals.pop(task)
        if resumed or seconds < MIN_BAR_SECONDS:
            self._progress.remove_task(task)
            return
        self._progress.update(task, total=total or 1, completed=total or 1)
        self._progress.stop_task(task)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    """Open the bars on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Percent(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.total is None else f"{task.percentage:>3.0f}%")

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{format_rate(speed)} {task.fields['unit']}/s")

    class Times(ProgressColumn):
        """The remaining time, if it is known, and the elapsed time, a sign of life before anything is done."""

        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            left = None if task.finished else task.time_remaining
            elapsed = _format_clock(task.elapsed or 0)
            return Text(elapsed if left is None else f"{_format_clock(left)} left, {elapsed}")

    # Results are written to standard output while the bars are shown, so it must not be redirected.
    console = Console(file=stream, force_terminal=True)

    def one_line() -> Column:
        return Column(no_wrap=True)

    columns = (
        TextColumn("{task.description}", markup=False, table_column=one_line()),
        BarColumn(bar_width=max(4, min(_MAX_BAR_WIDTH, console.width - _TEXT_WIDTH))),
        Percent(table_column=one_line()),
        Rate(table_column=one_line()),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line()),
        Times(table_column=one_line()),
    )
    with Progress(*columns, console=console, redirect_stdout=False, refresh_per_second=5) as progress:
        yield progress


def _format_clock(seconds: float) -> str:
    """Return a duration as a clock shows it, such as ``"01:05"``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
