"""The widget of `LiveMap`, whose traits are sent to the browser."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from nomad_dask.errors import InputError


def live_widget(progress: dict[str, Any], size: tuple[int, int]) -> Any:
    """Return a widget, displayed below the running cell.

    Its traits are `figures` (see `ProgressState.as_dict`), `frame` and `data` (see `make_frame`), and `size`.

    Parameters
    ----------
    progress : dict
        Initial value of `figures`.
    size : tuple of int
        Width and height of the picture in pixels.

    Raises
    ------
    InputError
        anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
        from IPython import display
    except ImportError as error:
        raise InputError(
            f"LiveMap needs anywidget, which cannot be imported ({error}): pip install 'nomad-dask[notebook]'."
        ) from error
    folder = files("nomad_dask.callbacks.live")

    class LiveWidget(anywidget.AnyWidget):
        """A map during its layout."""

        _esm = (folder / "live.js").read_text(encoding="utf-8")
        _css = (folder / "live.css").read_text(encoding="utf-8")
        figures = traitlets.Dict().tag(sync=True)
        frame = traitlets.Dict().tag(sync=True)
        data = traitlets.Bytes().tag(sync=True)
        size: Any = traitlets.List().tag(sync=True)

    widget = LiveWidget(figures=progress, size=list(size))
    show: Any = display.display
    show(widget)
    return widget
