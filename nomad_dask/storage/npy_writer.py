"""Write an ``.npy`` file piece by piece, before the number of its rows is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.storage.atomic import atomic_write, write_npy_header
from nomad_dask.storage.disk_full import translate_disk_full


@contextmanager
def appended_npy(
    path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...] = (), durable: bool = True
) -> Iterator[Callable[[np.ndarray], None]]:
    r"""Yield a function that appends rows (n, \*row_shape) to a file, which appears at the end of the block.

    See `atomic_write` for `durable`.

    Raises
    ------
    DiskFullError
        The disk has no space left; nothing remains of the file.
    """
    n_rows = 0
    with atomic_write(path, durable) as partial, translate_disk_full(path), partial.open("wb") as out:
        write_npy_header(out, dtype, (0, *row_shape))

        def append(rows: np.ndarray) -> None:
            nonlocal n_rows
            np.ascontiguousarray(rows, dtype).tofile(out)
            n_rows += len(rows)

        yield append
        out.seek(0)
        write_npy_header(out, dtype, (n_rows, *row_shape))  # NumPy leaves room in a header for any number
