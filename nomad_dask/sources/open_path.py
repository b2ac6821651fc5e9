"""`open_paths`: the source for files that are given by paths, directories, patterns or URLs."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from nomad_dask.errors import InputError, MissingInputError
from nomad_dask.sources import paths as given
from nomad_dask.sources.base import Source
from nomad_dask.sources.files import FileSource
from nomad_dask.sources.retry import translate_io_errors, with_retries

_PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_NPY_SUFFIX = ".npy"
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
_FORMATS = "write the vectors in one of these formats, as with numpy.save or DataFrame.to_parquet"

_NO_DATA = "contains no Parquet or .npy files and is not a zarr array: give a directory of one of them."


class _Columns(NamedTuple):
    """The arguments of `open_source` about columns."""

    column: str | None
    metadata_columns: Sequence[str]

    def refuse(self, name: str) -> None:
        """Raise an error if a column was named for data without columns."""
        if self.column is not None:
            raise InputError(f"column={self.column!r} was given, but {name} has no columns: leave it out.")


def open_paths(paths: Sequence[str | os.PathLike[str]], column: str | None, metadata_columns: Sequence[str]) -> Source:
    """Open the files that one or more paths stand for.

    Parameters
    ----------
    paths : sequence of path-like or URL
        Files, directories and patterns.
    column, metadata_columns
        As in `nomad_dask.sources.open_source`.

    Raises
    ------
    MissingInputError
        A path or pattern leads to no file.
    InputError
        The files cannot be read as vectors, or something is not a file.
    """
    columns = _Columns(column, metadata_columns)
    locations = [given.given_path(path) for path in paths]
    first = os.fsdecode(paths[0])
    name = first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
    local = [path for path in locations if isinstance(path, Path)]
    urls = [path for path in locations if isinstance(path, str)]
    if urls and local:
        raise InputError(f"{name}: give either paths or URLs, not both.")
    if len(urls) == 1:
        return _open_url(urls[0], columns)
    if urls:
        return _open_urls(urls, columns, name)
    if len(local) == 1 and _is_zarr(local[0]):
        return _open_zarr(local[0], columns, name)
    files = [file for path in local for file in _expand(path)]
    source = _open_files(files, columns, name)
    source.locations = tuple(str(path.absolute()) for path in local if path not in files)
    return source


def _is_zarr(path: Path) -> bool:
    return any(os.path.lexists(path / name) for name in _ZARR_FILES)


def _open_zarr(location: Path | str, columns: _Columns, name: str) -> Source:
    from nomad_dask.sources.zarr import ZarrSource

    columns.refuse(name)
    return ZarrSource(location)


def _expand(path: Path) -> list[Path]:
    """Return the files that a path, a directory or a pattern stands for."""
    status = given.path_status(path)
    if status is not None or not given.is_pattern(path):
        status = given.existing_status(path)
        return _data_files(path) if stat.S_ISDIR(status.st_mode) else [path]
    matches = given.match_pattern(path)
    if not matches:
        raise MissingInputError(f"no file matches {path}: check the pattern.")
    files = []
    for match in matches:
        given.path_status(match)  # raises an error for a link that leads nowhere
        files += _data_files(match, required=False) if match.is_dir() else [match]
    if not files:
        raise InputError(f"the directories that match {path} contain no .npy or Parquet files: check the pattern.")
    return given.sort_by_name(dict.fromkeys(files))  # ** matches directories and the files in them


def _data_files(folder: Path, required: bool = True) -> list[Path]:
    """Return the Parquet files in a directory, or else the ``.npy`` files."""
    if _is_zarr(folder):
        raise InputError(f"{folder} is a zarr array, which cannot be read with other files: give it alone.")
    files = given.find_files(folder)
    parquet = [file for file in files if file.suffix.lower() in _PARQUET_SUFFIXES]
    npy = [file for file in files if file.suffix.lower() == _NPY_SUFFIX]
    if parquet and npy:
        raise InputError(
            f"{folder} contains Parquet files, such as {parquet[0].name}, and .npy files, such as {npy[0].name}: give "
            f"one of them, or a pattern such as {folder / '*.parquet'}."
        )
    if required and not parquet and not npy:
        raise InputError(f"{folder} {_NO_DATA}")
    return parquet or npy


def _open_files(files: Sequence[Path], columns: _Columns, name: str) -> FileSource:
    """Open local files, all of one format."""
    formats = [_file_format(file, str(file)) for file in files]
    if formats[0] == "npy":
        from nomad_dask.sources.npy import NpySource

        columns.refuse(name)
        _check_one_format(files, formats)
        return _of_npy_files([NpySource(file) for file in files], name)
    _check_one_format(files, formats)
    from nomad_dask.sources.parquet import ParquetSource

    return ParquetSource(files, *columns, name)


def _check_one_format(files: Sequence[Path | str], formats: Sequence[str]) -> None:
    for file, found in zip(files, formats, strict=True):
        if found != formats[0]:
            raise InputError(
                f"{files[0]} is a {formats[0]} file, and {file} is a {found} file: give files of one format."
            )


def _of_npy_files(files: Sequence[Any], name: str) -> FileSource:
    from nomad_dask.sources.npy_files import NpyFilesSource

    if len(files) > 1:
        return NpyFilesSource(files, name)
    only: FileSource = files[0]
    return only


def _file_format(file: Path | str, name: str, size: int | None = None) -> str:
    """Return the format of a file, from its suffix or else its first bytes."""
    path = PurePosixPath(file.partition("?")[0]) if isinstance(file, str) else file
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        return "Parquet"
    if path.suffix.lower() == _NPY_SUFFIX and isinstance(file, str):
        return "npy"
    magic = _first_bytes(file, size)
    if magic.startswith(b"PAR1"):
        return "Parquet"
    if path.suffix.lower() == _NPY_SUFFIX or magic == b"\x93NUMPY":
        return "npy"
    raise InputError(f"{name} is neither a .npy nor a Parquet file: {_FORMATS}.")


def _first_bytes(file: Path | str, size: int | None) -> bytes:
    if isinstance(file, str):
        from nomad_dask.sources.fsspec import read_range

        return with_retries(lambda: read_range(file, 0, min(6, size or 0)), file)
    with translate_io_errors(str(file)), given.open_regular(file) as f:
        return f.read(6)


def _open_url(url: str, columns: _Columns) -> Source:
    """Open an object, a directory or a pattern through fsspec."""
    from nomad_dask.sources import fsspec

    if given.is_pattern(url) and fsspec.protocol_of(url) not in ("http", "https"):
        objects = fsspec.match(url)
        if not objects:
            raise MissingInputError(f"no object matches {url}: check the pattern.")
        return _open_objects(objects, columns, url)
    info = fsspec.info(url)
    if info["type"] != "directory":
        return _open_objects({url: info}, columns, url)
    folder = url.rstrip("/")
    if any(fsspec.exists(f"{folder}/{name}") for name in _ZARR_FILES):
        return _open_zarr(folder, columns, folder)
    objects = {
        u: info
        for u, info in fsspec.find(folder).items()
        if u.lower().endswith((*_PARQUET_SUFFIXES, _NPY_SUFFIX))
        and not any(part.startswith((".", "_")) for part in u[len(folder) :].split("/"))
    }
    if not objects:
        raise InputError(f"{url} {_NO_DATA}")
    return _open_objects(objects, columns, url)


def _open_urls(urls: Sequence[str], columns: _Columns, name: str) -> Source:
    """Open several objects in the given order."""
    from nomad_dask.sources import fsspec

    infos = [fsspec.info(url) for url in urls]
    for url, info in zip(urls, infos, strict=True):
        if info["type"] == "directory":
            raise InputError(f"{url} is a directory: give its files, or the directory alone.")
    return _open_objects(dict(zip(urls, infos, strict=True)), columns, name, sort=False)


def _open_objects(objects: Mapping[str, dict[str, Any]], columns: _Columns, name: str, sort: bool = True) -> FileSource:
    """Open objects behind URLs, all of one format."""
    from nomad_dask.sources import fsspec
    from nomad_dask.sources.files import remote_file_stat

    urls = given.sort_by_name(objects) if sort else list(objects)
    formats = [_file_format(url, url, fsspec.size(objects[url], url)) for url in urls]
    _check_one_format(urls, formats)
    if formats[0] == "npy":
        from nomad_dask.sources.npy import RemoteNpySource

        columns.refuse(name)
        return _of_npy_files([RemoteNpySource(url) for url in urls], name)
    from nomad_dask.sources.parquet import RemoteParquetSource

    states = [remote_file_stat(objects[url], url) for url in urls]
    return RemoteParquetSource(urls, *columns, name, states)
