"""CUDA text to PTX, as CuPy compiles it on a GPU."""

from __future__ import annotations

from typing import Any

from tests.helpers.cubins import CUPY_OPTIONS


def compile_to_ptx(name: str, source: str, dim: int) -> str:
    """Compile CUDA text for an H100, with the options of `CudaRuntime` and of CuPy.

    Line numbers are added; they do not change the instructions.
    """
    from cuda.bindings import nvrtc

    options = ["-std=c++17", f"-DDIM={dim}", *CUPY_OPTIONS, "-arch=compute_90", "-lineinfo"]
    program = _call(nvrtc.nvrtcCreateProgram, source.encode(), name.encode(), 0, [], [])
    try:
        error, *_ = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if error:
            log = bytearray(_call(nvrtc.nvrtcGetProgramLogSize, program))
            _call(nvrtc.nvrtcGetProgramLog, program, log)
            raise RuntimeError(f"NVRTC does not compile {name}:\n{_text(log)}")
        text = bytearray(_call(nvrtc.nvrtcGetPTXSize, program))
        _call(nvrtc.nvrtcGetPTX, program, text)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return _text(text)


def _call(function: Any, *args: Any) -> Any:
    error, *results = function(*args)
    if error:
        raise RuntimeError(f"{function.__name__} fails with {error.name}")
    return results[0] if results else None


def _text(written: bytearray) -> str:
    return written.decode().rstrip("\0")
