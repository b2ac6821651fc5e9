"""The map while it is made, in a notebook: the layout as it grows, and what the run tells."""

from nomad_dask.callbacks.live.live_map import LiveMap

__all__ = ["LiveMap"]
