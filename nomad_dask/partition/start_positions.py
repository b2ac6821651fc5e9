"""Where rows start, by their cell: their leading principal coordinates, or the plane that preserves distances best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.base import Backend
from nomad_dask.backends.data import CellTree, PrincipalAxes

GIVEN_POSITIONS = "sample/init.npy"
"""Artifact of the initial positions that the user gives, (n_rows, dim) float32 in the order of the source."""

# Groups of cells whose distances are preserved. More cost the square, and improve a map by less than its seeds differ.
_MAX_GROUPS = 300
_MAX_GROUPED_CELLS = 20_000
# Rows of the sample that measure the width of the groups, and of the result.
_MEASURED_ROWS = 20_000
_MAX_ITERATIONS = 200
_MIN_DECREASE = 2e-5
# Rows start within this many standard deviations, so that no outlier starts far away or determines the rest.
MAX_DISTANCE = 10.0
_CLIP_QUANTILE = 0.98


@dataclass(frozen=True)
class StartPositions:
    """Where rows start: at their leading principal coordinates plus the shift of their cell, before scaling.

    Attributes
    ----------
    shifts : ndarray of float32 (n_cells, dim)
    std : float
        Standard deviation of the rows along the axis on which it is largest.
    """

    shifts: np.ndarray
    std: float


def principal_start(n_cells: int, dim: int, axes: PrincipalAxes) -> StartPositions:
    """Return the start of every row at its principal coordinates."""
    return StartPositions(np.zeros((n_cells, dim), np.float32), axes.std)


def mds_start(
    backend: Backend, coordinates: np.ndarray, labels: np.ndarray, cells: CellTree, axes: PrincipalAxes, dim: int
) -> StartPositions:
    """Move cells so that distances between groups of cells are preserved (metric multidimensional scaling).

    The two or three leading axes show the large distances only as well as they hold the variance. Each group moves as
    a whole, so that its rows keep their principal coordinates relative to each other.

    Parameters
    ----------
    backend : Backend
    coordinates : ndarray of float32 (n_sampled, n_axes)
        Sampled rows along the principal axes.
    labels : ndarray of int32 (n_sampled,)
        Their cells.
    cells : CellTree
    axes : PrincipalAxes
    dim : int
        Dimensions of the map.
    """
    n_cells = len(cells.centroids)
    if axes.std <= 0 or n_cells < 2:
        return principal_start(n_cells, dim, axes)
    step = max(1, len(coordinates) // _MEASURED_ROWS)
    rows, cells_of_rows = coordinates[::step], labels[::step]
    groups, group_of_cell = _group_cells(backend, cells.centroids)
    groups = _clip_lengths(groups.astype(np.float64), MAX_DISTANCE * axes.std)
    distances = _row_distances(groups, _group_variances(rows, group_of_cell[cells_of_rows], groups, axes.std))
    shifts = stress_majorization(distances, groups[:, :dim]) - groups[:, :dim]
    shifts = shifts[group_of_cell].astype(np.float32)
    start = rows[:, :dim] + shifts[cells_of_rows]
    start = _clip_lengths(start, float(np.quantile(np.linalg.norm(start, axis=1), _CLIP_QUANTILE)))
    return StartPositions(shifts, float(start.std(axis=0, dtype=np.float64).max()))


def _group_cells(backend: Backend, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centers (n_groups, n_axes) of groups of cells, and the group (n_cells,) of each cell."""
    if len(centroids) <= _MAX_GROUPS:
        return centroids, np.arange(len(centroids))
    step = max(1, len(centroids) // _MAX_GROUPED_CELLS)
    tree = backend.fit_cells(np.ascontiguousarray(centroids[::step]), _MAX_GROUPS, 0)
    return tree.centroids, backend.assign(centroids, tree)


def _group_variances(rows: np.ndarray, group_of_row: np.ndarray, groups: np.ndarray, std: float) -> np.ndarray:
    """Return the mean squared distance (n_groups,) of the rows of each group from its center; 0 without rows."""
    offsets = _clip_lengths(rows.astype(np.float64), MAX_DISTANCE * std) - groups[group_of_row]
    sums = np.bincount(group_of_row, (offsets**2).sum(axis=1), len(groups))
    variances: np.ndarray = sums / np.maximum(np.bincount(group_of_row, minlength=len(groups)), 1)
    return variances


def _row_distances(groups: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the root mean square distance (n_groups, n_groups) between rows of different groups, 0 on the diagonal."""
    squared = (groups**2).sum(axis=1)
    # One product after another instead of a matrix product, whose rounding may depend on the number of threads.
    products = np.einsum("id,jd->ij", groups, groups)
    squares = squared[:, None] + squared - 2 * products + variances[:, None] + variances
    np.fill_diagonal(squares, 0)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _clip_lengths(rows: np.ndarray, longest: float) -> np.ndarray:
    """Return rows (n, d), those longer than `longest` shortened to it."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * np.minimum(1, longest / np.maximum(lengths, 1e-30)))


def stress_majorization(distances: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return points (n, dim) float64 whose distances are close to given ones, from a start (n, dim).

    SMACOF (De Leeuw 1977; Borg and Groenen, Modern Multidimensional Scaling, 2005, section 8.6) with equal weights.
    Every iteration decreases the stress Σ (‖y_i − y_j‖ − d_ij)²; it ends when the decrease is small. Steps of twice the
    length need about half as many iterations (De Leeuw and Heiser 1980), and one of the plain length follows.

    Parameters
    ----------
    distances : ndarray of float64 (n, n)
        Symmetric, with a zero diagonal.
    start : ndarray of float64 (n, dim)
    """
    points, previous = start - start.mean(axis=0), np.inf
    for _ in range(_MAX_ITERATIONS):
        majorized, stress = _majorize(distances, points)
        if previous - stress <= _MIN_DECREASE * stress:
            break
        points, previous = 2 * majorized - points, stress
    return _majorize(distances, points)[0]


def _majorize(distances: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the Guttman transform of points, and their stress."""
    axes = [axis[:, None] - axis for axis in np.ascontiguousarray(points.T)]
    current = np.sqrt(sum(differences**2 for differences in axes))
    stress = float(((current - distances) ** 2).sum())
    ratios = distances / np.maximum(current, 1e-300)
    return np.stack([(ratios * differences).mean(axis=1) for differences in axes], axis=1), stress
