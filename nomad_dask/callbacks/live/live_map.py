"""`LiveMap`: a callback that shows a fit while it goes on."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from nomad_dask.callbacks.events import ClusterJoined, Emit, Event, LayoutSnapshot, SnapshotRequest, StageStarted
from nomad_dask.callbacks.live.frames import frame_of, seconds_between
from nomad_dask.callbacks.live.progress_state import ProgressState
from nomad_dask.callbacks.progress_bars import progress_bars
from nomad_dask.errors import InputError

MOST_POINTS = 2_000_000
# Figures are sent this often, at most.
_EVERY_SECONDS = 0.25


class LiveMap:
    """Shows a fit while it goes on: the layout as it grows, stages, loss, workers.

    In a notebook it is a widget under the cell that fits. In a terminal it is the progress bars, and no positions
    are asked for. It changes nothing in the map.

    Parameters
    ----------
    most : int, default=200_000
        Points to show, at most 2 million: of a larger map every so many-th row in the order of its cells.
    every : float, default=1.0
        Seconds between two pictures, at least. Many points take longer, for the sake of the connection.
    size : tuple of int, default=(560, 480)
        Width and height of the picture in pixels.
    theme : {'dark', 'light'}, default='light'
        Of pictures of more than 250,000 points, which the kernel draws; fewer take the notebook's.

    Attributes
    ----------
    widget : anywidget.AnyWidget or None
        What is shown, once a fit has begun in a notebook; show it anywhere else, too.

    Raises
    ------
    InputError
        An argument is out of range, or anywidget is not installed.

    Examples
    --------
    >>> from nomad_dask import LiveMap, NomadProjection
    >>> NomadProjection(callbacks=[LiveMap()]).fit(X)  # doctest: +SKIP
    """

    shows_progress = True

    def __init__(
        self, most: int = 200_000, every: float = 1.0, size: tuple[int, int] = (560, 480), theme: str = "light"
    ) -> None:
        from nomad_dask.plotting.palettes import THEMES

        if not 1 <= most <= MOST_POINTS:
            raise InputError(f"most={most!r} is out of range: give a whole number from 1 to {MOST_POINTS:,}.")
        if not every >= 0:
            raise InputError(f"every={every!r} is out of range: give seconds, from 0.")
        if theme not in THEMES:
            raise InputError(f"theme={theme!r} is not accepted: give 'dark' or 'light'.")
        self._settings = (most, every, size, theme)
        self.most, self.every, self.size, self.theme = self._settings
        self.widget: Any = None
        self._figures = ProgressState()
        self._bars: Emit | None = None
        self._closing = ExitStack()
        self._sent = 0.0

    def __repr__(self) -> str:
        return f"LiveMap(most={self.most}, every={self.every}, size={self.size}, theme={self.theme!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A clone of an estimator has a view of its own.
        return LiveMap, self._settings

    @property
    def snapshot_request(self) -> SnapshotRequest | None:
        """What it wants to see of the layout: nothing where it has no picture to show."""
        return None if self.widget is None else SnapshotRequest(max(self.every, seconds_between(self.most)), self.most)

    def __enter__(self) -> Self:
        """Begin to show a fit."""
        self._figures, self._sent, self.widget, self._bars = ProgressState(), 0.0, None, None
        if not _in_notebook():
            self._bars = self._closing.enter_context(progress_bars())
            return self
        from nomad_dask.callbacks.live.widget import live_widget

        self.widget = live_widget(self._figures.as_dict(), self.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show how the fit ended."""
        self._closing.close()
        if self.widget is None:
            return
        stopped = isinstance(error, KeyboardInterrupt)
        self._figures.state = "finished" if error is None else "stopped" if stopped else "failed"
        self._figures.said = "" if error is None else str(error) or type(error).__name__
        self._send()

    def __call__(self, event: Event) -> None:
        """Take in an event, and show it."""
        if self._bars is not None:
            self._bars(event)
            return
        self._figures(event)
        if self.widget is None:
            return
        if isinstance(event, ClusterJoined) and event.dashboard is not None:
            sys.stdout.write(f"Dask dashboard: {event.dashboard}\n")
        if isinstance(event, LayoutSnapshot):
            frame, data = frame_of(event, self.size, self.theme)
            with self.widget.hold_sync():
                self.widget.frame, self.widget.data = frame, data
            self._send()
        elif isinstance(event, StageStarted) or time.monotonic() - self._sent > _EVERY_SECONDS:
            self._send()

    def _send(self) -> None:
        self.widget.figures = self._figures.as_dict()
        self._sent = time.monotonic()


def _in_notebook() -> bool:
    """Return whether this is a Jupyter kernel, to which IPython is no stranger: nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
