"""The demonstration, from the docstrings to a map, a picture and a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomad_dask.callbacks.events import Emit
from nomad_dask.callbacks.progress_bars import stage_progress
from nomad_dask.demo.docstrings import collect
from nomad_dask.demo.embeddings import is_current, write_embeddings
from nomad_dask.errors import InputError
from nomad_dask.params import Params

if TYPE_CHECKING:
    from nomad_dask.maps import Map
    from nomad_dask.metrics.scores import Scores
    from nomad_dask.sources.base import Source


@dataclass(frozen=True)
class Demo:
    """The results of the demonstration.

    Attributes
    ----------
    embeddings, map, picture, page : pathlib.Path
        The files; the page is in the folder of its site.
    n_items : int
        Rows of the map.
    scores : nomad_dask.metrics.scores.Scores
        Quality of the map.
    """

    embeddings: Path
    map: Path
    picture: Path
    page: Path
    n_items: int
    scores: Any


def run_demo(folder: str | os.PathLike[str], *, device: str = "auto", emit: Emit) -> Demo:
    """Collect docstrings, compute vectors, fit a map, score and draw it, and export it as a page.

    Parameters
    ----------
    folder : path-like
        Directory for the files, created if it does not exist. Embeddings in it are used again if the installed
        packages are the same; the map, the picture and the page are always replaced.
    device : {"auto", "cpu", "gpu"}
        Where to compute.
    emit : Emit
        Receives the events.

    Raises
    ------
    InputError
        The directory cannot be written, or Python has no sources.
    ResourceError
        There is not enough memory or disk space.
    """
    from nomad_dask.maps import read_map
    from nomad_dask.site.atomic_folder import check_folder
    from nomad_dask.sources import open_source

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be created ({error.strerror}): use another directory.") from error
    embeddings, map_path, picture = folder / "embeddings.parquet", folder / "map.parquet", folder / "map.png"
    site = folder / "site"
    check_folder(site, overwrite=True)
    if not is_current(embeddings):
        write_embeddings(embeddings, list(collect(emit)), emit)

    source = open_source(embeddings, column="embedding")
    params = Params()
    _fit(source, params, map_path, device, emit)
    fitted = read_map(map_path)
    scores = _score(source, params, fitted, emit)
    _show(fitted, map_path, picture, site, emit)
    return Demo(embeddings, map_path, picture, site / "index.html", source.n_rows, scores)


def _fit(source: Source, params: Params, path: Path, device: str, emit: Emit) -> None:
    """Write the map."""
    from nomad_dask.pipeline.options import ClusterOptions, OutputOptions, WorkspaceOptions
    from nomad_dask.pipeline.run import project

    project(
        source,
        params,
        cluster=ClusterOptions(device=device),
        workspace=WorkspaceOptions(overwrite=True),
        output=OutputOptions(path, metadata_columns=("name", "package", "kind", "text"), overwrite=True),
        emit=emit,
    )


def _score(source: Source, params: Params, fitted: Map, emit: Emit) -> Scores:
    """Return the scores of the map, with the packages as labels."""
    from nomad_dask.metrics.scores import score

    with stage_progress(emit, "score", source.n_rows, "rows") as advance:
        return score(
            source,
            fitted.positions,
            labels=fitted.table.column("package"),
            metric=params.metric,
            on_progress=advance,
        )


def _show(fitted: Map, path: Path, picture: Path, site: Path, emit: Emit) -> None:
    """Write the picture and the page."""
    from nomad_dask.plotting.raster import draw
    from nomad_dask.site.export import export

    title = f"{len(fitted.positions):,} docstrings"
    with stage_progress(emit, "picture", len(fitted.positions), "rows"):
        draw(
            fitted.positions[:, 0],
            fitted.positions[:, 1],
            color=fitted.table.column("package"),
            color_name="package",
            title=title,
            path=picture,
        )
    export(path, site, color=("package", "kind"), title=title, overwrite=True, emit=emit)
