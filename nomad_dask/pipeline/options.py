"""Options of `project` that do not change the map: where it is computed, and where its files go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ClusterOptions:
    """The Dask cluster of a run. Without `client`, `scheduler` and `scheduler_file`, an embedded cluster is started.

    Attributes
    ----------
    client : distributed.Client, optional
    scheduler : str, optional
        Address of a running Dask scheduler.
    scheduler_file : str, optional
        File in which a running Dask scheduler has written its address.
    n_workers : int, optional
        Workers of the embedded cluster.
    device : {'auto', 'cpu', 'gpu'}
    memory_limit : int or str, optional
        Memory that each process may use, in bytes or as text such as ``"2GB"``; None for all memory of its worker.
    """

    client: Any = None
    scheduler: str | None = None
    scheduler_file: str | None = None
    n_workers: int | None = None
    device: str = "auto"
    memory_limit: int | str | None = None


@dataclass(frozen=True)
class WorkspaceOptions:
    """The workspace of a run.

    Attributes
    ----------
    path : Path, optional
        Directory of the artifacts. It is kept, and a run of the same data and parameters resumes from it.
        None for ``OUTPUT.nomad`` beside the output, or a temporary directory if there is no output; both are removed
        when the map is finished.
    resume : bool
        Raise an error if there is no run to resume.
    overwrite : bool
        Replace a workspace of another run.
    keep_stages : bool
        Keep artifacts that no later stage reads.
    command : sequence of str
        Command line of the run, recorded for `status`.
    is_temporary : bool
        Whether `path` is in the system's directory for temporary files, which may lie inside a source.
    """

    path: Path | None = None
    resume: bool = False
    overwrite: bool = False
    keep_stages: bool = False
    command: Sequence[str] = ()
    is_temporary: bool = False


@dataclass(frozen=True)
class OutputOptions:
    """The file of a map, its picture, and its model.

    Attributes
    ----------
    path : Path, optional
        Parquet, Arrow or CSV file to write, by its suffix; None to write none.
    metadata_columns : sequence of str
        Columns of the source to copy to the map.
    overwrite : bool
        Replace existing files.
    picture : Path, optional
        PNG or SVG file of a picture of the map; None to draw none.
    model : Path, optional
        Directory of the model; None to write none.
    """

    path: Path | None = None
    metadata_columns: Sequence[str] = ()
    overwrite: bool = False
    picture: Path | None = None
    model: Path | None = None
