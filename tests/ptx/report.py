"""What is wrong with a kernel, in words."""

from __future__ import annotations

import ctypes

import numpy as np

from tests.ptx.encode import GLOBAL_SHIFT, SHARED_SHIFT, Program


class KernelError(RuntimeError):
    """A kernel did what CUDA leaves undefined."""


class Fault(ctypes.Structure):
    """As arithmetic.h has it."""

    _fields_ = (
        ("wrong", ctypes.c_int32),
        ("instruction", ctypes.c_int32),
        ("other", ctypes.c_int32),
        ("thread", ctypes.c_int32),
        ("block", ctypes.c_int64),
        ("detail", ctypes.c_uint64),
    )


_MESSAGES = (
    "",
    "access outside of all arrays, to byte {beyond}",
    "misaligned access",
    "race: no barrier separates it from {other}",
    "data that is read as constant is written, by this or by {other}",
    "shared memory is read before it is written",
    "lane {lane} is not in its own mask {detail:08x}",
    "shuffle from lane {detail}, which is not in the mask",
    "waits for threads that do not come: {detail} have ended{waiting}",
    "another thread of the block waits at {other}",
    "division by zero",
    "the compiler left out what follows, because it is undefined",
)


def describe(program: Program, fault: Fault, regions: np.ndarray) -> str:
    """Return a message with the instruction and the line of the CUDA text that is at fault.

    Parameters
    ----------
    regions : array (n, 3)
        As `run` makes them, to say how far an access is outside.
    """

    def place(number: int) -> str:
        written = program.written[number]
        line = f"`{program.source.splitlines()[written.line - 1].strip()}` " if written.line else ""
        return f"{line}({written})"

    other = place(fault.other) if fault.other >= 0 else ""
    shared = ".shared." in program.written[fault.instruction].name
    message = _MESSAGES[fault.wrong].format(
        other=other,
        lane=fault.thread % 32,
        detail=fault.detail,
        waiting=other and f", others wait at {other}",
        beyond=_beyond_shared(program, fault.detail) if shared else _beyond_global(regions, fault.detail),
    )
    where = f"block {fault.block}, thread {fault.thread}"
    return f"{program.kernel.name}: {where}, {place(fault.instruction)}: {message}"


def _beyond_global(regions: np.ndarray, address: int) -> str:
    number = (address >> GLOBAL_SHIFT) - 1
    if not 0 <= number < len(regions):
        return f"{address:#x} of memory"
    seen, size, _ = regions[number].tolist()
    return f"{address - seen} of {size}"


def _beyond_shared(program: Program, address: int) -> str:
    number = (address >> SHARED_SHIFT) - 1
    arrays = list(program.kernel.shared.items())
    if not 0 <= number < len(arrays):
        return f"{address:#x} of shared memory"
    name, size = arrays[number]
    return f"{address - ((number + 1) << SHARED_SHIFT)} of {size} of {name}"
