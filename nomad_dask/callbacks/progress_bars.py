"""Progress bars on a terminal, or plain lines in a log, from the events of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TextIO

from nomad_dask.callbacks.events import (
    ClusterJoined,
    Emit,
    EpochDone,
    Event,
    Measured,
    ShardPlaced,
    StageAdvanced,
    StageFinished,
    StageStarted,
    WorkerLost,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Bars of shorter stages, in seconds, are removed when they end.
MIN_BAR_SECONDS = 1.0


@contextmanager
def progress_bars(stream: TextIO | None = None, *, verbose: bool = False) -> Iterator[Emit]:
    """Yield a listener that shows the progress of a run until the context ends.

    On a terminal every stage has a bar with its rate and the remaining time; bars of stages shorter than a second are
    removed. Elsewhere nothing is written, or one line per stage with `verbose`.

    Parameters
    ----------
    stream : text file, optional
        Where to write; standard error by default.
    verbose : bool
        Also write one line for every finished stage and every measured quantity.

    Yields
    ------
    Emit
        The listener; stages may overlap.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield _Lines(partial(print, file=stream, flush=True)) if verbose else _nothing
        return
    with _bars(stream) as progress:
        # The console writes above the bars.
        write = partial(progress.console.print, markup=False, highlight=False)
        yield _Bars(progress, _Lines(write) if verbose else None)


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


def _nothing(event: Event) -> None:
    """Ignore an event."""


@dataclass
class _RunningStage:
    """A running stage."""

    total: int
    unit: str


class _Lines:
    """Writes a line for every finished stage and every measured quantity."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._running: dict[str, _RunningStage] = {}
        self._last_epoch: EpochDone | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted(stage, total, unit):
                self._running[stage] = _RunningStage(total, unit)
                self._last_epoch = None
            case StageFinished(stage, _, True):
                self._running.pop(stage, None)
                self._write(f"{stage}: done in an earlier run")
            case StageFinished(stage, seconds):
                self._write(self._summary(stage, seconds))
            case EpochDone():
                self._last_epoch = event
            case Measured(name, value):
                self._write(f"{name}: {value:.6g}")
            case ShardPlaced(shard, worker, device):
                self._write(f"shard {shard}: on {worker}, {device}")
            case WorkerLost(address):
                self._write(f"worker {address} was lost")
            case ClusterJoined(_, str(dashboard)):
                self._write(f"Dask dashboard: {dashboard}")
            case _:
                pass

    def _summary(self, stage: str, seconds: float) -> str:
        running = self._running.pop(stage, None)
        if running is None:
            return f"{stage}: {seconds:.2f} s"
        line = f"{stage}: {running.total:,} {running.unit} in {seconds:.2f} s"
        if seconds > 0:
            line += f" ({_rate(running.total / seconds)} {running.unit}/s)"
        if running.unit == "epochs" and self._last_epoch is not None:
            if self._last_epoch.loss is not None:
                line += f", loss {self._last_epoch.loss:.4f}"
            line += f", {self._last_epoch.exchanged_bytes:,} bytes exchanged an epoch"
        return line


class _Bars:
    """Draws a bar for every running stage."""

    def __init__(self, progress: Progress, lines: _Lines | None) -> None:
        self._progress = progress
        self._lines = lines
        self._tasks: dict[str, TaskID] = {}
        self._epochs: TaskID | None = None

    def __call__(self, event: Event) -> None:
        if self._lines is not None:
            self._lines(event)
        match event:
            case StageStarted(stage, total, unit):
                task = self._progress.add_task(stage, total=total or None, unit=unit, note="")
                self._tasks[stage] = task
                if unit == "epochs":
                    self._epochs = task
            case StageAdvanced(stage, done) if stage in self._tasks:
                self._progress.update(self._tasks[stage], completed=done)
            case EpochDone(_, _, loss) if self._epochs is not None and loss is not None:
                self._progress.update(self._epochs, note=f"loss {loss:.3f}")
            case StageFinished(stage, seconds, resumed) if stage in self._tasks:
                self._finish(self._tasks.pop(stage), seconds, resumed)
            case WorkerLost(address) if self._lines is None:
                self._progress.console.print(f"worker {address} was lost", markup=False, highlight=False)
            case ClusterJoined(_, str(dashboard)) if self._lines is None:
                self._progress.console.print(f"Dask dashboard: {dashboard}", markup=False, highlight=False)
            case _:
                pass

    def _finish(self, task: TaskID, seconds: float, resumed: bool) -> None:
        if task == self._epochs:
            self._epochs = None
        if resumed or seconds < MIN_BAR_SECONDS:
            self._progress.remove_task(task)
            return
        total = next(t.total for t in self._progress.tasks if t.id == task)
        self._progress.update(task, total=total or 1, completed=total or 1)
        self._progress.stop_task(task)


@contextmanager
def _bars(stream: TextIO) -> Iterator[Progress]:
    """Open the bars on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{_rate(speed)} {task.fields['unit']}/s")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f}%"),
        Rate(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    # Results are written to standard output while the bars are shown, so it must not be redirected.
    console = Console(file=stream, force_terminal=True)
    with Progress(*columns, console=console, redirect_stdout=False, refresh_per_second=5) as progress:
        yield progress


def _rate(value: float) -> str:
    """Format a rate with three significant digits, or without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
