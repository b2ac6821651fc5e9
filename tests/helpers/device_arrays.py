"""Stand-ins for CuPy arrays and cuDF data frames on a machine without a GPU.

They hold host memory, implement what the sources use, and like the originals refuse implicit conversion to NumPy.
Tests on a GPU check that the originals behave in the same way.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dask.array.dispatch import concatenate_lookup


class Card:
    """An array, as `cupy.ndarray`."""

    __module__ = "cupy"

    def __init__(self, x):
        self.held = x

    def __reduce__(self):
        return to_card, (self.held,)

    shape = property(lambda self: self.held.shape)
    ndim = property(lambda self: self.held.ndim)
    size = property(lambda self: self.held.size)
    dtype = property(lambda self: self.held.dtype)
    flags = property(lambda self: self.held.flags)

    def __len__(self):
        return len(self.held)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __array_function__(self, function, types, args, kwargs):
        assert function in (np.concatenate, np.empty_like)
        bare = [a.held for a in args[0]] if function is np.concatenate else args[0].held
        return Card(function(bare, *args[1:], **kwargs))

    def __getitem__(self, key):
        return Card(self.held[key])

    def __setitem__(self, key, value):
        self.held[key] = value.held

    def __mul__(self, other):
        return Card(self.held * other.held)

    def __ne__(self, other):
        return Card(self.held != other)

    def __bool__(self):
        return bool(self.held)

    def __int__(self):
        return int(self.held)

    def view(self, dtype):
        return Card(self.held.view(dtype))

    def sum(self, axis):
        return Card(self.held.sum(axis=axis))

    def set(self, x):
        self.held[...] = x

    def any(self):
        return Card(self.held.any())

    def argmax(self):
        return Card(self.held.argmax())

    def reshape(self, *shape):
        return Card(self.held.reshape(*shape))

    def copy(self, order="C"):
        return Card(self.held.copy(order))

    def astype(self, dtype, copy=True):
        return Card(self.held.astype(dtype, copy=copy))

    def get(self):
        return self.held.copy()


def to_card(x):
    return Card(np.asarray(x))


# Dask registers the same for `cupy.ndarray`.
concatenate_lookup.register(Card, lambda parts, axis=0: Card(np.concatenate([p.held for p in parts], axis=axis)))


class Column:
    """A column, as `cudf.Series`."""

    __module__ = "cudf.core.series"
    ndim = 1

    def __init__(self, held):
        if isinstance(held, pa.ChunkedArray):  # which copies even a single chunk when it combines
            held = held.chunk(0) if held.num_chunks == 1 else held.combine_chunks()
        self.held = held

    null_count = property(lambda self: self.held.null_count)

    def __len__(self):
        return len(self.held)

    @property
    def values(self):
        assert not self.null_count
        return Card(self.held.to_numpy(zero_copy_only=False))

    @property
    def iloc(self):
        return _Slices(lambda a, b: Column(self.held.slice(a, b - a)), len(self))

    @property
    def list(self):
        assert pa.types.is_list(self.held.type)
        return SimpleNamespace(leaves=Column(self.held.flatten()), len=lambda: Column(pc.list_value_length(self.held)))

    def isnull(self):
        return Column(self.held.is_null())

    def to_pandas(self):
        return self.held.to_pandas()

    def to_arrow(self):
        return self.held


class Frame:
    """A data frame, as `cudf.DataFrame`; column labels need not be strings."""

    __module__ = "cudf.core.dataframe"
    ndim = 2

    def __init__(self, table, labels=None):
        self.held = table
        self.columns = list(table.column_names if labels is None else labels)

    def __reduce__(self):
        return to_frame, (self.held, self.columns)

    def __len__(self):
        return self.held.num_rows

    def __getitem__(self, labels):
        if isinstance(labels, list):
            at = [self.columns.index(label) for label in labels]
            return Frame(self.held.select(at), labels)
        return Column(self.held.column(self.columns.index(labels)))

    @property
    def iloc(self):
        return _Slices(lambda a, b: Frame(self.held.slice(a, b - a), self.columns), len(self))

    def to_arrow(self, preserve_index=None):
        assert preserve_index is False
        return self.held.rename_columns([str(label) for label in self.columns])


def to_frame(table, labels=None):
    return Frame(table, labels)


class _Slices:
    def __init__(self, take, length):
        self._take, self._length = take, length

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(self._length)
        return self._take(start, max(start, stop))


class DaskFrame:
    """A Dask data frame of such frames, as `dask_cudf.DataFrame`."""

    __module__ = "dask_cudf._expr.collection"
    ndim = 2

    def __init__(self, parts, meta):
        self._parts, self._meta = parts, meta
        self.columns = meta.columns

    def __dask_tokenize__(self):
        return tuple(part.key for part in self._parts)

    def __getitem__(self, labels):
        from dask import delayed

        return DaskFrame([delayed(Frame.__getitem__)(part, labels) for part in self._parts], self._meta[labels])

    def simplify(self):
        return self

    def __dask_keys__(self):
        return [part.key for part in self._parts]

    def __dask_graph__(self):
        return {key: task for part in self._parts for key, task in dict(part.dask).items()}
