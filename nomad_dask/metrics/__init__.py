"""Scores of maps against the vectors they were made from."""

from nomad_dask.metrics.confidence import ConfidenceInterval
from nomad_dask.metrics.scores import Scores, score

__all__ = ["ConfidenceInterval", "Scores", "score"]
