"""Instructions that access memory or other threads, and what is passed to a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ptx.encode import encode
from tests.ptx.parse import PtxError, parse
from tests.ptx.report import KernelError
from tests.ptx.runtime import run

N = 512
SEEDS = (0, 1, 2)
LANES = np.arange(N) % 32
seeds = pytest.mark.parametrize("seed", SEEDS)


def run_ptx(statements: str, arrays: list[Any], seed: int = 0, shared: str = "", kinds: tuple[str, ...] = ()) -> None:
    """Run statements in N threads, whose number is in %r9, with the addresses of the arrays in %rd1, %rd2, ..

    Parameters
    ----------
    kinds : tuple of str
        Types of further parameters q0, .., whose values are the last of `arrays`.
    """
    n = len(arrays) - len(kinds)
    parameters = [f".param .u64 p{i}" for i in range(1, n + 1)] + [f".param .{k} q{i}" for i, k in enumerate(kinds)]
    loads = "".join(f"ld.param.u64 %rd{i}, [p{i}];\n" for i in range(1, n + 1))
    text = f"""
    .visible .entry probe({", ".join(parameters)})
    {{
    {shared}
    mov.u32 %r7, %tid.x; mov.u32 %r8, %ctaid.x; mov.u32 %r6, %ntid.x;
    mad.lo.s32 %r9, %r8, %r6, %r7;
    {loads}
    {statements}
    ret;
    }}
    """
    run(encode(parse(text)["probe"]), N // 256, arrays, seed)


def own(array: int, size: int) -> str:
    """Return statements that move a pointer to the thread's element of an array."""
    return f"mul.wide.u32 %rd9{array}, %r9, {size}; add.s64 %rd{array}, %rd{array}, %rd9{array};\n"


@pytest.mark.parametrize(
    ("kind", "register", "dtype"),
    [
        ("u16", "%r", np.uint16), ("u32", "%r", np.uint32), ("s32", "%rd1", np.int32), ("b32", "%f", np.uint32),
        ("f32", "%f", np.float32), ("u64", "%rd1", np.uint64), ("s64", "%rd1", np.int64), ("f64", "%fd", np.float64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_loads_and_stores(kind, register, dtype, length, space):
    size = np.dtype(dtype).itemsize
    if length * size > 16:
        with pytest.raises(PtxError, match="unknown instruction"):
            run_ptx(f"ld.global.v{length}.{kind} {{%r0, %r1, %r2, %r3}}, [%rd1];", [np.zeros(4)])
        return
    bits = np.random.default_rng(size).integers(0, 256, (N, length * size)).astype(np.uint8)
    source = np.ascontiguousarray(bits).view(dtype)
    out = np.zeros_like(source)
    names = [f"{register}{k}" for k in range(length)]
    of, vector = ("", names[0]) if length == 1 else (f".v{length}", f"{{{', '.join(names)}}}")
    statements = own(1, length * size) + own(2, length * size) + f"ld.global{of}.{kind} {vector}, [%rd1];\n"
    if space == "shared":
        statements += f"""
        mov.u32 %r50, buffer; mad.lo.s32 %r51, %r7, {length * size}, %r50;
        st.shared{of}.{kind} [%r51], {vector}; bar.sync 0; ld.shared{of}.{kind} {vector}, [%r51];
        """
    statements += f"st.global{of}.{kind} [%rd2], {vector};"
    run_ptx(statements, [source, out], shared=f".shared .align 16 .b8 buffer[{256 * length * size}];")
    np.testing.assert_array_equal(out.view(np.uint8), source.view(np.uint8))


def test_signs_extend_offsets_and_guards():
    source = np.arange(-N, N, dtype=np.int32).reshape(N, 2)
    signed, unsigned = np.zeros(N, np.int64), np.zeros(N, np.int64)
    run_ptx(
        own(1, 8) + own(2, 8) + own(3, 8) + "add.s64 %rd4, %rd1, 8; ld.global.s32 %rd5, [%rd4+-8];"
        "ld.global.u32 %rd6, [%rd1+4]; setp.lt.u32 %p1, %r9, 100; @%p1 st.global.s64 [%rd2], %rd5;"
        "@!%p1 st.global.s64 [%rd3], %rd6;",
        [source, signed, unsigned],
    )
    first = np.arange(N) < 100
    np.testing.assert_array_equal(signed, np.where(first, source[:, 0], 0))
    np.testing.assert_array_equal(unsigned, np.where(first, 0, source[:, 1].view(np.uint32)))


def test_predicates_may_be_constants():
    out = np.zeros((N, 3), np.uint32)
    statements = own(1, 12)
    for place, constant in enumerate(("0", "1", "-1")):
        statements += f"""
        mov.pred %p1, {constant}; not.pred %p2, %p1; selp.u32 %r1, 7, 5, %p2;
        st.global.u32 [%rd1+{4 * place}], %r1;
        """
    run_ptx(statements, [out])
    np.testing.assert_array_equal(out, np.broadcast_to([7, 5, 5], (N, 3)))


@seeds
@pytest.mark.parametrize("mode", ["bfly", "idx"])
@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
def test_shuffles(mode, width, seed):
    random = np.random.default_rng(width)
    values, given = random.integers(0, 1 << 32, N).astype(np.uint32), random.integers(0, 64, N).astype(np.uint32)
    # Groups of threads that turn by different numbers of lanes, apart from each other.
    masks = np.full(N, 0xFFFFFFFF, np.uint32) if width == 32 else ((1 << width) - 1) << (LANES // width * width)
    if mode == "bfly" and width < 32:
        given %= width
    moved, within = np.zeros((2, N), np.uint32)
    run_ptx(
        "".join(own(k, 4) for k in range(1, 6)) + f"""
        ld.global.u32 %r1, [%rd1]; ld.global.u32 %r2, [%rd2]; ld.global.u32 %r3, [%rd3];
        shfl.sync.{mode}.b32 %r4|%p1, %r1, %r2, {(32 - width) << 8 | 31}, %r3;
        selp.u32 %r5, 1, 0, %p1; st.global.u32 [%rd4], %r4; st.global.u32 [%rd5], %r5;
        """,
        [values, given, masks.astype(np.uint32), moved, within], seed,
    )  # fmt: skip
    first = LANES // width * width
    source = LANES ^ (given & 31) if mode == "bfly" else first + given % width
    assert (source < first + width).all()
    np.testing.assert_array_equal(moved, values[np.arange(N) // 32 * 32 + source])
    np.testing.assert_array_equal(within, 1)


def test_a_shuffle_beyond_its_group_returns_the_own_value():
    values = np.arange(N, dtype=np.uint32)
    moved, within = np.zeros((2, N), np.uint32)
    run_ptx(
        own(1, 4) + own(2, 4) + own(3, 4) + f"""
        ld.global.u32 %r1, [%rd1]; shfl.sync.bfly.b32 %r4|%p1, %r1, 16, {24 << 8 | 7}, -1;
        selp.u32 %r5, 1, 0, %p1; st.global.u32 [%rd2], %r4; st.global.u32 [%rd3], %r5;
        """,
        [values, moved, within],
    )  # fmt: skip
    np.testing.assert_array_equal(within, LANES >= 16)  # lane 20 may read lane 4, but not the reverse
    np.testing.assert_array_equal(moved, np.where(LANES >= 16, values - 16, values))


@seeds
@pytest.mark.parametrize("width", [4, 32])
def test_votes(width, seed):
    votes = (np.random.default_rng(1).random(N) < 0.2).astype(np.uint32)
    groups = votes.reshape(-1, width)
    ones = (1 << width) - 1
    masks = (ones << (LANES // width * width)).astype(np.uint32)
    ballots, any_of = np.zeros((2, N), np.uint32)
    run_ptx(
        "".join(own(k, 4) for k in range(1, 5)) + """
        ld.global.u32 %r1, [%rd1]; ld.global.u32 %r2, [%rd2]; setp.ne.u32 %p1, %r1, 0;
        vote.sync.ballot.b32 %r3, %p1, %r2; vote.sync.any.pred %p2, %p1, %r2; selp.u32 %r4, 1, 0, %p2;
        st.global.u32 [%rd3], %r3; st.global.u32 [%rd4], %r4;
        """,
        [votes, masks, ballots, any_of], seed,
    )  # fmt: skip
    bits = (groups * (1 << np.arange(width))).sum(axis=1).repeat(width) << (LANES // width * width)
    np.testing.assert_array_equal(ballots, bits)
    np.testing.assert_array_equal(any_of, groups.any(axis=1).repeat(width))


@seeds
def test_atomics_return_what_was_there(seed):
    total, before = np.array([1000], np.uint64), np.zeros(N, np.uint64)
    run_ptx(own(2, 8) + "atom.global.add.u64 %rd5, [%rd1], 3; st.global.u64 [%rd2], %rd5;", [total, before], seed)
    assert total[0] == 1000 + 3 * N
    np.testing.assert_array_equal(np.sort(before), 1000 + 3 * np.arange(N))
    assert (seed == 0) == (np.diff(before.astype(np.int64)) == 3).all()


def test_scalars_and_sizes_are_passed():
    out = np.zeros((N, 4))
    statements = (
        own(1, 32)
        + """
    ld.param.f64 %fd1, [q0]; ld.param.u32 %r1, [q1]; cvt.rn.f64.u32 %fd2, %r1;
    mov.u32 %r2, %nctaid.x; cvt.rn.f64.u32 %fd3, %r2; cvt.rn.f64.u32 %fd4, %r9;
    st.global.f64 [%rd1], %fd1; st.global.f64 [%rd1+8], %fd2; st.global.f64 [%rd1+16], %fd3;
    st.global.f64 [%rd1+24], %fd4;
    """
    )
    run_ptx(statements, [out, np.float64(0.25), np.int32(77)], kinds=("f64", "u32"))
    np.testing.assert_array_equal(out, np.stack(np.broadcast_arrays(0.25, 77, 2, np.arange(N)), axis=1))
    with pytest.raises(TypeError, match="argument 3 has 8 bytes, the kernel takes u32"):
        run_ptx(statements, [out, np.float64(0.25), np.int64(77)], kinds=("f64", "u32"))
    with pytest.raises(TypeError, match="pass contiguous arrays"):
        run_ptx(statements, [out[:, ::2], np.float64(0.25), np.int32(77)], kinds=("f64", "u32"))


@pytest.mark.parametrize("apart", [0, 1, N])
def test_arrays_may_be_parts_of_one(apart):
    memory = np.zeros(2 * N, np.uint32)
    copy = own(1, 4) + own(2, 4) + "ld.global.u32 %r1, [%rd1]; add.s32 %r1, %r1, %r9; st.global.u32 [%rd2], %r1;"
    arrays = [memory[:N], memory[apart : apart + N]]
    if apart == 1:
        with pytest.raises(KernelError, match="race"):
            run_ptx(copy, arrays)
    else:
        run_ptx(copy, arrays)
        np.testing.assert_array_equal(arrays[1], np.arange(N))


def test_arrays_side_by_side_are_apart():
    memory = np.zeros(2 * N, np.uint32)
    with pytest.raises(KernelError, match="outside of all arrays, to byte 2048 of 2048"):
        run_ptx(
            own(1, 4) + own(2, 4) + "st.global.u32 [%rd1+4], %r9; st.global.u32 [%rd2], %r9;", [memory[:N], memory[N:]]
        )


def test_alignment_is_that_of_the_array():
    memory = np.zeros(2 * N + 4, np.uint32)
    start = -memory.ctypes.data // 4 % 4
    load = own(1, 16) + "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];"
    run_ptx("setp.gt.u32 %p1, %r9, 0; @%p1 ret;" + load, [memory[start : start + N]])
    with pytest.raises(KernelError, match="misaligned"):
        run_ptx(load, [memory[start + 1 : start + 1 + N]])


def test_unknown_directives_are_named():
    with pytest.raises(PtxError, match=r"probe: unknown directive '.local .align 4 .b8 stack\[8\]'"):
        run_ptx(".local .align 4 .b8 stack[8];", [])
    with pytest.raises(PtxError, match="unknown parameter"):
        parse(".visible .entry probe(.param .align 8 .b8 p[16])\n{\nret;\n}")
