"""The formats of tables on disk: Parquet, Arrow (also called Feather) and CSV, told apart by suffix or content."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from nomad_dask.errors import InputError, MissingInputError

Format = Literal["Parquet", "Arrow", "CSV"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "Parquet",
    ".parq": "Parquet",
    ".pq": "Parquet",
    ".feather": "Arrow",
    ".arrow": "Arrow",
    ".csv": "CSV",
}
_MAGIC: tuple[tuple[bytes, Format], ...] = ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"))
_FEATHER_1 = b"FEA1"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def format_to_write(path: Path) -> Format:
    """Return the format that the suffix of a new file stands for.

    Raises
    ------
    InputError
        The suffix stands for no format.
    """
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        ending = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise InputError(
            f"The output {str(path)!r} {ending}: use a name ending in .parquet, .csv, .feather or .arrow; the "
            "suffix chooses the format."
        )
    return found


def check_suffix(path: Path, kind: Format) -> None:
    """Check that the name of a new file does not promise another format than the given one.

    Raises
    ------
    InputError
    """
    named = _SUFFIXES.get(path.suffix.lower())
    # Without its suffix, CSV is not recognized.
    if named != kind and (named is not None or kind == "CSV"):
        suffixes = " or ".join(suffix for suffix, found in _SUFFIXES.items() if found == kind)
        raise InputError(f"{str(path)!r} is not a name for a file in the format {kind}: use one ending in {suffixes}.")


def format_of_file(path: Path, what: str) -> Format:
    """Return the format of an existing file, from its first bytes or else its suffix.

    Parameters
    ----------
    path : Path
    what : str
        What the file should be, for messages.

    Raises
    ------
    MissingInputError
        The file does not exist.
    InputError
        It is not a regular file, cannot be opened, or has no format that is known.
    """
    start = _first_bytes(path, what)
    for magic, found in _MAGIC:
        if start.startswith(magic):
            return found
    if start.startswith(_FEATHER_1):
        raise InputError(
            f"{str(path)!r} is in version 1 of Feather, which is no longer read: write it again, as with "
            "pyarrow.feather.write_feather."
        )
    suffix = _SUFFIXES.get(path.suffix.lower())
    if suffix is None:
        raise InputError(
            f"{str(path)!r} cannot be read as Parquet or Arrow, and its name does not end in .csv: give a {what} in "
            "one of these formats."
        )
    return suffix


def _first_bytes(path: Path, what: str) -> bytes:
    """Return the first bytes of a regular file; a FIFO is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingInputError(
            f"The {what} {str(path)!r} does not exist: give a file written by 'nomad-dask fit', or another table with "
            "the columns x and y."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"The {what} {str(path)!r} cannot be opened ({error}): give a file that can be read."
        ) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = next((text for is_kind, text in _KINDS if is_kind(mode)), "no regular file")
            raise InputError(f"{str(path)!r} is {kind}: give a {what}, a regular file.")
        return os.read(descriptor, 8)
    finally:
        os.close(descriptor)
