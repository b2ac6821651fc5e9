"""Types of Arrow columns: numbers, lists of numbers, a type common to several files, and columns that are an index."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa

# Names that pandas and Dask give to the index of a data frame when they write it as a column.
_INDEX_NAME = re.compile(r"__index_level_\d+__|__null_dask_index__")


def is_index_name(name: str) -> bool:
    """Return whether pandas or Dask have given this name to an index without one."""
    return _INDEX_NAME.fullmatch(name) is not None


def index_columns(schema: pa.Schema) -> set[str]:
    """Return the names of the columns that are the index of a data frame, and no data of its rows.

    They are listed in the metadata that pandas, Dask and cuDF write. Programs that drop the metadata keep the names
    of an index without a name.
    """
    try:
        described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        listed = described.get("index_columns") or []
    except (ValueError, AttributeError, RecursionError):
        listed = []  # not written by pandas
    names = {entry for entry in listed if isinstance(entry, str)} if isinstance(listed, list) else set()
    return {name for name in schema.names if name in names or is_index_name(name)}


def storage_type(t: Any) -> Any:
    """Return the type in which an extension type, such as a tensor of fixed shape, is stored; other types unchanged."""
    return t.storage_type if isinstance(t, pa.BaseExtensionType) else t


def number_dtype(t: Any) -> np.dtype[Any] | None:
    """Return the NumPy dtype of a numeric Arrow type, uint8 for booleans, None for other types."""
    if pa.types.is_boolean(t):
        return np.dtype(np.uint8)
    return np.dtype(t.to_pandas_dtype()) if pa.types.is_integer(t) or pa.types.is_floating(t) else None


def list_dtype(t: Any) -> np.dtype[Any] | None:
    """Return the NumPy dtype of the elements of a type of lists of numbers, None for other types."""
    t = storage_type(t)
    return number_dtype(t.value_type) if is_list(t) else None


def is_list(t: Any) -> bool:
    """Return whether a type is one of lists, of any kind and elements."""
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(pa.types, f"is_{kind}")(t) for kind in kinds)


def common_type(types: Iterable[Any]) -> Any:
    """Return a type that holds the values of all types without loss, or None if there is none."""
    try:
        return reduce(_merge, types)
    except (pa.ArrowException, _LossError):
        return None


class _LossError(Exception):
    """Two types have no common one."""


def _merge(a: Any, b: Any) -> Any:
    if a == b:
        return a
    if pa.types.is_dictionary(a) != pa.types.is_dictionary(b):
        a, b = (t.value_type if pa.types.is_dictionary(t) else t for t in (a, b))
    a, b = (pa.large_string() if t == pa.string_view() else t for t in (a, b))
    for one, other in ((a, b), (b, a)):
        # Floating-point numbers do not hold all integers of 64 bits, nor signed integers those without a sign.
        if pa.types.is_integer(one) and one.bit_width == 64 and pa.types.is_floating(other):
            raise _LossError
        if pa.types.is_uint64(one) and pa.types.is_signed_integer(other):
            raise _LossError
        if pa.types.is_string(one) and pa.types.is_binary(other):
            raise _LossError
    schemas = [pa.schema([("", t)]) for t in (a, b)]
    return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
