"""A live view of a fit in a notebook: the layout as it develops, and the progress of the run."""

from nomad_dask.callbacks.live.live_map import LiveMap

__all__ = ["LiveMap"]
