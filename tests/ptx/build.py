"""Compiles the machine: C++ headers, and a switch over the instructions that only compute."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

from tests.helpers.cpp_library import cpp_library
from tests.ptx.encode import CONTROL
from tests.ptx.rules import RULES, Rule

_FOLDER = Path(__file__).parent
_HEADERS = ("arithmetic.h", "memory.h", "machine.h")
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")


@lru_cache
def machine() -> ctypes.CDLL:
    """Return the library with the function ``ptx_run``."""
    texts = tuple((_FOLDER / name).read_text() for name in _HEADERS)
    return cpp_library("ptx-machine", _source(), _FLAGS, (_FOLDER,), texts)


def _source() -> str:
    names = ", ".join((*CONTROL, "first_rule"))
    cases = "\n".join(_case(number, rule) for number, rule in enumerate(RULES.values(), len(CONTROL)))
    return (
        f'#include "arithmetic.h"\nnamespace ptx {{\nenum Operation : s32 {{ {names} }};\n'
        f"inline void compute(const Instruction& i, Slot* x) {{\nswitch (i.operation) {{\n{cases}\n}}\n}}\n"
        '}\n#include "machine.h"\n'
    )


def _case(number: int, rule: Rule) -> str:
    operands = zip("abcd", rule.operands, strict=False)
    values = [f"const {kind} {letter} = x[i.from[{k}]].{kind};" for k, (letter, kind) in enumerate(operands)]
    result = f"x[i.to[0]].{rule.result} = static_cast<{rule.result}>({rule.expression});"
    return f"case {number}: {{ {' '.join(values)} {result} break; }}"
