"""NOMAD Projection on Dask: maps of tens of millions of embedding vectors, on CPUs and GPUs.

>>> from nomad_dask import NomadProjection
>>> layout = NomadProjection(n_neighbors=15, random_state=0).fit_transform(X)  # doctest: +SKIP
"""

from __future__ import annotations

from nomad_dask._version import __version__ as __version__

TYPE_CHECKING = False  # `typing` takes a third of the time until the command line handles Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from nomad_dask.callbacks.live import LiveMap as LiveMap
    from nomad_dask.estimator import NomadProjection as NomadProjection
    from nomad_dask.maps import Map as Map
    from nomad_dask.maps import explore as explore
    from nomad_dask.maps import plot as plot
    from nomad_dask.maps import read_map as read_map
    from nomad_dask.model.map_model import MapModel as MapModel
    from nomad_dask.model.map_model import load_model as load_model
    from nomad_dask.params import Params as Params

__all__ = [
    "LiveMap",
    "Map",
    "MapModel",
    "NomadProjection",
    "Params",
    "__version__",
    "explore",
    "load_model",
    "plot",
    "read_map",
]

# Loaded on first use, so that `import nomad_dask` costs next to nothing.
_HOMES = {
    "LiveMap": "nomad_dask.callbacks.live",
    "Map": "nomad_dask.maps",
    "MapModel": "nomad_dask.model.map_model",
    "NomadProjection": "nomad_dask.estimator",
    "Params": "nomad_dask.params",
    "explore": "nomad_dask.maps",
    "load_model": "nomad_dask.model.map_model",
    "plot": "nomad_dask.maps",
    "read_map": "nomad_dask.maps",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nomad_dask' has no attribute {name!r}")
