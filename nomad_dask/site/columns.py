"""The columns of a site: categories and numbers for colors, text to read and to search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.palettes import MAX_CATEGORIES
from nomad_dask.site.map_reader import MapFile, as_numbers, as_text, can_be_text, is_number, is_words
from nomad_dask.site.top_values import count_values

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["category", "number", "text"]

MAX_LABELS = 255
# A text column with more different values is used for colors only on request.
_MAX_DEFAULT_VALUES = 1024
# Characters of a label; longer labels with the same beginning are one category.
_MAX_LABEL_LENGTH = 200
_CELL = "cell"
_OTHER, _NONE = "other", "(none)"


@dataclass(frozen=True)
class Column:
    """A column as the page uses it.

    Attributes
    ----------
    name : str
    kind : {'category', 'number', 'text'}
    in_tiles : bool
        Whether points can be colored by it.
    labels : tuple of (str, int)
        Categories with their numbers of rows, the most frequent first.
    other, none : int
        Number of rows with another label, and without one. Each is a category after `labels` unless it is 0.
    low, high : float
        Smallest and largest finite number; both 0 if there is none.
    """

    name: str
    kind: Kind
    in_tiles: bool
    labels: tuple[tuple[str, int], ...] = ()
    other: int = 0
    none: int = 0
    low: float = 0.0
    high: float = 0.0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values in the tiles."""
        return np.dtype(np.uint8 if self.kind == "category" else np.float32)

    def encode(self, array: pa.Array) -> np.ndarray:
        """Return values as they are in the tiles: indices of categories, or numbers with NaN for nulls."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.kind == "number":
            with np.errstate(over="ignore"):
                return as_numbers(array).astype(np.float32)
        text = as_text(array, _MAX_LABEL_LENGTH)
        indices = pc.index_in(text, value_set=pa.array([label for label, _ in self.labels], pa.string()))
        codes = indices.fill_null(len(self.labels)).to_numpy(zero_copy_only=False).astype(np.uint8)
        if self.none:
            codes[text.is_null().to_numpy(zero_copy_only=False)] = len(self.labels) + (self.other > 0)
        return np.asarray(codes)

    def as_dict(self) -> dict[str, Any]:
        """Return its description for the page."""
        description: dict[str, Any] = {"name": self.name, "kind": self.kind, "in_tiles": self.in_tiles}
        if self.kind == "category":
            description["categories"] = [{"label": label, "n": n} for label, n in self.labels]
            description["categories"] += [
                {"label": label, "n": n, "other": True} for label, n in ((_OTHER, self.other), (_NONE, self.none)) if n
            ]
        if self.kind == "number":
            description |= {"min": self.low, "max": self.high}
        return description


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns to color by, to show beside a point, and those of them to search; None for the default."""

    color: Sequence[str] | None = None
    hover: Sequence[str] | None = None
    search: Sequence[str] | None = None


@dataclass(frozen=True)
class ExportColumns:
    """The columns of a site.

    Attributes
    ----------
    columns : tuple of Column
        All columns, first those to color by.
    hover, search : tuple of str
        Columns whose text is shown, and those of them that can be searched.
    """

    columns: tuple[Column, ...]
    hover: tuple[str, ...]
    search: tuple[str, ...]

    @property
    def in_tiles(self) -> tuple[Column, ...]:
        """The columns to color by."""
        return tuple(column for column in self.columns if column.in_tiles)


def select_columns(
    file: MapFile,
    names: ColumnNames,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ExportColumns:
    """Return the columns of a site; by default all that are suitable.

    Parameters
    ----------
    file : MapFile
    names : ColumnNames
    on_progress : callable
        Called with the number of columns read so far.

    Raises
    ------
    InputError
        A column does not exist, or cannot be used in that way.
    """
    metadata = [name for name in file.schema.names if name not in (*file.axes, _CELL)]
    hover = _select_hover(file, metadata, names.hover)
    search = _select_search(file, hover, names.search)
    if names.color is None:
        candidates: Sequence[str] = [*metadata, *(name for name in file.schema.names if name == _CELL)]
    else:
        candidates = _check_names(file, names.color)
    colors = []
    for number, name in enumerate(candidates):
        column = _read_color_column(file, name, requested=names.color is not None)
        if column is not None:
            colors.append(column)
        on_progress(number + 1)
    in_tiles = {column.name for column in colors}
    others = [Column(name, "text", in_tiles=False) for name in hover if name not in in_tiles]
    return ExportColumns((*colors, *others), hover, search)


def _select_hover(file: MapFile, metadata: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns to show beside a point."""
    if names is None:
        return tuple(name for name in metadata if can_be_text(file.schema.field(name).type))
    for name in _check_names(file, names):
        kind = file.schema.field(name).type
        if not can_be_text(kind):
            raise InputError(f"The column {name!r} holds {kind}, which cannot be shown as text: leave it out.")
    return tuple(names)


def _select_search(file: MapFile, hover: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return those of the columns shown that can be searched."""
    if names is None:
        return tuple(name for name in hover if is_words(file.schema.field(name).type))
    for name in _check_names(file, names):
        if name not in hover:
            raise InputError(f"The column {name!r} is searched but not shown: add it to the columns of --hover.")
        if not is_words(file.schema.field(name).type):
            raise InputError(
                f"The column {name!r} holds {file.schema.field(name).type}: only text can be searched, leave it out."
            )
    return tuple(names)


def _check_names(file: MapFile, names: Sequence[str]) -> Sequence[str]:
    """Return the names, after a check that each is a column and none occurs twice."""
    if isinstance(names, str):
        raise InputError(f"{names!r} is one name: pass a list of names, such as [{names!r}].")
    for name in names:
        if name not in file.schema.names:
            raise InputError(f"{str(file.path)!r} has no column {name!r}. {suggest(name, file.schema.names)}")
        if list(names).count(name) > 1:
            raise InputError(f"The column {name!r} is named twice: once is enough.")
    return names


def _read_color_column(file: MapFile, name: str, requested: bool) -> Column | None:
    """Read a column to color by; return None if it was not requested and is not suitable.

    Raises
    ------
    InputError
        It was requested and cannot be used for colors.
    """
    import pyarrow as pa

    kind = file.schema.field(name).type
    if is_number(kind) and name != _CELL:
        if not _has_few_whole_numbers(file, name):
            low, high = _find_range(file, name)
            return Column(name, "number", True, low=low, high=high)
    elif not (is_words(kind) or pa.types.is_boolean(kind) or (name == _CELL and can_be_text(kind))):
        if requested:
            raise InputError(f"The column {name!r} holds {kind}: points are colored by text, booleans or numbers.")
        return None
    unlimited = requested or not is_words(kind)
    counted = count_values(
        lambda: (as_text(array, _MAX_LABEL_LENGTH) for array in _read_column(file, name)),
        MAX_LABELS,
        max_distinct=None if unlimited else min(_MAX_DEFAULT_VALUES, file.n_rows // 2),
    )
    if counted is None:
        return None
    labels = counted.labels
    if counted.none and counted.other:
        # Both are categories, and a byte has 256 values.
        labels = labels[: MAX_LABELS - 1]
    other = file.n_rows - counted.none - sum(n for _, n in labels)
    return Column(name, "category", True, labels, other, counted.none)


def _read_column(file: MapFile, name: str) -> Iterator[pa.Array]:
    for batch in file.batches([name]):
        yield batch.column(name)


def _has_few_whole_numbers(file: MapFile, name: str) -> bool:
    """Return whether a column holds a few different whole numbers only, which are categories as in pictures."""
    values_seen: set[float] = set()
    for array in _read_column(file, name):
        values = as_numbers(array)
        values = values[~np.isnan(values)]
        # The first rows of most columns show that they are not categories.
        for part in (values[:1000], values[1000:]):
            values_seen.update(np.unique(part).tolist())
            if len(values_seen) > MAX_CATEGORIES or not all(value.is_integer() for value in values_seen):
                return False
    return bool(values_seen)


def _find_range(file: MapFile, name: str) -> tuple[float, float]:
    """Return the smallest and the largest finite number of a column, as float32."""
    low, high = np.inf, -np.inf
    for array in _read_column(file, name):
        with np.errstate(over="ignore"):
            values = as_numbers(array).astype(np.float32)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)
