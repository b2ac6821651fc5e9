"""Poor measurements of a run, and what to change about them."""

from __future__ import annotations

import warnings
from typing import Any

from nomad_dask.errors import NomadWarning
from nomad_dask.params import Params

# Shards are balanced by the sample: their true sizes may differ by this much.
MAX_IMBALANCE = 1.2
RECALL_SLACK = 0.05
MAX_IN_SMALL_COMPONENTS = 0.2


def quality_warnings(measured: dict[str, Any], params: Params) -> list[str]:
    """Return a text for every poor measurement of a run, with what to change.

    Parameters
    ----------
    measured : dict
        Measurements by name; missing ones are not judged.
    params : Params
        Parameters of the run.
    """
    texts = []
    if "n_equal_rows" in measured:
        texts.append(
            f"All {measured['n_equal_rows']:,} rows of the sample are equal, so places in the map mean nothing: check "
            "that the source holds the vectors that you want to map."
        )
    if measured.get("n_extreme_rows"):
        n, rows = measured["n_extreme_rows"], ", ".join(map(str, measured["extreme_rows"]))
        named = f"row {rows} has" if n == 1 else f"{n:,} rows (the first: {rows}) have"
        texts.append(
            f"In the data, {named} values so much larger than the others that the map shows only their direction: "
            "check them, or remove them. The other rows are not affected."
        )
    recall = measured.get("recall", 1.0)
    is_poor = recall < params.target_recall - RECALL_SLACK
    if params.has_given_neighbors and is_poor:
        texts.append(
            f"The given neighbors contain {recall:.0%} of the true ones, of a sample of rows by the metric "
            f"{params.metric!r}: check that they are those of these rows, in this order and metric, or leave "
            "precomputed_knn out."
        )
    elif params.n_probes is None and is_poor:
        texts.append(
            f"The neighbor search found {recall:.0%} of the true neighbors, {params.target_recall:.0%} were wanted: "
            f"use more probes (n_probes={2 * max(1, round(measured.get('n_probes', 1)))}) or larger cells (cell_size)."
        )
    imbalance = measured.get("imbalance", 1.0)
    if imbalance > MAX_IMBALANCE:
        texts.append(
            f"The largest shard has {imbalance:.2f} times the mean rows, so the others wait for it: use more cells "
            f"(n_cells={2 * measured.get('n_cells', 1)}) or fewer shards (n_shards). "
            "Identical rows always stay together."
        )
    scattered = measured.get("in_small_components", 0.0)
    if scattered > MAX_IN_SMALL_COMPONENTS:
        texts.append(
            f"{scattered:.0%} of the rows are in small components of the neighbor graph "
            f"({measured['components']:,} components), whose places in the map mean nothing: use more neighbors "
            f"(n_neighbors={2 * params.n_neighbors}), more probes (n_probes), or look for duplicates."
        )
    if not measured.get("kmeans_converged", True):
        texts.append(
            "K-Means has not converged: one more iteration would move the centroids by "
            f"{measured['kmeans_shift']:.0%} of the width of their cells. "
            "Use fewer cells (n_cells, or a larger cell_size)."
        )
    return texts


def warn(measured: dict[str, Any], params: Params) -> None:
    """Warn of every poor measurement."""
    for text in quality_warnings(measured, params):
        warnings.warn(text, NomadWarning, stacklevel=3)
