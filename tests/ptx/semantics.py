"""What PTX instructions that only compute do, by Python's integers and fractions: independent of the machine."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

DTYPES = {
    "s32": np.int32, "u32": np.uint32, "b32": np.uint32, "s64": np.int64, "u64": np.uint64, "b64": np.uint64,
    "f32": np.float32, "f64": np.float64, "pred": np.bool_,
}  # fmt: skip


def nearest(value: Fraction, dtype: type[np.floating]) -> np.floating:
    """Return the float nearest to a number, the even one of two; unlike a conversion by way of float64."""
    largest = np.finfo(dtype).max
    half_a_step = (Fraction(float(largest)) - Fraction(float(np.nextafter(largest, dtype(0))))) / 2
    if abs(value) >= Fraction(float(largest)) + half_a_step:
        return dtype(math.inf if value > 0 else -math.inf)
    guess = dtype(min(max(value, Fraction(float(-largest))), Fraction(float(largest))))
    bits = np.uint32 if dtype is np.float32 else np.uint64

    def distance(one: np.floating) -> tuple[Fraction, int]:
        return abs(Fraction(float(one)) - value), int(one.view(bits)) & 1

    candidates = (np.nextafter(guess, dtype(-math.inf)), guess, np.nextafter(guess, dtype(math.inf)))
    return min((c for c in candidates if np.isfinite(c)), key=distance)


def flushed(x: Any) -> Any:
    """Return 0 of the same sign in place of a subnormal number."""
    return np.copysign(type(x)(0), x) if abs(x) < np.finfo(type(x)).smallest_normal else x


def reference(name: str) -> Callable[..., Any]:
    """Return a function of NumPy scalars that does what the instruction does."""
    if name in _PLAIN:
        return _PLAIN[name]
    operation, *modifiers, kind = name.split(".")
    if operation == "setp":
        return _comparison(modifiers[0], "ftz" in modifiers)
    if operation == "cvt":
        return _conversion(modifiers, kind)
    if operation in _PLAIN:
        return _PLAIN[operation]
    if kind[0] == "f":
        return _of_floats(_FLOATS[operation], DTYPES[kind], "ftz" in modifiers)
    bits = int(kind[1:])
    if operation == "shr":
        return lambda a, b: int(a) >> min(int(b), bits)
    if operation == "shl":
        return lambda a, b: int(a) << min(int(b), bits)
    return lambda *operands: _INTEGERS[operation](*map(int, operands))


def _quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _inserted(a: int, b: int, start: int, length: int) -> int:
    for bit in range(length & 0xFF):
        place = (start & 0xFF) + bit
        if place < 64:
            b = b & ~(1 << place) | (a >> bit & 1) << place
    return b


_PLAIN: dict[str, Callable[..., Any]] = {
    "mov": lambda a: a,
    "cvta": lambda a: a,
    "selp": lambda a, b, c: a if c else b,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": lambda a: not a if isinstance(a, np.bool_) else ~a,
    "pack": lambda a, b: int(a) + (int(b) << 32),
    "low half": int,
    "high half": lambda a: int(a) >> 32,
}
_INTEGERS: dict[str, Callable[..., int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "mad": lambda a, b, c: a * b + c,
    "div": _quotient,
    "rem": lambda a, b: a - b * _quotient(a, b),
    "min": min,
    "max": max,
    "neg": operator.neg,
    "popc": int.bit_count,
    "brev": lambda a: int(f"{a:032b}"[::-1], 2),
    "bfind": lambda a: 32 - a.bit_length() if a else 0xFFFFFFFF,
    "bfi": _inserted,
}


def _fma(a: Any, b: Any, c: Any) -> Any:
    if not np.isfinite([a, b]).all():
        return a * b + c
    if not np.isfinite(c):
        return c
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    return nearest(exact, type(a)) if exact else a * b + c


def _extreme(pick: Callable[..., Any]) -> Callable[..., Any]:
    def of_two(a: Any, b: Any) -> Any:
        if np.isnan(a) or np.isnan(b):
            return b if np.isnan(a) else a
        return pick(a, b, key=lambda x: (x, not np.signbit(x)))

    return of_two


_FLOATS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "rcp": lambda a: type(a)(1) / a,
    "sqrt": np.sqrt,
    "neg": operator.neg,
    "abs": abs,
    "min": _extreme(min),
    "max": _extreme(max),
    "fma": _fma,
}


def _of_floats(function: Callable[..., Any], dtype: type[np.floating], ftz: bool) -> Callable[..., Any]:
    if not ftz:
        return lambda *operands: dtype(function(*operands))
    return lambda *operands: flushed(dtype(function(*map(flushed, operands))))


def _comparison(name: str, ftz: bool) -> Callable[..., bool]:
    compare, or_unordered = getattr(operator, name[:2]), name.endswith("u")

    def holds(a: Any, b: Any) -> bool:
        if a != a or b != b:
            return or_unordered
        return bool(compare(*((flushed(a), flushed(b)) if ftz else (a, b))))

    return holds


def _conversion(modifiers: list[str], source: str) -> Callable[..., Any]:
    *how, target = modifiers
    dtype: Any = DTYPES[target]
    if target[0] != "f":
        return (lambda a: int(a)) if source[0] != "f" else lambda a: _to_integer(a, dtype, how)

    def to_float(a: Any) -> Any:
        a = flushed(a) if "ftz" in how and source == "f32" else a
        result = dtype(a) if source[0] == "f" and not (np.isfinite(a) and a) else nearest(Fraction(a.item()), dtype)
        return flushed(result) if "ftz" in how and target == "f32" else result

    return to_float


def _to_integer(a: Any, dtype: Any, how: list[str]) -> int:
    limits = np.iinfo(dtype)
    if np.isnan(a):
        return 0 if isinstance(a, np.float32) and limits.bits == 32 else 1 << (limits.bits - 1)
    if np.isinf(a):
        return int(limits.max if a > 0 else limits.min)
    exact = Fraction(float(flushed(a) if "ftz" in how else a))
    return min(max(round(exact) if "rni" in how else math.trunc(exact), int(limits.min)), int(limits.max))
