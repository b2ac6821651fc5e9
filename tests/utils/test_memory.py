"""Sizes as text, and available memory with limits of control groups, versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from nomad_dask.errors import InputError
from nomad_dask.utils.memory import available_memory, parse_bytes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * GIB // 2), ("512MiB", 512 << 20), (" 64k ", 64_000), (12345, 12345),
     ("4096", 4096), ("2g", 2 * 10**9), ("1TiB", 1 << 40), (None, None)],
)  # fmt: skip
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "2 GB of it", "-1GB", "0", 0, "1e9", "2XB", True, "nan"])
def test_what_is_not_a_size_is_refused(text):
    with pytest.raises(InputError, match="give a size such as 2GB"):
        parse_bytes(text)


def groups(root: Path, lines: str, files: dict[str, object]) -> Path:
    """Create the files in which a process sees its control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, value in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def test_a_limit_of_the_second_version(tmp_path):
    root = groups(
        tmp_path,
        "0::/jobs/one\n",
        {
            "jobs/one/memory.max": "max", "jobs/one/memory.current": 5, "jobs/one/memory.stat": "inactive_file 0",
            "jobs/memory.max": GIB, "jobs/memory.current": 300 << 20,
            "jobs/memory.stat": f"anon 7\ninactive_file {100 << 20}",
        },
    )  # fmt: skip
    assert available_memory(root) == GIB - (200 << 20)


def test_a_limit_of_the_first_version_seen_from_a_container(tmp_path):
    root = groups(
        tmp_path,
        "9:name=systemd:/x\n4:memory:/outside/of/the/container\n0::/\n",
        {
            "memory/memory.limit_in_bytes": GIB, "memory/memory.usage_in_bytes": GIB // 2,
            "memory/memory.stat": "total_inactive_file 0",
        },
    )  # fmt: skip
    assert available_memory(root) == GIB // 2


def test_no_limit_is_what_the_machine_has(tmp_path):
    unlimited = {
        "memory/memory.limit_in_bytes": 0x7FFFFFFFFFFFF000, "memory/memory.usage_in_bytes": GIB,
        "memory/memory.stat": "total_inactive_file 0",
    }  # fmt: skip
    root = groups(tmp_path / "a", "4:memory:/\n", unlimited)
    for place in (root, tmp_path / "no such root"):
        assert available_memory(place) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
