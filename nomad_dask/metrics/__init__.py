"""Scores of maps against the vectors they were made from."""

from nomad_dask.metrics.scores import Estimate, Scores, score

__all__ = ["Estimate", "Scores", "score"]
