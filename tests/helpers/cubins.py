"""Compiles all kernels to machine code without a GPU, and lists the resources of each.

``python tests/helpers/cubins.py --output benchmarks/results/cubins.md``
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.runtime import BLOCK

ARCHITECTURES = {"sm_80": "A100", "sm_90": "H100, H200", "sm_100": "B200"}
DIMS = (2, 3)
CUPY_OPTIONS = ("--ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of the program."""
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
# All three architectures: a 32-bit register file of 64 Ki a multiprocessor, given to warps in steps of 256.
_REGISTER_FILE = 1 << 16
_REGISTER_STEP = 256
_WARPS = 64


@dataclass(frozen=True)
class Needs:
    """The resources of one kernel, as reported by ptxas.

    Attributes
    ----------
    spilled : int
        Bytes of registers stored to and loaded from memory.
    """

    kernel: str
    architecture: str
    dim: int
    registers: int
    stack: int
    spilled: int
    shared: int

    @property
    def occupancy(self) -> float:
        """Fraction of the warps of a multiprocessor that fit in its registers."""
        a_warp = -(-self.registers * 32 // _REGISTER_STEP) * _REGISTER_STEP
        return min(1.0, _REGISTER_FILE // (a_warp * BLOCK // 32) * (BLOCK // 32) / _WARPS)


def compiler_options(architecture: str, dim: int) -> Any:
    """Return the options that NVRTC gets from `CudaRuntime` and from CuPy, and a report of registers."""
    from cuda.core import ProgramOptions

    return ProgramOptions(
        std="c++17", arch=architecture, define_macro=("DIM", str(dim)), ptxas_options="-v",
        ftz=True, device_as_default_execution_space=True,
    )  # fmt: skip


def compile_file(path: Path, architecture: str, dim: int) -> tuple[bytes, list[Needs]]:
    """Return the cubin of one source file, and the resources of each kernel in it."""
    from cuda.core import Program

    log = io.StringIO()
    cubin = Program(kernel_source(path), "c++", compiler_options(architecture, dim)).compile("cubin", logs=log)
    return bytes(cubin.code), _read_log(log.getvalue(), architecture, dim)


def _read_log(log: str, architecture: str, dim: int) -> list[Needs]:
    parts = _ENTRY.split(log)[1:]
    needs = []
    for kernel, text in zip(parts[::2], parts[1::2], strict=True):
        spills, registers, shared = _SPILLS.search(text), _REGISTERS.search(text), _SHARED.search(text)
        if spills is None or registers is None:
            raise ValueError(f"ptxas says nothing of {kernel}'s registers:\n{text}")
        stack, stores, loads = map(int, spills.groups())
        needs.append(
            Needs(kernel, architecture, dim, int(registers[1]), stack, stores + loads, int(shared[1]) if shared else 0)
        )
    return needs


def compile_all() -> list[Needs]:
    """Return the resources of all kernels on all architectures, in two and three dimensions."""
    files = sorted(set(kernel_files().values()))
    return [
        needs
        for path in files
        for architecture in ARCHITECTURES
        for dim in DIMS
        for needs in compile_file(path, architecture, dim)[1]
    ]


def table(all_needs: Iterable[Needs]) -> str:
    """Render the resources as Markdown: a row per kernel and dimension, a column per architecture."""
    found = {(n.kernel, n.dim, n.architecture): n for n in all_needs}
    columns = list(ARCHITECTURES)
    lines = [
        f"| kernel | map | {' | '.join(f'registers {a}' for a in columns)} | occupancy sm_90 | shared | spilled |",
        f"|---|---|{'---:|' * (len(columns) + 3)}",
    ]
    for file in sorted(set(kernel_files().values())):
        for kernel in (name for name, path in kernel_files().items() if path == file):
            for dim in DIMS:
                each = [found[kernel, dim, a] for a in columns]
                hopper = found[kernel, dim, "sm_90"]
                lines.append(
                    f"| {file.stem}.{kernel} | {dim}-D | {' | '.join(str(n.registers) for n in each)} "
                    f"| {hopper.occupancy:.0%} | {hopper.shared} | {max(n.spilled for n in each)} |"
                )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the table; 1 if a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="file to write, else to stdout")
    output = parser.parse_args().output
    from importlib.metadata import version

    needs = compile_all()
    machines = ", ".join(f"{a} ({name})" for a, name in ARCHITECTURES.items())
    text = (
        "# What the kernels need\n\n"
        f"Compiled without a GPU by NVRTC {version('nvidia-cuda-nvrtc')} for {machines}: not a measurement of speed. "
        f"Occupancy is what registers admit in blocks of {BLOCK} threads; shared memory and spills in bytes, spills "
        "of the worst architecture.\n\n" + table(needs)
    )
    if output:
        output.write_text(text)
    else:
        sys.stdout.write(text)
    return int(any(n.spilled for n in needs))


if __name__ == "__main__":
    sys.exit(main())
