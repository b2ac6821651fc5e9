"""The HTML of a map in a notebook: a small picture, and the columns."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import numpy as np

from nomad_dask.errors import InputError

_MAX_COLUMNS = 50
_CELL = "text-align: left; padding: 0 1em 0 0"


def html_of_map(positions: np.ndarray, kinds: dict[str, str], metadata: dict[str, Any]) -> str:
    """Return a description as HTML, with names of columns and other texts of the map escaped.

    Parameters
    ----------
    positions : ndarray of float32 (n_rows, dim)
    kinds : dict of str
        Type of each column by its name.
    metadata : dict
        Metadata of the run that made the map; what is not as this package writes it is left out.
    """
    rows = list(kinds.items())[:_MAX_COLUMNS]
    if len(kinds) > _MAX_COLUMNS:
        rows.append((f"and {len(kinds) - _MAX_COLUMNS:,} more", ""))
    lines = "".join(
        f'<tr><td style="{_CELL}">{_text(name)}</td><td style="{_CELL}"><code>{_text(kind)}</code></td></tr>'
        for name, kind in rows
    )
    about = [f"{len(positions):,} rows"]
    plane = "<div>Of its three dimensions, x and y are shown.</div>" if positions.shape[1] > 2 else ""
    source, diagnostics = (
        found if isinstance(found := metadata.get(key), dict) else {} for key in ("source", "diagnostics")
    )
    if source.get("name"):
        about.append(f"of {source['name']}")
    recall = diagnostics.get("recall")
    if isinstance(recall, float):
        about.append(f"recall {recall:.3f}")
    about_text = _text(", ".join(about))
    return (
        '<div style="display: flex; gap: 1.5em; align-items: flex-start">'
        f"{_picture(positions)}<div><strong>Map</strong> of {about_text}{plane}<table>{lines}</table></div></div>"
    )


def _picture(positions: np.ndarray) -> str:
    from nomad_dask.plotting.raster import thumbnail

    try:
        png = thumbnail(positions[:, 0], positions[:, 1])
    except InputError as error:
        return f'<div style="width: 320px">{_text(str(error))}</div>'
    href = "data:image/png;base64," + base64.b64encode(png).decode()
    return f'<img width="320" height="260" alt="The map, small" src="{href}">'


def _text(text: str) -> str:
    cut = text if len(text) <= 200 else text[:200] + "…"
    # A name of a file that is not UTF-8 has characters that no page can have.
    return escape(cut, quote=True).encode("utf-8", "replace").decode()
