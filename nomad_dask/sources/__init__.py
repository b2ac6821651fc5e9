"""Sources of vectors: `open_source` opens files, arrays and data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nomad_dask.sources.open import open_source as open_source

__all__ = ["open_source"]


def __getattr__(name: str) -> Any:
    if name == "open_source":
        from nomad_dask.sources.open import open_source

        return open_source
    raise AttributeError(f"module 'nomad_dask.sources' has no attribute {name!r}")
