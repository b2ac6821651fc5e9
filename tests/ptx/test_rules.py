"""Every instruction that only computes against its meaning in Python, for numbers at all limits."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ptx.encode import encode
from tests.ptx.parse import PtxError, parse
from tests.ptx.report import KernelError
from tests.ptx.rules import FLOATS, RULES
from tests.ptx.runtime import run
from tests.ptx.semantics import DTYPES, reference

N = 768
# Those that are not exact on a GPU either: the relative error.
APPROXIMATE = {"div.approx.ftz.f32": 2.4e-7, "rcp.approx.ftz.f64": 2.0**-19}
INTEGERS = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 255, 0x12345678, 1 << 30, 0x123456789ABCDEF0, 1 << 62]
FRACTIONS = [
    0.0, 1.0, 0.1, 0.5, 1.5, 2.5, 3.7, 1 / 3, 1e10, 3e9, 16777217.0, 2.0**31 - 0.5, 2.0**32, 2.0**63, 2.0**64, 1e-30,
    2e37, 3e38, 2.0**126, 2.0**127, 2.0**-126, 2.0**-126 * (1 - 2.0**-25), 1e-39, 1e-45, np.inf, np.nan,
]  # fmt: skip
ONLY_F64 = [1e-320, 2.0**-1022, 1e300, 1.7e308, 1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50]
_REGISTERS = {"f32": "%f", "f64": "%fd", "pred": "%p", "s32": "%r", "u32": "%r", "b32": "%r"}


def values_of(kind: str) -> np.ndarray:
    if kind == "pred":
        return np.array([False, True])
    dtype = DTYPES[kind]
    if kind in FLOATS:
        made = np.array(FRACTIONS + (ONLY_F64 if kind == "f64" else []))
        return np.concatenate([made, -made]).astype(dtype)
    bits = np.iinfo(dtype).bits
    both = np.array([n % (1 << bits) for one in INTEGERS for n in (one, -one, ~one, one << 1)], dtype=np.uint64)
    extremes = [np.iinfo(dtype).min, np.iinfo(dtype).max]
    return np.concatenate([np.unique(both).astype(f"u{bits // 8}").view(dtype), np.array(extremes, dtype)])


def operands_of(name: str) -> list[np.ndarray]:
    """Return N numbers for each operand: all pairs if they fit, otherwise some."""
    random = np.random.default_rng(len(name))
    drawn = [random.choice(values_of(kind), N) for kind in RULES[name].operands]
    if name.startswith(("div.", "rem.")) and name[-3] != "f":
        drawn[1][drawn[1] == 0] = 3
    if name.startswith("bfi."):
        drawn[2:] = random.integers(0, 70, (2, N)).astype(np.uint32)
    return drawn


def register(kind: str, number: int) -> str:
    return f"{_REGISTERS.get(kind, '%rd')}{number}"


def instruction_text(name: str, result: str, given: list[str]) -> str:
    """Return the instruction as PTX writes it; packing and unpacking are movs."""
    if name == "pack":
        return f"mov.b64 {result}, {{{', '.join(given)}}};"
    if name in ("low half", "high half"):
        return f"mov.b64 {{{f'{result}, %temp' if name[0] == 'l' else f'%temp, {result}'}}}, {given[0]};"
    return f"{name} {', '.join([result, *given])};"


def kernel_text(name: str) -> str:
    """Return a kernel that applies an instruction to element i of each operand, and stores the result in element i."""
    rule = RULES[name]
    lines = ["mov.u32 %r90, %tid.x;", "mov.u32 %r91, %ctaid.x;", "mad.lo.s32 %r92, %r91, 256, %r90;"]
    for place, kind in enumerate(("pred", *rule.operands)):
        lines += _address(place, rule.result if place == 0 else kind)
        if place and kind == "pred":
            lines += [f"ld.global.u32 %r{place}, [%rd6{place}];", f"setp.ne.u32 %p{place}, %r{place}, 0;"]
        elif place:
            lines.append(f"ld.global.{kind} {register(kind, place)}, [%rd6{place}];")
    given = [register(kind, place) for place, kind in enumerate(rule.operands, 1)]
    lines.append(instruction_text(name, register(rule.result, 0), given))
    if rule.result == "pred":
        lines += ["selp.u32 %r80, 1, 0, %p0;", "st.global.u32 [%rd60], %r80;"]
    else:
        lines.append(f"st.global.{rule.result} [%rd60], {register(rule.result, 0)};")
    parameters = ", ".join(f".param .u64 p{i}" for i in range(len(rule.operands) + 1))
    body = "\n".join(lines)
    return f".visible .entry probe({parameters})\n{{\n{body}\nret;\n}}"


def _address(place: int, kind: str) -> list[str]:
    size = 4 if kind == "pred" else DTYPES[kind]().itemsize
    return [
        f"ld.param.u64 %rd7{place}, [p{place}];",
        f"mul.wide.u32 %rd8{place}, %r92, {size};",
        f"add.s64 %rd6{place}, %rd7{place}, %rd8{place};",
    ]


def computed(name: str, operands: list[np.ndarray]) -> np.ndarray:
    result = RULES[name].result
    out = np.zeros(N, np.uint32 if result == "pred" else DTYPES[result])
    given = [a.astype(np.uint32) if a.dtype == bool else a for a in operands]
    run(encode(parse(kernel_text(name))["probe"]), N // 256, [out, *given])
    return out


@pytest.mark.parametrize("name", RULES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_meaning(name):
    rule, operands, function = RULES[name], operands_of(name), reference(name)
    got = computed(name, operands)
    expected = [function(*given) for given in zip(*operands, strict=True)]
    if rule.result in FLOATS:
        wanted = np.array(expected, DTYPES[rule.result])
        if name in APPROXIMATE:
            np.testing.assert_allclose(got, beyond_the_limit(name, operands, wanted), rtol=APPROXIMATE[name])
        else:
            np.testing.assert_array_equal(got, wanted)
            there = ~np.isnan(wanted)
            np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(wanted[there]))
    elif rule.result == "pred":
        np.testing.assert_array_equal(got, np.array(expected, np.uint32))
    else:
        bits = 8 * got.itemsize
        assert got.view(f"u{got.itemsize}").tolist() == [int(e) % (1 << bits) for e in expected]


def beyond_the_limit(name: str, operands: list[np.ndarray], exact: np.ndarray) -> np.ndarray:
    """Replace quotients by a divisor of more than 2^126 by 0, as the fast division of GPUs does."""
    if name == "div.approx.ftz.f32":
        a, b = operands
        large = (np.abs(b) > 2.0**126) & np.isfinite(b)
        exact[large] = np.where(np.isfinite(a), 0, np.nan)[large]
    return exact


def test_division_by_zero_is_a_fault():
    for name in ("div.s32", "rem.u64"):
        operands = [np.ones(N, DTYPES[name[-3:]]), np.zeros(N, DTYPES[name[-3:]])]
        with pytest.raises(KernelError, match=r"division by zero"):
            computed(name, operands)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("tanh.approx.f32 %f1, %f2", "tanh.approx.f32 %f1, %f2: unknown instruction"),
        ("add.s32 %r1, %r2, %laneid", "unknown register %laneid"),
        ("add.s32 %r1, %r2", "unknown instruction"),
        ("ld.local.u32 %r1, [%rd1]", "unknown instruction"),
        ("st.global.s8 [%rd1], %r1", "unknown instruction"),
        ("bar.sync 1", "unknown instruction"),
        ("ld.global.u32 %r1, [%rd1 - 4]", "unknown address"),
    ],
)
def test_unknown_instructions_are_named(statement, message):
    with pytest.raises(PtxError, match=message.replace("[", r"\[")) as raised:
        encode(parse(f".visible .entry probe()\n{{\n{statement};\nret;\n}}")["probe"])
    assert statement in str(raised.value)
