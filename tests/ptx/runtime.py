"""The GPU runtime on a machine without a GPU: the PTX of the kernels, run by the machine that looks for faults."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nomad_dask.backends.gpu.kernel_files import kernel_files, kernel_source
from nomad_dask.backends.gpu.runtime import BLOCK, count_blocks
from tests.helpers.host_runtime import HostRuntime
from tests.ptx.build import machine
from tests.ptx.encode import GLOBAL_SHIFT, Program, encode
from tests.ptx.nvrtc import compile_to_ptx
from tests.ptx.parse import parse
from tests.ptx.report import Fault, KernelError, describe

# The lowest bits of an address are those of the array's, which say how it is aligned.
_LOW_BITS = 0xFF
# An access so many bytes before an array is reported as one to it, not as one far beyond the array before.
_BYTES_BEFORE = 1 << 20
_BYTES = {"u32": 4, "f32": 4, "u64": 8, "f64": 8}


class _Launch(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("n_blocks", ctypes.c_int64),
        ("n_slots", ctypes.c_int32),
        ("n_arrays", ctypes.c_int32),
        ("n_shared", ctypes.c_int32),
        ("n_threads", ctypes.c_int32),
        ("thread_slot", ctypes.c_int32),
        ("block_slot", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
    )


def compile_programs(name: str, source: str, dim: int) -> dict[str, Program]:
    """Return the kernels of a CUDA text by name, ready to run."""
    kernels = parse(compile_to_ptx(name, source, dim))
    return {kernel.name: encode(kernel, source) for kernel in kernels.values()}


def run(program: Program, n_blocks: int, args: Sequence[Any], seed: int = 0) -> None:
    """Run a kernel on arrays, NumPy scalars and None.

    Parameters
    ----------
    seed : int
        0 runs blocks and threads in order, each until it waits; any other number in a random order, in short turns.

    Raises
    ------
    KernelError
        The kernel did what CUDA leaves undefined.
    """
    parameters = program.kernel.parameters
    if len(args) != len(parameters):
        raise TypeError(f"{program.kernel.name}: takes {len(parameters)} arguments, got {len(args)}")
    regions = _regions([a for a in args if isinstance(a, np.ndarray)])
    slots = program.slots.copy()
    slots[program.places["%ntid.x"]], slots[program.places["%nctaid.x"]] = BLOCK, n_blocks
    for place, ((name, kind), value) in enumerate(zip(parameters.items(), args, strict=True), 1):
        bits = _bits(value, regions)
        if len(bits) != _BYTES[kind]:
            raise TypeError(f"{program.kernel.name}: argument {place} has {len(bits)} bytes, the kernel takes {kind}")
        slots[program.places[name]] = int.from_bytes(bits, "little")
    shared = np.array(list(program.kernel.shared.values()), np.uint64)
    launch = _Launch(
        program.code.ctypes.data, slots.ctypes.data, regions.ctypes.data, shared.ctypes.data, n_blocks,
        len(slots), len(regions), len(shared), BLOCK, program.places["%tid.x"], program.places["%ctaid.x"], seed,
    )  # fmt: skip
    fault = Fault()
    machine().ptx_run(ctypes.byref(launch), ctypes.byref(fault))
    if fault.wrong:
        raise KernelError(describe(program, fault, regions))


def _regions(arrays: list[np.ndarray]) -> np.ndarray:
    """Return (n, 3): where the kernel sees each piece of memory, its bytes, and where it is.

    Arrays that overlap are parts of the same piece.
    """
    pieces: list[list[int]] = []
    for start, stop in sorted((a.ctypes.data, a.ctypes.data + a.nbytes) for a in arrays):
        if pieces and start < pieces[-1][1]:
            pieces[-1][1] = max(stop, pieces[-1][1])
        else:
            pieces.append([start, stop])
    seen = [
        (number << GLOBAL_SHIFT) + _BYTES_BEFORE + (start & _LOW_BITS) for number, (start, _) in enumerate(pieces, 1)
    ]
    rows = [(address, stop - start, start) for address, (start, stop) in zip(seen, pieces, strict=True)]
    return np.array(rows, np.uint64).reshape(-1, 3)


def _bits(value: Any, regions: np.ndarray) -> bytes:
    if value is None:
        return bytes(8)
    if isinstance(value, np.generic):
        return value.tobytes()
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous:
        raise TypeError(f"pass contiguous arrays, None or NumPy scalars, not {value!r:.60}")
    address = value.ctypes.data
    for seen, size, start in regions.tolist():
        if start <= address <= start + size and address + value.nbytes <= start + size:
            return (seen + address - start).to_bytes(8, "little")
    raise AssertionError("every array has a region")


@dataclass(frozen=True)
class PtxRuntime(HostRuntime):
    """The host runtime, with the PTX of the kernels in place of their host build."""

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        """Run a kernel; see `Runtime`."""
        run(_programs(kernel_files()[kernel], dim)[kernel], count_blocks(n_items), args, self.seed)


@lru_cache
def _programs(path: Path, dim: int) -> dict[str, Program]:
    return compile_programs(path.name, kernel_source(path), dim)
