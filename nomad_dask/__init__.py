"""NOMAD Projection on Dask: maps of tens of millions of embedding vectors, on CPUs and GPUs.

>>> from nomad_dask import NomadProjection
>>> layout = NomadProjection(n_neighbors=15, random_state=0).fit_transform(X)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from nomad_dask.params import Params as Params
    from nomad_dask.projection import NomadProjection as NomadProjection

__all__ = ["NomadProjection", "Params", "__version__"]

# Loaded on first use, so that `import nomad_dask` costs next to nothing.
_HOMES = {"NomadProjection": "nomad_dask.projection", "Params": "nomad_dask.params"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nomad_dask' has no attribute {name!r}")
