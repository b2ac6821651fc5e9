"""The search for cells near to others in groups: in as many as contain nearly all of the cells nearest to a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomad_dask.backends.cell_groups import CellGroups, Ranges, Run

_SHARE_MISSED = 0.0015
"""Share of the nearest cells of the sample that may be missed; a fifth of it because their regions are not searched."""
_FEW_GROUPS, _FEW_CELLS = 256, 3072
"""To compare so few with the cells of a group takes little time, and fewer would save nothing."""


@dataclass(frozen=True)
class GroupSearch:
    """Search for the cells near to others.

    Attributes
    ----------
    grouped : CellGroups
    n_regions : int
        The groups of so many regions nearest to a cell are tried.
    n_groups : int
        So many of these groups are searched, the nearest.
    """

    grouped: CellGroups
    n_regions: int
    n_groups: int

    def around(self, points: np.ndarray, m: int) -> np.ndarray:
        """Return the places of at least `m` cells: of all in the groups that are searched for any of the points."""
        n_regions, n_groups = self.n_regions, self.n_groups
        while True:
            tried = _groups_tried(self.grouped, points, n_regions)
            found = self.grouped.groups.expand(self.grouped.groups.near(points, tried, n_groups))
            if len(found) >= m:
                return found
            n_regions, n_groups = 2 * n_regions, 2 * n_groups


def tune_search(grouped: CellGroups, sample: np.ndarray, nearest: np.ndarray, run: Run) -> GroupSearch:
    """Return the search that finds nearly all of the cells nearest to a sample.

    Parameters
    ----------
    grouped : CellGroups
    sample : ndarray of int (n,)
        Places of cells.
    nearest : ndarray of int (n, m)
        Places of those nearest to each.
    run : callable
        See `nearest_cells`.
    """
    groups, regions = grouped.groups, grouped.regions
    group_of, region_of = groups.owners(), regions.owners()
    points = [grouped.centroids[groups.expand(np.array([group]))] for group in group_of[sample]]
    nearest_groups = group_of[nearest]
    nearest_regions = region_of[nearest_groups]
    tried = [np.arange(len(regions.sizes))] * len(sample)
    n_regions = _count_searched(regions, points, tried, nearest_regions, _SHARE_MISSED / 5, _FEW_GROUPS, run)
    tried = [_groups_tried(grouped, members, n_regions) for members in points]
    n_groups = _count_searched(groups, points, tried, nearest_groups, _SHARE_MISSED, _FEW_CELLS, run)
    return GroupSearch(grouped, n_regions, n_groups)


def _groups_tried(grouped: CellGroups, points: np.ndarray, n_regions: int) -> np.ndarray:
    """Return the groups of the regions that are nearest to any of the points."""
    all_regions = np.arange(len(grouped.regions.sizes))
    return grouped.regions.expand(grouped.regions.near(points, all_regions, n_regions))


def _count_searched(
    ranges: Ranges,
    points: list[np.ndarray],
    tried: list[np.ndarray],
    wanted: np.ndarray,
    share_missed: float,
    few: int,
    run: Run,
) -> int:
    """Return how many of the ranges nearest to a cell are searched.

    These contain those wanted but for a share, and in half of the samples together `few` members.
    """
    needed, cheap = np.empty(wanted.shape, np.int64), np.empty(len(wanted), np.int64)

    def measure(start: int, stop: int) -> None:
        for i in range(start, stop):
            ranks = ranges.ranks(points[i], tried[i])
            needed[i] = ranks[wanted[i]]
            order = np.argsort(ranks, kind="stable")
            cheap[i] = ranks[order][np.cumsum(ranges.sizes[order]) <= few].max(initial=1)

    run(measure, len(points), 1)
    return int(max(np.quantile(needed, 1 - share_missed, method="higher"), np.median(cheap)))
