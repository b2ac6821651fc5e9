"""The widget of `LiveMap`: its traits are what the browser shows."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from nomad_dask.errors import InputError


def live_widget(figures: dict[str, Any], size: tuple[int, int]) -> Any:
    """Return a widget, shown under the running cell.

    Its traits are `figures` (see `Figures.as_dict`), `frame` and `data` (see `frame_of`), and `size`.

    Parameters
    ----------
    figures : dict
        To begin with.
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
    here = files("nomad_dask.callbacks.live")

    class LiveWidget(anywidget.AnyWidget):
        """A map that grows."""

        _esm = (here / "live.js").read_text(encoding="utf-8")
        _css = (here / "live.css").read_text(encoding="utf-8")
        figures = traitlets.Dict().tag(sync=True)
        frame = traitlets.Dict().tag(sync=True)
        data = traitlets.Bytes().tag(sync=True)
        size: Any = traitlets.List().tag(sync=True)

    widget = LiveWidget(figures=figures, size=list(size))
    show: Any = display.display
    show(widget)
    return widget
