"""Every kernel compiles to machine code for every architecture, and keeps its numbers in registers."""

import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core, cuda-bindings and nvidia-cuda-nvrtc")

from nomad_dask.backends.gpu.kernel_files import kernel_files
from tests.helpers.cubins import ARCHITECTURES, CUPY_OPTIONS, DIMS, compile_file, compiler_options, table

FILES = sorted(set(kernel_files().values()))


@pytest.fixture(scope="module")
def compiled():
    return {(p, a, d): compile_file(p, a, d) for p in FILES for a in ARCHITECTURES for d in DIMS}


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_compiles_without_spills(compiled, path, architecture, dim):
    cubin, needs = compiled[path, architecture, dim]
    assert cubin[:4] == b"\x7fELF"
    assert {n.kernel for n in needs} == {name for name, where in kernel_files().items() if where == path}
    assert {n.kernel: n.spilled for n in needs if n.spilled} == {}


def test_options_are_those_of_a_program_in_cupy():
    options = [option.decode() for option in compiler_options("sm_90", 3).as_bytes("nvrtc")]
    program = ["-arch=sm_90", "--define-macro=DIM=3", "--std=c++17"]
    assert sorted(options) == sorted([*program, *CUPY_OPTIONS, "--ptxas-options=-v"])


def test_table_has_every_kernel(compiled):
    lines = table(n for _, needs in compiled.values() for n in needs).splitlines()
    assert len(lines) == 2 + len(kernel_files()) * len(DIMS)
