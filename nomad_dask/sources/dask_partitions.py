"""The partitions of a Dask data frame, each with the part of the graph that computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The time that Dask needs for the graph of several values grows with the square of their number.
_COMPUTED_AT_ONCE = 256


class FramePartitions(Sequence[Any]):
    """Partitions of a Dask data frame, or of some of its columns, as delayed values.

    Optimizing a frame as a whole may combine partitions: Dask reads several Parquet files at once when few of their
    columns are wanted. The number and the rows of partitions then depend on the columns. Here, only the columns are
    pushed down to the reading tasks, and partitions stay as they are.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame or dask_cudf.DataFrame
    columns : sequence of int, optional
        Positions of the columns to compute; None computes all.
    n_partitions : int, optional
        How many partitions there must be. If the columns alone have another number, all columns are computed.

    Attributes
    ----------
    columns : tuple of int
        Positions of the columns in the computed partitions.
    """

    def __init__(self, frame: Any, columns: Sequence[int] | None = None, n_partitions: int | None = None) -> None:
        everything = tuple(range(len(frame.columns)))
        wanted = everything if columns is None else tuple(columns)
        if wanted != everything and len(set(frame.columns)) == len(everything):
            selected = _push_down(frame[[frame.columns[i] for i in wanted]])
            self._keys, self.columns = list(selected.__dask_keys__()), tuple(range(len(wanted)))
            if n_partitions in (None, len(self._keys)):
                self._graph = dict(selected.__dask_graph__())
                return
        whole = _push_down(frame)
        self._keys, self._graph, self.columns = list(whole.__dask_keys__()), dict(whole.__dask_graph__()), wanted

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: Any) -> Any:
        """Return a partition as a delayed value whose graph contains no other partition."""
        from dask.delayed import Delayed
        from dask.optimization import cull

        key = self._keys[i]
        graph, _ = cull(self._graph, [key])  # type: ignore[no-untyped-call]
        return Delayed(key, graph)  # type: ignore[no-untyped-call]


def _push_down(frame: Any) -> Any:
    """Return a frame whose graph reads only what it needs, without the optimizations that combine partitions."""
    return frame.simplify()


def partition_lengths(frame: Any, column: int) -> list[int]:
    """Compute the number of rows of every partition of a Dask data frame, from one of its columns."""
    import dask.base
    from dask.delayed import delayed

    compute: Any = dask.base.compute  # its annotations are partial
    partitions = FramePartitions(frame, [column], len(FramePartitions(frame)))
    lengths: list[int] = []
    for start in range(0, len(partitions), _COMPUTED_AT_ONCE):
        some = [partitions[i] for i in range(start, min(start + _COMPUTED_AT_ONCE, len(partitions)))]
        lengths += compute(*map(delayed(len), some))
    return lengths
