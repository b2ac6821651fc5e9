"""Runs Python under the tools of compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

FOUND_ERRORS = 99
"""Exit code if a tool found errors."""


def find_sanitizer() -> str | None:
    """Return the program, which comes with the CUDA toolkit; None if it is not installed."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitize(
    program: str, tool: str, kernels: list[str], arguments: list[str], limit: float
) -> subprocess.CompletedProcess[str]:
    """Run Python under one of the tools, which checks only these kernels, for at most `limit` seconds."""
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS), "--print-limit", "20"]
    # Kernels of libraries, and calls of the runtime that fail by design, are not checked.
    command += [part for name in kernels for part in ("--kernel-name", f"kne={name}")]
    if tool == "memcheck":
        command += ["--report-api-errors", "no", "--padding", "64"]
    return subprocess.run(
        [*command, sys.executable, *arguments], capture_output=True, text=True, timeout=limit, check=False
    )
