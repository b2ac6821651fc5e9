"""Memory available to a process, limited by the machine and by its control groups."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

from nomad_dask.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(size: int | str | None) -> int | None:
    """Return a number of bytes from a number or a text such as ``"2GB"`` or ``"1.5 GiB"``.

    Raises
    ------
    InputError
        The text is not a size, or the size is zero.
    """
    if size is None:
        return None
    text = str(size).strip().lower()
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([kmgt]?i?)b?", text)
    if isinstance(size, bool) or match is None or match[2] not in _UNITS or float(match[1]) == 0:
        raise InputError(
            f"memory_limit={size!r} is not accepted: give a size such as 2GB, 1.5GiB or a number of bytes."
        )
    return int(float(match[1]) * _UNITS[match[2]])


def trim_memory() -> None:
    """Return memory that this process has freed, and glibc keeps for reuse, to the system.

    This takes a few milliseconds between stages. Dask's own method, a low trim threshold, slows the layout by a third.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def available_memory(root: Path = Path("/")) -> int:
    """Return the memory in bytes that this process can still allocate, within the machine and its control groups.

    Parameters
    ----------
    root : Path
        Root of the file system, for tests.
    """
    import psutil

    return min([int(psutil.virtual_memory().available), *_available_in_groups(root)])


def _available_in_groups(root: Path) -> list[int]:
    """Return the memory left below the limit of each memory control group of this process, of cgroup v1 and v2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return []
    available = []
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
        # In a container, its own group is at the top, whatever the path says.
        for folder in {top, group, *(p for p in group.parents if p.is_relative_to(top))}:
            left = _available_in_group(folder, *names)
            if left is not None:
                available.append(left)
    return available


def _available_in_group(folder: Path, limit_file: str, usage_file: str, cache_key: str) -> int | None:
    """Return the limit of a group less its usage without reclaimable cache, or None if it has no limit."""
    try:
        limit, used = (folder / limit_file).read_text().strip(), int((folder / usage_file).read_text())
        stats = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # cgroup v1 reports a number near 2**63 for no limit.
    if limit == "max" or int(limit) >= 1 << 60:
        return None
    return max(0, int(limit) - max(0, used - int(stats.get(cache_key, 0))))
