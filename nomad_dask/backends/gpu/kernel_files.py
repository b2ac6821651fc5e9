"""The source files of the kernels."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

_KERNELS = Path(__file__).with_name("kernels")
_INCLUDE = re.compile(r'^[ \t]*#include "([\w.]+)"[^\n]*$', re.MULTILINE)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")


@lru_cache
def kernel_files() -> dict[str, Path]:
    """Return the source file of each kernel by the kernel's name."""
    return {name: path for path in sorted(_KERNELS.glob("*.cu")) for name in _KERNEL.findall(path.read_text())}


@lru_cache
def kernel_source(path: Path) -> str:
    """Return the text of a source file with the package's own headers inlined.

    The compiler would find the headers too, but CuPy's cache on disk identifies a program by this text alone: a
    changed header would go unnoticed.
    """
    return _INCLUDE.sub(lambda include: kernel_source(path.with_name(include[1])), path.read_text())
