"""`LiveMap`: a callback that shows a fit while it runs."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from nomad_dask.callbacks.events import ClusterJoined, Emit, Event, LayoutSnapshot, SnapshotRequest, StageStarted
from nomad_dask.callbacks.live.frames import make_frame, seconds_between
from nomad_dask.callbacks.live.progress_state import ProgressState
from nomad_dask.callbacks.progress_bars import progress_bars
from nomad_dask.errors import InputError

MAX_POINTS = 2_000_000
# Minimum time between two updates of the progress.
_UPDATE_SECONDS = 0.25


class LiveMap:
    """Shows a fit while it runs: the layout as it develops, stages, loss, workers.

    In a notebook it is a widget below the running cell. In a terminal it shows progress bars, and requests no
    positions. It does not change the map.

    Parameters
    ----------
    max_points : int, default=200_000
        Maximum number of points to show, at most 2 million. Of a larger map, a sample of the rows spread evenly over
        the cells is shown.
    interval : float, default=1.0
        Minimum number of seconds between two pictures. Many points are sent less often, to spare the connection.
    size : tuple of int, default=(560, 480)
        Width and height of the picture in pixels.
    theme : {'dark', 'light'}, default='light'
        Theme of pictures of more than 250,000 points, which the kernel draws. Fewer points have the theme of the
        notebook.

    Attributes
    ----------
    widget : anywidget.AnyWidget or None
        The widget, once a fit has started in a notebook. It can be displayed in other cells too.

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
        self,
        max_points: int = 200_000,
        interval: float = 1.0,
        size: tuple[int, int] = (560, 480),
        theme: str = "light",
    ) -> None:
        from nomad_dask.plotting.palettes import THEMES

        if not 1 <= max_points <= MAX_POINTS:
            raise InputError(f"max_points={max_points!r} is out of range: use a whole number from 1 to {MAX_POINTS:,}.")
        if not interval >= 0:
            raise InputError(f"interval={interval!r} is out of range: use a number of seconds, 0 or more.")
        if theme not in THEMES:
            raise InputError(f"theme={theme!r} is not accepted: use 'dark' or 'light'.")
        self._settings = (max_points, interval, size, theme)
        self.max_points, self.interval, self.size, self.theme = self._settings
        self.widget: Any = None
        self._progress = ProgressState()
        self._bars: Emit | None = None
        self._closing = ExitStack()
        self._sent = 0.0

    def __repr__(self) -> str:
        settings = f"max_points={self.max_points}, interval={self.interval}, size={self.size}, theme={self.theme!r}"
        return f"LiveMap({settings})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The callbacks of a cloned estimator are copies, each with its own widget.
        return LiveMap, self._settings

    @property
    def snapshot_request(self) -> SnapshotRequest | None:
        """The snapshots to receive: none without a widget to show them in."""
        if self.widget is None:
            return None
        return SnapshotRequest(max(self.interval, seconds_between(self.max_points)), self.max_points)

    def __enter__(self) -> Self:
        """Start to show a fit."""
        self._progress, self._sent, self.widget, self._bars = ProgressState(), 0.0, None, None
        if not _in_notebook():
            self._bars = self._closing.enter_context(progress_bars())
            return self
        from nomad_dask.callbacks.live.widget import live_widget

        self.widget = live_widget(self._progress.as_dict(), self.size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show the outcome of the fit."""
        self._closing.close()
        if self.widget is None:
            return
        stopped = isinstance(error, KeyboardInterrupt)
        self._progress.state = "finished" if error is None else "stopped" if stopped else "failed"
        self._progress.said = "" if error is None else str(error) or type(error).__name__
        self._send()

    def __call__(self, event: Event) -> None:
        """Record an event and show it."""
        if self._bars is not None:
            self._bars(event)
            return
        self._progress(event)
        if self.widget is None:
            return
        if isinstance(event, ClusterJoined) and event.dashboard is not None:
            sys.stdout.write(f"Dask dashboard: {event.dashboard}\n")
        if isinstance(event, LayoutSnapshot):
            frame, data = make_frame(event, self.size, self.theme)
            with self.widget.hold_sync():
                self.widget.frame, self.widget.data = frame, data
            self._send()
        elif isinstance(event, StageStarted) or time.monotonic() - self._sent > _UPDATE_SECONDS:
            self._send()

    def _send(self) -> None:
        self.widget.figures = self._progress.as_dict()
        self._sent = time.monotonic()


def _in_notebook() -> bool:
    """Return whether this is a Jupyter kernel, without importing anything: a kernel has already imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None
