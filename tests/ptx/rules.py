"""What each PTX instruction that only computes does, in C++."""

from __future__ import annotations

from dataclasses import dataclass

INTEGERS = ("s32", "u32", "s64", "u64")
FLOATS = ("f32", "f64")
BITS = ("b32", "b64")
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"and": "&", "or": "|", "xor": "^"}


@dataclass(frozen=True)
class Rule:
    """An instruction without access to memory or to other threads.

    Attributes
    ----------
    result : str
        Type of the result, as PTX names it.
    operands : tuple of str
        Types of the operands a, b, c and d.
    expression : str
        The result in C++, with functions of arithmetic.h.
    """

    result: str
    operands: tuple[str, ...]
    expression: str


def _integers() -> dict[str, Rule]:
    rules = {}
    for kind in INTEGERS:
        # Signed numbers wrap around in PTX, but not in C++.
        wrapping = kind.replace("s", "u")
        for name, sign in (("add", "+"), ("sub", "-"), ("mul.lo", "*")):
            rules[f"{name}.{kind}"] = Rule(wrapping, (wrapping, wrapping), f"a {sign} b")
        rules[f"mad.lo.{kind}"] = Rule(wrapping, (wrapping,) * 3, "a * b + c")
        rules[f"div.{kind}"] = Rule(kind, (kind, kind), "quotient(a, b)")
        rules[f"rem.{kind}"] = Rule(kind, (kind, kind), "remainder(a, b)")
        rules[f"min.{kind}"] = Rule(kind, (kind, kind), "a < b ? a : b")
        rules[f"max.{kind}"] = Rule(kind, (kind, kind), "a < b ? b : a")
        rules[f"shr.{kind}"] = Rule(kind, (kind, "u32"), "shifted_right(a, b)")
    for kind in ("s32", "s64"):
        rules[f"neg.{kind}"] = Rule(kind.replace("s", "u"), (kind.replace("s", "u"),), "0 - a")
    for kind, wide in (("s32", "s64"), ("u32", "u64")):
        rules[f"mul.wide.{kind}"] = Rule(wide, (kind, kind), f"static_cast<{wide}>(a) * b")
    return rules


def _bits() -> dict[str, Rule]:
    rules = {
        "not.pred": Rule("pred", ("pred",), "!a"),
        "popc.b32": Rule("u32", ("b32",), "__builtin_popcount(a)"),
        "brev.b32": Rule("b32", ("b32",), "reversed(a)"),
        "bfind.shiftamt.u32": Rule("u32", ("u32",), "a ? __builtin_clz(a) : 0xffffffffu"),
        "bfi.b64": Rule("b64", ("b64", "b64", "u32", "u32"), "inserted(a, b, c, d)"),
        # mov.b64 between a register and a pair of them
        "pack": Rule("b64", ("b32", "b32"), "a | static_cast<b64>(b) << 32"),
        "low half": Rule("b32", ("b64",), "a"),
        "high half": Rule("b32", ("b64",), "a >> 32"),
    }
    for name, sign in _LOGIC.items():
        for kind in (*BITS, "pred"):
            rules[f"{name}.{kind}"] = Rule(kind, (kind, kind), f"a {sign} b")
    for kind in BITS:
        rules[f"not.{kind}"] = Rule(kind, (kind,), "~a")
        rules[f"shl.{kind}"] = Rule(kind, (kind, "u32"), "shifted_left(a, b)")
    for kind in (*BITS, *INTEGERS, *FLOATS):
        rules[f"mov.{kind}"] = Rule(kind, (kind,), "a")
        rules[f"selp.{kind}"] = Rule(kind, (kind, kind, "pred"), "c ? a : b")
    rules["mov.pred"] = Rule("pred", ("pred",), "a")
    rules["cvta.to.global.u64"] = Rule("u64", ("u64",), "a")
    return rules


def _floats() -> dict[str, Rule]:
    rules = {
        "div.approx.ftz.f32": Rule("f32", ("f32", "f32"), "flushed(fast_quotient(flushed(a), flushed(b)))"),
        "rcp.approx.ftz.f64": Rule("f64", ("f64",), "rough_reciprocal(a)"),
    }
    # With .ftz, subnormal operands and results are replaced by zeros of the same sign.
    for kind, suffix, flushed in (("f32", "ftz.f32", "flushed({})"), ("f64", "f64", "{}")):
        a, b, c = (flushed.format(letter) for letter in "abc")
        one = {"rcp.rn": f"{kind}(1) / {a}", "sqrt.rn": f"std::sqrt({a})", "neg": f"-{a}", "abs": f"std::fabs({a})"}
        two = {name: f"{a} {sign} {b}" for name, sign in (("add", "+"), ("sub", "-"), ("mul", "*"))}
        two |= {f"{name}.rn": text for name, text in two.items()} | {"div.rn": f"{a} / {b}"}
        two |= {"min": f"smaller({a}, {b})", "max": f"larger({a}, {b})"}
        three = {"fma.rn": f"std::fma({a}, {b}, {c})"}
        for n, operations in enumerate((one, two, three), 1):
            for name, text in operations.items():
                rules[f"{name}.{suffix}"] = Rule(kind, (kind,) * n, flushed.format(text))
    return rules


def _comparisons() -> dict[str, Rule]:
    rules = {}
    for name, sign in _COMPARISONS.items():
        for kind in (*INTEGERS, *(BITS if name in ("eq", "ne") else ())):
            rules[f"setp.{name}.{kind}"] = Rule("pred", (kind, kind), f"a {sign} b")
        for kind, suffix, flushed in (("f32", "ftz.f32", "flushed({})"), ("f64", "f64", "{}")):
            holds = f"{flushed.format('a')} {sign} {flushed.format('b')}"
            # True, or false, if one of the operands is not a number.
            rules[f"setp.{name}u.{suffix}"] = Rule("pred", (kind, kind), f"unordered(a, b) || {holds}")
            rules[f"setp.{name}.{suffix}"] = Rule("pred", (kind, kind), f"!unordered(a, b) && {holds}")
    return rules


def _conversions() -> dict[str, Rule]:
    rules = {
        "cvt.ftz.f64.f32": Rule("f64", ("f32",), "flushed(a)"),
        "cvt.rn.ftz.f32.f64": Rule("f32", ("f64",), "flushed(static_cast<f32>(a))"),
    }
    for source in INTEGERS:
        for target in INTEGERS:
            rules[f"cvt.{target}.{source}"] = Rule(target, (source,), f"static_cast<{target}>(a)")
        for target in FLOATS:
            rules[f"cvt.rn.{target}.{source}"] = Rule(target, (source,), f"static_cast<{target}>(a)")
    for target in INTEGERS:
        for rounding, function in (("rni", "std::nearbyint"), ("rzi", "std::trunc")):
            rules[f"cvt.{rounding}.ftz.{target}.f32"] = Rule(
                target, ("f32",), f"held<{target}>({function}(flushed(a)))"
            )
            rules[f"cvt.{rounding}.{target}.f64"] = Rule(target, ("f64",), f"held<{target}>({function}(a))")
    return rules


RULES: dict[str, Rule] = _integers() | _bits() | _floats() | _comparisons() | _conversions()
