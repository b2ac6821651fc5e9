"""The map: a file with one row per input row, in input order."""

from nomad_dask.maps.files import write_map
from nomad_dask.maps.kept_columns import kept_schema
from nomad_dask.maps.map import Map
from nomad_dask.maps.open import as_map, read_map, run_map
from nomad_dask.maps.table import check_metadata_columns
from nomad_dask.maps.views import explore, plot

__all__ = [
    "Map",
    "as_map",
    "check_metadata_columns",
    "explore",
    "kept_schema",
    "plot",
    "read_map",
    "run_map",
    "write_map",
]
