"""What a site shows of each column: categories and numbers to colour by, text to read and to search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nomad_dask.errors import InputError, suggest
from nomad_dask.plotting.palettes import MAX_CATEGORIES
from nomad_dask.site.map_reader import MapFile, as_text, can_be_text, is_number, is_words
from nomad_dask.site.top_values import count_values

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["category", "number", "text"]

MOST_LABELS = 255
# Text of more different values than this is text to read; to colour by it, ask for it.
_FEW = 1024
# Labels that agree so far are one category.
_LONGEST_LABEL = 200
_CELL = "cell"
_OTHER, _NONE = "other", "(none)"


@dataclass(frozen=True)
class Column:
    """A column as the page knows it.

    Attributes
    ----------
    name : str
    kind : {'category', 'number', 'text'}
    in_tiles : bool
        Whether points can be coloured by it.
    labels : tuple of (str, int)
        Categories with their numbers of rows, the most frequent first.
    other, none : int
        Rows with another label, and without one. Each is a category after `labels` where it is not 0.
    low, high : float
        Least and greatest finite number; both 0 where there is none.
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
        """What a row has of it in the tiles."""
        return np.dtype(np.uint8 if self.kind == "category" else np.float32)

    def encoded(self, array: pa.Array) -> np.ndarray:
        """Return what the tiles hold of some values: indices of categories, or numbers with NaN for nulls."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.kind == "number":
            with np.errstate(over="ignore"):
                return _numbers(array).astype(np.float32)
        text = as_text(array, _LONGEST_LABEL)
        found = pc.index_in(text, value_set=pa.array([label for label, _ in self.labels], pa.string()))
        codes = found.fill_null(len(self.labels)).to_numpy(zero_copy_only=False).astype(np.uint8)
        if self.none:
            codes[text.is_null().to_numpy(zero_copy_only=False)] = len(self.labels) + (self.other > 0)
        return np.asarray(codes)

    def as_dict(self) -> dict[str, Any]:
        """Return what the page is told of it."""
        told: dict[str, Any] = {"name": self.name, "kind": self.kind, "in_tiles": self.in_tiles}
        if self.kind == "category":
            told["categories"] = [{"label": label, "n": n} for label, n in self.labels]
            told["categories"] += [
                {"label": label, "n": n, "other": True} for label, n in ((_OTHER, self.other), (_NONE, self.none)) if n
            ]
        if self.kind == "number":
            told |= {"min": self.low, "max": self.high}
        return told


@dataclass(frozen=True)
class ExportColumns:
    """What of a map is shown.

    Attributes
    ----------
    columns : tuple of Column
        All that are used: first those to colour by.
    hover, search : tuple of str
        Columns whose text is shown, and those of them whose words are found.
    """

    columns: tuple[Column, ...]
    hover: tuple[str, ...]
    search: tuple[str, ...]

    @property
    def in_tiles(self) -> tuple[Column, ...]:
        """The columns to colour by."""
        return tuple(column for column in self.columns if column.in_tiles)


def choose(
    file: MapFile,
    color: Sequence[str] | None,
    hover: Sequence[str] | None,
    search: Sequence[str] | None,
    advance: Callable[[int], None] = lambda done: None,
) -> ExportColumns:
    """Decide what to show; None takes whatever makes sense.

    Parameters
    ----------
    file : MapFile
    color, hover, search : sequence of str or None
        Names of columns to colour by, to show beside a point, and of those to search.
    advance : callable
        Told the columns read so far.

    Raises
    ------
    InputError
        A column does not exist, or cannot be used in that way.
    """
    kept = [name for name in file.schema.names if name not in ("x", "y", _CELL)]
    shown = tuple(
        [name for name in kept if can_be_text(file.schema.field(name).type)] if hover is None else _known(file, hover)
    )
    for name in shown:
        if not can_be_text(file.schema.field(name).type):
            raise InputError(
                f"The column {name!r} holds {file.schema.field(name).type}, which is no text: leave it out."
            )
    words = [name for name in shown if is_words(file.schema.field(name).type)] if search is None else search
    for name in _known(file, words):
        if name not in shown:
            raise InputError(f"The column {name!r} is to be searched and not shown: add it to the columns of --hover.")
        if not is_words(file.schema.field(name).type):
            raise InputError(f"The column {name!r} holds {file.schema.field(name).type}: only text is searched.")
    wanted = [*kept, *(n for n in file.schema.names if n == _CELL)] if color is None else _known(file, color)
    colors = []
    for number, name in enumerate(wanted):
        column = _look(file, name, asked=color is not None)
        if column is not None:
            colors.append(column)
        advance(number + 1)
    named = {column.name for column in colors}
    others = [_plain(file, name) for name in shown if name not in named]
    return ExportColumns((*colors, *others), shown, tuple(words))


def _known(file: MapFile, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in file.schema.names:
            raise InputError(f"{str(file.path)!r} has no column {name!r}. {suggest(name, file.schema.names)}")
        if list(names).count(name) > 1:
            raise InputError(f"The column {name!r} is named twice: once is enough.")
    return names


def _plain(file: MapFile, name: str) -> Column:
    """Return a column that is only read."""
    return Column(name, "text", in_tiles=False)


def _look(file: MapFile, name: str, asked: bool) -> Column | None:
    """Read a column to colour by; None when it is not `asked` for and makes no sense as a colour.

    Raises
    ------
    InputError
        It is asked for and cannot be one.
    """
    import pyarrow as pa

    kind = file.schema.field(name).type
    if is_number(kind) and name != _CELL:
        if not (_few_whole_numbers(file, name)):
            low, high = _range(file, name)
            return Column(name, "number", True, low=low, high=high)
    elif not (is_words(kind) or pa.types.is_boolean(kind) or (name == _CELL and can_be_text(kind))):
        if asked:
            raise InputError(f"The column {name!r} holds {kind}: points are coloured by text, booleans or numbers.")
        return None
    free = asked or not is_words(kind)
    counted = count_values(
        lambda: (as_text(array, _LONGEST_LABEL) for array in _column(file, name)),
        MOST_LABELS,
        give_up=None if free else min(_FEW, file.n_rows // 2),
    )
    if counted is None:
        return None
    labels = counted.labels
    if counted.none and counted.other:
        # Both are categories, and a byte tells 256.
        labels = labels[: MOST_LABELS - 1]
    other = file.n_rows - counted.none - sum(n for _, n in labels)
    return Column(name, "category", True, labels, other, counted.none)


def _column(file: MapFile, name: str) -> Iterator[pa.Array]:
    for batch in file.batches([name]):
        yield batch.column(name)


def _numbers(array: pa.Array) -> np.ndarray:
    """Return numbers of any type as float64, with NaN for nulls."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _few_whole_numbers(file: MapFile, name: str) -> bool:
    """Tell labels that are numbers from numbers that measure, as the pictures do."""
    seen: set[float] = set()
    for array in _column(file, name):
        values = _numbers(array)
        values = values[~np.isnan(values)]
        # Most columns show in a few rows that they are no labels.
        for part in (values[:1000], values[1000:]):
            seen.update(np.unique(part).tolist())
            if len(seen) > MAX_CATEGORIES or not all(value.is_integer() for value in seen):
                return False
    return bool(seen)


def _range(file: MapFile, name: str) -> tuple[float, float]:
    low, high = np.inf, -np.inf
    for array in _column(file, name):
        with np.errstate(over="ignore"):
            values = _numbers(array).astype(np.float32)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)
