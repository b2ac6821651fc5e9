"""The columns of positions: which a table must have, and which two of three a picture shows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nomad_dask.errors import InputError, NomadWarning, suggest
from nomad_dask.utils.array_types import AXES

if TYPE_CHECKING:
    import pyarrow as pa


def position_columns(schema: pa.Schema, name: str) -> list[str]:
    """Return the columns of the positions of a table: ``x``, ``y``, and ``z`` if it holds numbers.

    Parameters
    ----------
    schema : pyarrow.Schema
    name : str
        Name of the table in messages.

    Raises
    ------
    InputError
        The columns ``x`` and ``y`` are missing or not numbers, or two columns have one name.
    """
    names = schema.names
    duplicates = sorted({column for column in names if names.count(column) > 1})
    if duplicates:
        raise InputError(f"{name} has the column {duplicates[0]!r} twice: rename one of them.")
    for axis in AXES[:2]:
        if axis not in names:
            raise InputError(_missing_axis(axis, schema, name))
        kind = schema.field(axis).type
        if not _is_number(kind):
            called = name[:1].lower() + name[1:]
            raise InputError(f"The column {axis!r} of {called} holds {kind}: positions must be numbers.")
    return [*AXES[:2], *(["z"] if "z" in names and _is_number(schema.field("z").type) else [])]


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _missing_axis(axis: str, schema: pa.Schema, name: str) -> str:
    import pyarrow as pa

    hint = suggest(axis, schema.names)
    if not hint.startswith("Did"):
        shown = ", ".join(map(repr, schema.names[:20])) + (", …" if len(schema.names) > 20 else "")
        hint = f"It has {shown or 'no columns'}."
    message = f"{name} has no column {axis!r}, so it is not a map. {hint} A map has the columns 'x' and 'y'"
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_list(field.type) for field in schema for is_list in lists):
        return f"{message}: make one of these vectors with 'nomad-dask fit', and give that."
    return f"{message}: give the output of 'nomad-dask fit', or rename the columns."


def plane_axes(axes: Sequence[str] | None, dim: int) -> tuple[str, str]:
    """Return the two axes that a picture of a map shows.

    Parameters
    ----------
    axes : sequence of str or None
        The axes to the right and upward. None for ``x`` and ``y``, with a warning if the map has a third one.
    dim : int
        Number of dimensions of the map.

    Raises
    ------
    InputError
        They are not two different axes of the map.
    """
    if axes is None:
        if dim > 2:
            warnings.warn(
                "The map has three dimensions, of which x and y are shown: choose two, such as --axes x,z.",
                NomadWarning,
                stacklevel=2,
            )
        return "x", "y"
    available = AXES[:dim]
    chosen = tuple(axes) if isinstance(axes, Iterable) else (axes,)
    if len(chosen) != 2 or chosen[0] == chosen[1] or any(axis not in available for axis in chosen):
        raise InputError(
            f"axes={','.join(map(str, chosen))} is not accepted: give two different axes of the map, which has "
            f"{', '.join(available)}, such as {available[-2]},{available[-1]}."
        )
    return str(chosen[0]), str(chosen[1])
