"""C++ text as a library that Python calls, compiled once for all test processes and runs."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.helpers.compiled_kernels import locked


def cpp_library(
    name: str, source: str, flags: tuple[str, ...], folders: tuple[Path, ...], included: tuple[str, ...]
) -> ctypes.CDLL:
    """Compile C++ with g++, unless the same was compiled before, and load it.

    Parameters
    ----------
    name : str
        Beginning of the library's file name; one process at a time compiles libraries of the same name.
    source : str
        Names the files that it includes without their folders: a library is the same wherever they are.
    folders : tuple of Path
        Where those files are.
    included : tuple of str
        The texts of those files.
    """
    version = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout
    digest = hashlib.sha256("\0".join([source, version, *flags, *included]).encode()).hexdigest()[:24]
    cache = Path(tempfile.gettempdir()) / f"nomad-dask-host-kernels-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    library = cache / f"{name}-{digest}.so"
    with locked(cache / f"{name}.lock"):
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}.tmp")
            searched = [f"-I{folder}" for folder in folders]
            command = ["g++", *flags, *searched, "-x", "c++", "-", "-o", str(made)]
            done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"g++ does not compile {name} with {' '.join(flags)}:\n{done.stderr}")
            made.replace(library)
    return ctypes.CDLL(str(library))
