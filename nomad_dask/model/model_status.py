"""What a model holds, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nomad_dask.model.map_model import MapModel
from nomad_dask.storage.model_folder import ModelManifest
from nomad_dask.utils.formatting import format_bytes


@dataclass(frozen=True)
class ModelStatus:
    """The state of a model.

    Attributes
    ----------
    model, source : str
    n_rows, n_dims, n_components, n_neighbors : int
    metric : str
    dtype : str
        Of the source.
    version : str
        Version of nomad-dask that made it.
    params : dict
        Settings that differ from the defaults.
    diagnostics : dict
        Measurements of the run.
    disk_bytes : int
    damage : tuple of str
        Arrays that are missing or do not match what was recorded.
    """

    model: str
    source: str
    n_rows: int
    n_dims: int
    n_components: int
    n_neighbors: int
    metric: str
    dtype: str
    version: str
    params: dict[str, Any]
    diagnostics: dict[str, Any]
    disk_bytes: int
    damage: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def read_model_status(path: Path, sizes_only: bool = False) -> ModelStatus:
    """Read what a model holds, also of a damaged one.

    Parameters
    ----------
    path : Path
    sizes_only : bool
        Compare the sizes of the files, not their checksums.

    Raises
    ------
    MissingInputError, InputError
        There is no model, or its manifest is damaged.
    """
    model = MapModel(path, ModelManifest.read(path))
    about = model.manifest.about
    return ModelStatus(
        model=str(path),
        source=str(about["source"]["name"]),
        n_rows=model.n_rows,
        n_dims=model.n_dims,
        n_components=model.params.n_components,
        n_neighbors=model.n_neighbors,
        metric=model.params.metric,
        dtype=str(about["dtype"]),
        version=str(about["version"]),
        params=model.params.changed(),
        diagnostics=dict(about["diagnostics"]),
        disk_bytes=sum(artifact.size for artifact in model.manifest.artifacts.values()),
        damage=tuple(model.damage(sizes_only)),
    )


def format_model_status(status: ModelStatus) -> str:
    """Return the state of a model as text for people."""
    settings = ", ".join(f"{name}={value!r}" for name, value in status.params.items())
    lines = [
        f"model      {status.model} ({format_bytes(status.disk_bytes)})",
        f"source     {status.source}: {status.n_rows:,} rows × {status.n_dims:,} dimensions, {status.dtype}",
        f"map        {status.n_components} dimensions, nomad-dask {status.version}",
        f"neighbors  {status.n_neighbors} of each row, {status.metric}",
        f"settings   {settings or 'the defaults'}",
    ]
    if status.damage:
        lines += ["", *(f"damaged: {text}" for text in status.damage)]
    return "\n".join(lines)
