"""Paths that are written: which ones are accepted, and that none of them would damage what is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path

from nomad_dask.errors import InputError
from nomad_dask.storage.regular_files import real_path

# Linux accepts names of 255 and paths of 4,096 bytes. Temporary files and the default workspace have longer ones.
_MAX_NAME_BYTES = 245
_MAX_PATH_BYTES = 3900
# Longer paths are cut in messages.
_SHOWN = 300
_Identity = tuple[int, int]


def output_path(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of something that is written, with ``~`` expanded.

    Parameters
    ----------
    path : path-like
    what : str
        What is written, for messages, such as ``"output"``.

    Raises
    ------
    InputError
        The path is empty, too long, or no text.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise InputError(f"The {what} {path!r} is not a path: give text such as 'map.parquet', or a pathlib.Path.")
    text = os.fspath(path)
    if not text.strip():
        raise InputError(f"The path of the {what} is empty: give a name. An unset shell variable is empty, too.")
    expanded = Path(text)
    with suppress(RuntimeError):  # no such user: a name that begins with ~
        expanded = expanded.expanduser()
    problem = _find_problem(str(expanded.absolute()))
    if problem is not None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise InputError(f"The {what} {shown!r} is not accepted: {problem}.")
    return expanded


def _find_problem(path: str) -> str | None:
    """Return what is wrong with an absolute path, and what to do; None for a path that is accepted."""
    if "\0" in path:
        return "it has a null character, leave it out"
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8, give one that is"
    longest = max((len(part) for part in encoded.split(b"/")), default=0)
    if longest > _MAX_NAME_BYTES:
        return f"it has a name of {longest} bytes, give one of at most {_MAX_NAME_BYTES}"
    if len(encoded) > _MAX_PATH_BYTES:
        return f"it has {len(encoded)} bytes, give a path of at most {_MAX_PATH_BYTES}"
    return None


@dataclass(frozen=True)
class Target:
    """A path that a command writes.

    Attributes
    ----------
    what : str
        What is written, for messages, such as ``"output"``.
    path : Path
    is_directory : bool
    """

    what: str
    path: Path
    is_directory: bool = False


def check_targets(targets: Sequence[Target], sources: Iterable[str]) -> None:
    """Refuse targets that would replace a source, be read as part of it, contain it, or replace each other.

    Paths are compared as the file system resolves them: through links, hard links and other mounts.

    Parameters
    ----------
    targets : sequence of Target
    sources : iterable of str
        Files, directories and patterns that are read.

    Raises
    ------
    InputError
    """
    for first, second in combinations(targets, 2):
        _check_apart(first, second)
        _check_apart(second, first)
    read = _Sources.of(sources)
    for target in targets:
        problem = read.find_conflict(target)
        if problem is not None:
            raise InputError(
                f"The {target.what} {str(target.path)!r} {problem}: the source would be lost or changed. Give a path "
                f"outside the source."
            )


def _check_apart(outer: Target, inner: Target) -> None:
    """Refuse a target that is another one, or lies in the directory of another one."""
    identity = _identify(outer.path)
    if _places(outer.path) & _places(inner.path) or (identity is not None and identity == _identify(inner.path)):
        problem = "is also"
    elif outer.is_directory and any(real_path(outer.path) in place.parents for place in _places(inner.path)):
        problem = "lies in"
    else:
        return
    raise InputError(
        f"The {inner.what} {str(inner.path)!r} {problem} the {outer.what} {str(outer.path)!r}: give each its own path."
    )


@dataclass(frozen=True)
class _Sources:
    """What is read: files and directories by device and inode, the directories above them, and patterns."""

    files: dict[_Identity, str]
    folders: dict[_Identity, str]
    above: dict[_Identity, str]
    patterns: list[Path]

    @classmethod
    def of(cls, paths: Iterable[str]) -> _Sources:
        found = cls({}, {}, {}, [])
        parents: dict[Path, str] = {}
        for path in paths:
            try:
                status = Path(path).stat()
            except (OSError, ValueError):
                found.patterns.append(Path(path).absolute())
                continue
            members = found.folders if stat.S_ISDIR(status.st_mode) else found.files
            members[(status.st_dev, status.st_ino)] = path
            parents.setdefault(real_path(Path(path)).parent, path)
        for parent, path in parents.items():
            found.above.update(dict.fromkeys(_identities_up(parent), path))
        return found

    def find_conflict(self, target: Target) -> str | None:
        """Return in words how a target conflicts with the sources; None if it does not."""
        own = _identify(target.path)
        read = self.files | self.folders
        if own is not None and own in read:
            return f"is the source {read[own]!r}, or another name of it"
        for place in _places(target.path):
            for identity in _identities_up(place.parent):
                if identity in self.folders:
                    return f"lies in the source {self.folders[identity]!r}"
            for pattern in self.patterns:
                if _would_match(pattern, place, target.is_directory):
                    return f"matches the source {str(pattern)!r}"
        if target.is_directory and own is not None and own in self.above:
            return f"contains the source {self.above[own]!r}"
        return None


def _places(path: Path) -> set[Path]:
    """Return the resolved path, and the name that a new file replaces: that of the path itself, if it is a link."""
    absolute = path.absolute()
    return {real_path(absolute), real_path(absolute.parent) / absolute.name}


def _identify(path: Path) -> _Identity | None:
    """Return device and inode of what a path leads to; None if there is nothing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _identities_up(folder: Path) -> Iterator[_Identity]:
    """Yield device and inode of a directory and of those above it, as far as they exist."""
    for path in (folder, *folder.parents):
        identity = _identify(path)
        if identity is not None:
            yield identity


def _would_match(pattern: Path, place: Path, is_directory: bool) -> bool:
    """Return whether a pattern would match a new file of this name, or files in a new directory of this name."""
    parent = _identify(place.parent)
    parts = pattern.parts
    positions = range(1, len(parts)) if is_directory else [len(parts) - 1]
    return any(
        (parts[i] == "**" or fnmatchcase(place.name, parts[i]))
        and not (is_directory and i == len(parts) - 1)
        and any(_identify(folder) == parent for folder in _expand(parts[:i]))
        for i in positions
    )


def _expand(parts: Sequence[str]) -> Iterable[Path]:
    """Return the directories that the first parts of a pattern match."""
    fixed = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), len(parts))
    base = Path(*parts[:fixed])
    return [base] if fixed == len(parts) else base.glob(str(Path(*parts[fixed:])))
