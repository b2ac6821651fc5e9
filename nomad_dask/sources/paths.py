"""Paths as they are given: which files they stand for, and that these are files and not pipes or devices."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from nomad_dask.errors import InputError, MissingInputError, suggest
from nomad_dask.sources.fsspec import is_url, protocol_of
from nomad_dask.sources.retry import translate_io_errors

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PATTERN = re.compile(r"[*?\[]")
_P = TypeVar("_P", str, Path)


def local_path(url: str) -> str:
    """Return the path of a ``file://`` URL, with or without percent-encoded characters."""
    from urllib.parse import unquote

    path = url.partition("://")[2]
    path = path.removeprefix("localhost") if path.startswith("localhost/") else path
    return path if os.path.lexists(path) else unquote(path)


def given_path(x: str | os.PathLike[str]) -> Path | str:
    """Return a path with ``~`` replaced by the home directory, or a URL that is not one of a local file.

    Raises
    ------
    InputError
        The path is empty or has a null character.
    """
    text = os.fsdecode(x)
    if is_url(text) and protocol_of(text) not in ("file", "local"):
        return text
    text = local_path(text) if is_url(text) else text
    if not text:
        raise InputError(
            f"The path {os.fsdecode(x)!r} is empty: give a file, a directory, a pattern or a URL. "
            "A shell variable in it may not be set."
        )
    if "\0" in text:
        raise InputError(f"The path {text!r} has a null character: give the path of a file.")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)  # there is no such user


def is_pattern(path: str | Path) -> bool:
    """Return whether a path or URL has one of the characters ``*``, ``?`` and ``[``."""
    return _PATTERN.search(str(path)) is not None


def path_status(path: Path) -> os.stat_result | None:
    """Return the status of the file that a path leads to, None if there is nothing of this name.

    Raises
    ------
    MissingInputError, InputError
        It is a symbolic link that leads nowhere, or access is denied.
    """
    try:
        with translate_io_errors(str(path)):
            return path.stat()
    except MissingInputError:
        if not os.path.lexists(path):
            return None
        raise MissingInputError(
            f"{path} is a symbolic link to {str(path.readlink())!r}, which does not exist: restore it or remove it."
        ) from None


def existing_status(path: Path) -> os.stat_result:
    """Return the status of the file that a path leads to.

    Raises
    ------
    MissingInputError
        There is none; the message suggests similar names.
    """
    status = path_status(path)
    if status is not None:
        return status
    folder = path.parent
    if not folder.is_dir():
        raise MissingInputError(f"{path} does not exist, nor does its folder {folder}: check the path.")
    with translate_io_errors(str(folder)):
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    raise MissingInputError(f"{path} does not exist. In {folder}: {suggest(path.name, names)}")


def check_regular(path: str | Path, status: os.stat_result) -> None:
    """Refuse what is not a regular file: reading a pipe or a device may wait or go on for ever.

    Raises
    ------
    InputError
    """
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise InputError(
            f"{path} is {kind}, not a file: write the vectors to a .npy or Parquet file and give its path."
        )


def open_regular(path: str | Path, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading; never wait for a pipe.

    Raises
    ------
    InputError
        It is something else.
    """

    def opener(name: str, flags: int) -> int:
        check_regular(path, Path(name).stat())
        fd = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        try:
            check_regular(path, os.fstat(fd))  # it may have been replaced
        except InputError:
            os.close(fd)
            raise
        return fd

    return open(path, "rb", buffering=buffering, opener=opener)


def match_pattern(pattern: Path) -> list[Path]:
    """Return what a pattern matches, as a shell does: ``*`` matches no hidden names, ``**`` directories of any depth.

    A link to a directory that contains the link is not followed: everything in it is matched without the link.
    """
    base = next(folder for folder in pattern.parents if not is_pattern(folder))
    matches = sort_by_name(map(Path, glob.glob(str(pattern), recursive=True)))  # noqa: PTH207
    return [match for match in matches if not _passes_loop(match, base)]


def _passes_loop(path: Path, base: Path) -> bool:
    """Return whether a directory on the way from `base` to a path contains one before it."""
    seen: list[str] = []
    for folder in [*reversed([p for p in path.parents if p.is_relative_to(base)]), path]:
        if folder == path and not path.is_dir():
            return False
        real = os.path.realpath(folder)
        if any(Path(before).is_relative_to(real) for before in seen):
            return True
        seen.append(real)
    return False


def find_files(folder: Path) -> list[Path]:
    """Return all files in a folder, recursively, also behind links to folders.

    Names that begin with a dot or an underscore are left out: writers hide what is not data by them.

    Raises
    ------
    MissingInputError, InputError
        A link leads nowhere, so that it is not known what is missing; or a folder may not be read.
    """
    return sort_by_name(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    # Each with the folders that it is in, to recognize links to one of them.
    pending = [(folder, frozenset[tuple[int, int]]())]
    while pending:
        current, parents = pending.pop()
        with translate_io_errors(str(current)):
            status = current.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in parents:
                continue
            with os.scandir(current) as entries:
                found = [(entry.name, entry.is_dir(), entry.is_file()) for entry in entries]
        for name, is_folder, is_file in found:
            path = current / name
            if name.startswith((".", "_")):
                continue
            if is_folder:
                pending.append((path, parents | {identity}))
            else:
                if not is_file:
                    path_status(path)  # raises an error for a link that leads nowhere
                yield path


def sort_by_name(paths: Iterable[_P]) -> list[_P]:
    """Sort paths with numbers by value: Dask writes part.9.parquet before part.10.parquet."""
    pieces = re.compile(r"(\d+)")
    return sorted(paths, key=lambda p: [(s.isdecimal(), int(s) if s.isdecimal() else s) for s in pieces.split(str(p))])
