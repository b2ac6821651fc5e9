"""`open_source`: a source of vectors for any input that is accepted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.sources.base import Source
from nomad_dask.sources.files import FileSource, local_path
from nomad_dask.sources.fsspec import is_url, protocol_of
from nomad_dask.sources.retry import translate_io_errors, with_retries
from nomad_dask.utils.array_types import library_of

_PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_P = TypeVar("_P", str, Path)
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def open_source(x: Any, column: str | None = None, metadata_columns: Sequence[str] = ()) -> Source:
    """Open vectors in files, behind URLs or in memory.

    Parameters
    ----------
    x : path-like, list of path-like, array-like, data frame or Source
        A ``.npy`` file; a Parquet file, a directory of them, a pattern with ``*``, ``?`` or ``[ ]``, or a
        list of them; a directory of a zarr array; a URL of any of these, such as ``s3://bucket/x.npy``;
        anything that NumPy converts to a two-dimensional array; a pandas or Polars frame or an Arrow table; a
        CuPy array or a cuDF frame, which stay in GPU memory; a Dask array or data frame, also on GPUs.
        Files of a directory or a pattern are sorted by name, with numbers by value.
    column : str, optional
        The column that holds the vectors, for data with columns. Not required if there is only one candidate.
    metadata_columns : sequence of str
        Columns to carry along to the map; they do not hold vectors.

    Returns
    -------
    Source

    Raises
    ------
    MissingInputError
        A path does not exist.
    InputError
        The data cannot be mapped, or a column does not exist.
    """
    if isinstance(metadata_columns, str):
        raise InputError(
            f"metadata_columns={metadata_columns!r} is not accepted: give a list of column names, "
            f"such as [{metadata_columns!r}]."
        )
    source = _open(x, column, metadata_columns)
    available = source.column_names()
    for name in metadata_columns:
        if name not in available:
            raise InputError(f"{source.name} has no column {name!r} to keep. {suggest(name, available)}")
    return source


def _open(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    if isinstance(x, Source):
        return x
    if isinstance(x, (str, os.PathLike)):
        return _open_path(x, column, metadata_columns)
    if isinstance(x, (list, tuple)) and x and all(isinstance(p, (str, os.PathLike)) for p in x):
        return _open_parquet([_check_exists(p) for p in x], column, metadata_columns, f"{x[0]} and {len(x) - 1} more")
    if _is_on_device(x):
        from nomad_dask.sources.open_device import open_device

        return open_device(x, column, metadata_columns)
    library = library_of(x)
    if library == "dask":
        return _open_dask(x, column, metadata_columns)
    if library == "pandas" and x.ndim == 2:
        from nomad_dask.sources.pandas import FrameSource

        return FrameSource(x, column, metadata_columns, "the data frame")
    if library in ("pyarrow", "polars") and type(x).__name__ in (
        "Table",
        "RecordBatch",
        "DataFrame",
        "LazyFrame",
    ):
        return _open_table(x, column, metadata_columns)
    if type(x).__module__.startswith("scipy.sparse"):
        raise InputError(
            f"Sparse data is not supported: a {type(x).__name__} of shape {x.shape} was given, dense vectors "
            "are accepted. Reduce it first, as with sklearn.decomposition.TruncatedSVD(256).fit_transform(X)."
        )
    from nomad_dask.sources.numpy import open_array

    _refuse_column(column, f"the {type(x).__name__}")
    return open_array(x)


def _refuse_column(column: str | None, name: str) -> None:
    if column is not None:
        raise InputError(f"column={column!r} was given, but {name} has no columns: leave it out.")


def _is_on_device(x: Any) -> bool:
    """Return whether data is in GPU memory, itself or as the partitions of a Dask collection."""
    return library_of(getattr(x, "_meta", x)) in ("cupy", "cupyx", "cudf")


def _open_dask(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    from nomad_dask.sources import dask

    if hasattr(x, "chunks"):
        _refuse_column(column, "the Dask array")
        return dask.DaskArraySource(x)
    if hasattr(x, "partitions") and hasattr(x, "columns") and x.ndim == 2:
        return dask.DaskFrameSource(x, column, metadata_columns)
    raise InputError(f"{type(x).__module__}.{type(x).__qualname__} is neither a Dask array nor a data frame.")


def _open_table(x: Any, column: str | None, metadata_columns: Sequence[str]) -> Source:
    import pyarrow as pa

    from nomad_dask.sources.arrow import TableSource

    if hasattr(x, "collect"):
        x = x.collect()  # a lazy Polars frame
    table = pa.Table.from_batches([x]) if isinstance(x, pa.RecordBatch) else pa.table(x)
    return TableSource(table, column, metadata_columns, f"the {type(x).__name__}")


def _open_path(x: str | os.PathLike[str], column: str | None, metadata_columns: Sequence[str]) -> Source:
    if is_url(x):
        url = str(x)
        if protocol_of(url) not in ("file", "local"):
            return _open_url(url, column, metadata_columns)
        x = local_path(url)
    path = Path(x)
    if not path.exists() and re.search(r"[*?\[]", str(path)):
        files = _sort_by_name(p for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not files:
            raise MissingInputError(f"no file matches {x}: check the pattern.")
        return _open_parquet(files, column, metadata_columns, str(x), path)
    _check_exists(path)
    if path.is_dir():
        return _open_directory(path, column, metadata_columns)
    with translate_io_errors(str(path)), path.open("rb") as f:
        magic = f.read(6)
    if _file_format(path.suffix, magic, str(x)) == "parquet":
        return _open_parquet([path], column, metadata_columns, str(x))
    from nomad_dask.sources.npy import NpySource

    _refuse_column(column, str(x))
    return NpySource(path)


def _file_format(suffix: str, magic: bytes, name: str) -> str:
    """Return the format of a file, from its suffix or else its first bytes."""
    if suffix in _PARQUET_SUFFIXES or magic.startswith(b"PAR1"):
        return "parquet"
    if suffix == ".npy" or magic == b"\x93NUMPY":
        return "npy"
    raise InputError(
        f"{name} is neither a .npy nor a Parquet file: write the vectors in one of these formats, "
        "as with numpy.save or DataFrame.to_parquet."
    )


def _open_url(url: str, column: str | None, metadata_columns: Sequence[str]) -> Source:
    """Open a URL through fsspec."""
    from nomad_dask.sources import fsspec

    if re.search(r"[*?\[]", url) and fsspec.protocol_of(url) not in ("http", "https"):
        objects = fsspec.match(url)
        if not objects:
            raise MissingInputError(f"no object matches {url}: check the pattern.")
        return _open_remote_parquet(objects, column, metadata_columns, url)
    info = fsspec.info(url)
    if info["type"] == "directory":
        return _open_remote_directory(url.rstrip("/"), column, metadata_columns)
    size = fsspec.size(info, url)
    suffix = PurePosixPath(url.partition("?")[0]).suffix
    magic = b"" if suffix in (".npy", *_PARQUET_SUFFIXES) else _first_bytes(url, size)
    if _file_format(suffix, magic, url) == "parquet":
        return _open_remote_parquet({url: info}, column, metadata_columns, url)
    from nomad_dask.sources.npy import RemoteNpySource

    _refuse_column(column, url)
    return RemoteNpySource(url)


def _first_bytes(url: str, size: int) -> bytes:
    from nomad_dask.sources.fsspec import read_range

    return with_retries(lambda: read_range(url, 0, min(6, size)), url)


def _open_remote_directory(url: str, column: str | None, metadata_columns: Sequence[str]) -> Source:
    from nomad_dask.sources import fsspec

    if any(fsspec.exists(f"{url}/{name}") for name in _ZARR_FILES):
        from nomad_dask.sources.zarr import ZarrSource

        _refuse_column(column, url)
        return ZarrSource(url)
    objects = {
        u: info
        for u, info in fsspec.find(url).items()
        if u.endswith(_PARQUET_SUFFIXES) and not any(part.startswith((".", "_")) for part in u[len(url) :].split("/"))
    }
    if not objects:
        raise InputError(f"{url} contains no Parquet files and is not a zarr array: give a directory of either.")
    return _open_remote_parquet(objects, column, metadata_columns, url)


def _open_remote_parquet(
    objects: Mapping[str, dict[str, Any]], column: str | None, metadata_columns: Sequence[str], name: str
) -> Source:
    from nomad_dask.sources.files import remote_file_stat
    from nomad_dask.sources.parquet import RemoteParquetSource

    urls = _sort_by_name(objects)
    states = [remote_file_stat(objects[url], url) for url in urls]
    return RemoteParquetSource(urls, column, metadata_columns, name, states)


def _open_directory(path: Path, column: str | None, metadata_columns: Sequence[str]) -> Source:
    if any((path / name).exists() for name in _ZARR_FILES):
        from nomad_dask.sources.zarr import ZarrSource

        _refuse_column(column, str(path))
        return ZarrSource(path)
    files = _sort_by_name(p for p in path.rglob("*") if p.suffix in _PARQUET_SUFFIXES and _is_data(p, path))
    if not files:
        raise InputError(f"{path} contains no Parquet files and is not a zarr array: give a directory of either.")
    return _open_parquet(files, column, metadata_columns, str(path), path)


def _is_data(file: Path, folder: Path) -> bool:
    """Return whether a file holds data; writers hide others by names that begin with a dot or underscore."""
    return file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _sort_by_name(paths: Iterable[_P]) -> list[_P]:
    """Sort paths with numbers by value: Dask writes part.9.parquet before part.10.parquet."""
    pieces = re.compile(r"(\d+)")
    return sorted(paths, key=lambda p: [(s.isdigit(), int(s) if s.isdigit() else s) for s in pieces.split(str(p))])


def _open_parquet(
    paths: Sequence[str | Path],
    column: str | None,
    metadata_columns: Sequence[str],
    name: str,
    location: Path | None = None,
) -> Source:
    from nomad_dask.sources.parquet import ParquetSource, RemoteParquetSource

    remote = [is_url(p) for p in paths]
    if any(remote) and not all(remote):
        raise InputError(f"{name}: give either paths or URLs, not both.")
    kind: Any = RemoteParquetSource if all(remote) else ParquetSource
    source: FileSource = kind(paths, column, metadata_columns, name)
    source.location = None if location is None else str(location.absolute())
    return source


def _check_exists(location: str | os.PathLike[str]) -> str | Path:
    """Return a URL, or the path of an existing file or directory."""
    if is_url(location):
        url = str(location)
        return Path(local_path(url)) if protocol_of(url) in ("file", "local") else url
    path = Path(location)
    if path.exists():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise MissingInputError(f"{path} does not exist, nor does its folder {folder}: check the path.")
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    raise MissingInputError(f"{path} does not exist. In {folder}: {suggest(path.name, names)}")
