"""The columns of several Parquet files: the types that hold those of all files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from nomad_dask.errors import InputError
from nomad_dask.sources.arrow import VectorColumns
from nomad_dask.sources.arrow_types import common_type, index_columns, list_dtype, number_dtype


@dataclass(frozen=True)
class ColumnTypes:
    """The columns that a source reads, and their types over all files that were added.

    Attributes
    ----------
    vectors : VectorColumns
        With a dtype that holds the numbers of all files.
    carried : dict of str to pyarrow.DataType
        The columns to carry along, each with a type that holds the values of all files.
    first : pyarrow.Schema
        Schema of the first file.
    first_path : str
    """

    vectors: VectorColumns
    carried: dict[str, Any]
    first: pa.Schema
    first_path: str

    @classmethod
    def of_first(
        cls, vectors: VectorColumns, metadata_columns: Sequence[str], schema: pa.Schema, path: str
    ) -> ColumnTypes:
        """Return the columns and types of the first file."""
        carried = {n: schema.field(n).type for n in metadata_columns if n in schema.names and n not in vectors.names}
        return cls(vectors, carried, schema, path)

    def add(self, schema: pa.Schema, path: str) -> ColumnTypes:
        """Return the types that hold the values of another file too.

        Raises
        ------
        InputError
            The file lacks a column, has another one that would be a dimension, or has types without a common one.
        """
        if schema.equals(self.first):
            return self
        dtypes = [self.vectors.dtype]
        dtype_of = list_dtype if self.vectors.lists else number_dtype
        for name in self.vectors.names:
            dtype = dtype_of(schema.field(name).type) if name in schema.names else None
            if dtype is None:
                raise self._differs(name, schema, path)
            dtypes.append(dtype)
        carried = {}
        for name, t in self.carried.items():
            carried[name] = common_type([t, schema.field(name).type]) if name in schema.names else None
            if carried[name] is None:
                raise self._differs(name, schema, path)
        if not self.vectors.lists:
            for name in schema.names:
                if name not in self.first.names and name not in {*self.carried, *index_columns(schema)}:
                    raise self._differs(name, schema, path)
        vectors = replace(self.vectors, dtype=np.result_type(*dtypes))
        return replace(self, vectors=vectors, carried=carried)

    def _differs(self, name: str, schema: pa.Schema, path: str) -> InputError:
        found, expected = (s.field(name).type if name in s.names else "missing" for s in (schema, self.first))
        return InputError(
            f"column {name!r} is {expected} in {self.first_path}, and {found} in {path}: "
            "write all files with the same columns and types."
        )
