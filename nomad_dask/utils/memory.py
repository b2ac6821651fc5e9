"""How much memory a process may use: of the machine, and of the control group it runs in."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

from nomad_dask.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(size: int | str | None) -> int | None:
    """Return a number of bytes, from such a number or a text such as ``"2GB"`` or ``"1.5 GiB"``.

    Raises
    ------
    InputError
    """
    if size is None:
        return None
    text = str(size).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?", text)
    if isinstance(size, bool) or found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise InputError(f"memory={size!r} is not a size: give one such as 2GB, 1.5GiB or a number of bytes.")
    return int(float(found[1]) * _UNITS[found[2]])


def trim_memory() -> None:
    """Return what this process has freed to the system, which glibc keeps for the next time.

    Between stages that is worth its few milliseconds; Dask's own way, a low threshold, costs a third of the layout.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def available_memory(root: Path = Path("/")) -> int:
    """Return the memory in bytes that this process can still take, of the machine and of its control groups.

    Parameters
    ----------
    root : Path
        Of the file system, for tests.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_rooms_of_groups(root)])


def _rooms_of_groups(root: Path) -> list[int]:
    """Return what is left below the limit of each memory control group of this process, of both versions."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = top / path.lstrip("/")
        # A container sees its own group at the top, under whatever path.
        for folder in {top, group, *(p for p in group.parents if p.is_relative_to(top))}:
            room = _room(folder, *names)
            if room is not None:
                rooms.append(room)
    return rooms


def _room(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return the limit of a group less what is in use and cannot be taken back; None without a limit."""
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        stats = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The first version writes a number near 2**63 for none.
    if most == "max" or int(most) >= 1 << 60:
        return None
    return max(0, int(most) - max(0, used - int(stats.get(cache, 0))))
