"""Turns a kernel into numbers that the machine reads: operations, and registers instead of names and constants."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tests.ptx.parse import Instruction, Kernel, PtxError
from tests.ptx.rules import RULES

CONTROL = (
    "branch", "leave", "undefined", "load", "store", "atomic_add", "barrier", "warp_barrier", "shuffle_xor",
    "shuffle_from", "vote_any", "vote_ballot",
)  # fmt: skip
"""Operations of machine.h; those of the rules follow."""
NUMBERS = {name: number for number, name in enumerate((*CONTROL, *RULES))}
INSTRUCTION = np.dtype(
    [
        ("operation", "i4"), ("guard", "i4"), ("wanted", "i4"), ("to", "i4", 4), ("from", "i4", 5), ("mask", "i4"),
        ("bytes", "i4"), ("count", "i4"), ("shared", "i4"), ("constant", "i4"), ("is_signed", "i4"), ("offset", "i8"),
    ],
    align=True,
)  # fmt: skip
GLOBAL_SHIFT, SHARED_SHIFT = 40, 20
"""Array number i, from 1, is at address i << shift, as machine.h has it."""

_BYTES = {
    "u8": 1, "u16": 2, "b16": 2, "u32": 4, "s32": 4, "b32": 4, "f32": 4, "u64": 8, "s64": 8, "b64": 8, "f64": 8,
}  # fmt: skip
_MOST_BYTES = 16  # of one access
_REGISTER = re.compile(r"%(?:(?:p|r|rd|f|fd)\d+|temp|(?:tid|ntid|ctaid|nctaid)\.x)")
_ACCESS = re.compile(rf"(ld|st)\.(global|shared)(\.nc)?(?:\.cs)?(?:\.v([24]))?\.({'|'.join(_BYTES)})")
_ADDRESS = re.compile(r"\[([%$\w]+)(?:\+(-?\d+))?\]")
_OF_A_WARP = {
    "shfl.sync.bfly.b32": "shuffle_xor",
    "shfl.sync.idx.b32": "shuffle_from",
    "vote.sync.any.pred": "vote_any",
    "vote.sync.ballot.b32": "vote_ballot",
}


@dataclass(frozen=True)
class Program:
    """A kernel as the machine runs it.

    Attributes
    ----------
    source : str
        The CUDA text.
    code : array of INSTRUCTION
    written : list of Instruction
        What each element of `code` was encoded from.
    slots : array of uint64
        Registers at the start of a thread, which hold all constants.
    places : dict of str to int
        The slot of each register, special register and parameter.
    """

    kernel: Kernel
    source: str
    code: np.ndarray
    written: list[Instruction]
    slots: np.ndarray
    places: dict[str, int]


def encode(kernel: Kernel, source: str = "") -> Program:
    """Encode a kernel, whose CUDA text is `source`.

    Raises
    ------
    PtxError
        An instruction or an operand is unknown.
    """
    encoder = _Encoder(kernel, source)
    for number, instruction in enumerate(kernel.instructions):
        encoder.starts[number] = len(encoder.code)
        try:
            encoder.add(instruction)
        except PtxError as error:
            raise PtxError(f"{kernel.name}: {instruction}: {error}") from None
    return encoder.program()


class _Encoder:
    def __init__(self, kernel: Kernel, source: str) -> None:
        self._kernel = kernel
        self._source = source
        self._places: dict[str, int] = {}
        self._constants: dict[int, int] = {}  # value by slot
        self._shared = {name: (i + 1) << SHARED_SHIFT for i, name in enumerate(kernel.shared)}
        self._written: list[Instruction] = []
        self.code: list[np.ndarray] = []
        self.starts: dict[int, int] = {}
        for name in ("_", "%tid.x", "%ctaid.x", "%ntid.x", "%nctaid.x", *kernel.parameters):
            self._place(name)

    def program(self) -> Program:
        # A path that the compiler knows to be undefined has no instructions.
        self.starts[len(self.starts)] = len(self.code)
        self._append(Instruction("end", ()), "undefined")
        code = np.array(self.code, INSTRUCTION)
        branches = code["operation"] == NUMBERS["branch"]
        code["to"][branches, 0] = [self.starts[to] for to in code["to"][branches, 0]]
        slots = np.zeros(len(self._places), np.uint64)
        slots[list(self._constants)] = list(self._constants.values())
        return Program(self._kernel, self._source, code, self._written, slots, self._places)

    def add(self, one: Instruction) -> None:
        name, operands = one.name, one.operands
        if name in RULES:
            self._compute(one, name, operands)
        elif access := _ACCESS.fullmatch(name):
            self._access(one, access)
        elif name in ("bra", "bra.uni"):
            self._append(one, "branch", to=[self._kernel.labels[operands[0]]])
        elif name == "ret":
            self._append(one, "leave")
        elif name == "atom.global.add.u64":
            result, address, added = operands
            base, offset = self._address(address)
            self._append(one, "atomic_add", [self._place(result)], [base, self._value(added, "u64")], offset=offset)
        elif (name, operands) == ("bar.sync", ("0",)):
            self._append(one, "barrier")
        elif name == "bar.warp.sync":
            self._append(one, "warp_barrier", mask=self._value(operands[0], "b32"))
        elif name in _OF_A_WARP:
            results = [self._place(result) for result in operands[0].split("|")]
            given = [self._value(operand, "b32") for operand in operands[1:]]
            self._append(one, _OF_A_WARP[name], results, given[:-1], mask=given[-1])
        elif name.startswith("ld.param."):
            self._compute(one, f"mov.{name.removeprefix('ld.param.')}", (operands[0], operands[1].strip("[]")))
        else:
            raise PtxError("unknown instruction")

    def _compute(self, one: Instruction, name: str, operands: tuple[str, ...]) -> None:
        if name == "mov.b64" and operands[1].startswith("{"):
            self._compute(one, "pack", (operands[0], *_parts(operands[1])))
        elif name == "mov.b64" and operands[0].startswith("{"):
            low, high = _parts(operands[0])
            self._compute(one, "low half", (low, operands[1]))
            self._compute(one, "high half", (high, operands[1]))
        else:
            if name not in RULES or len(operands) != len(RULES[name].operands) + 1:
                raise PtxError("unknown instruction")
            given = [self._value(*pair) for pair in zip(operands[1:], RULES[name].operands, strict=True)]
            self._append(one, name, [self._place(operands[0])], given)

    def _access(self, one: Instruction, access: re.Match[str]) -> None:
        kind, space, constant, count, item = access.groups()
        memory, registers = one.operands[::-1] if kind == "ld" else one.operands
        base, offset = self._address(memory)
        names = _parts(registers) if count else (registers,)
        if len(names) != int(count or 1) or len(names) * _BYTES[item] > _MOST_BYTES:
            raise PtxError("unknown instruction")
        fields = {
            "bytes": _BYTES[item], "count": len(names), "shared": space == "shared", "constant": bool(constant),
            "is_signed": item[0] == "s", "offset": offset,
        }  # fmt: skip
        if kind == "ld":
            self._append(one, "load", [self._place(name) for name in names], [base], **fields)
        else:
            self._append(one, "store", [], [base, *(self._value(name, item) for name in names)], **fields)

    def _append(self, one: Instruction, name: str, to: list[int] = (), given: list[int] = (), **fields: int) -> None:
        code = np.zeros((), INSTRUCTION)
        code["operation"] = NUMBERS[name]
        code["guard"] = self._value(one.guard, "pred") if one.guard else -1
        code["wanted"] = one.wanted
        code["to"][: len(to)] = to
        code["from"][: len(given)] = given
        for field, value in fields.items():
            code[field] = value
        self.code.append(code)
        self._written.append(one)

    def _address(self, text: str) -> tuple[int, int]:
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise PtxError(f"unknown address {text}")
        return self._value(match[1], "u64"), int(match[2] or 0)

    def _place(self, name: str) -> int:
        """Return the slot of a register, or of a parameter or the unused result ``_``."""
        if not (_REGISTER.fullmatch(name) or name == "_" or name in self._kernel.parameters):
            raise PtxError(f"unknown register {name}")
        return self._places.setdefault(name, len(self._places))

    def _value(self, operand: str, kind: str) -> int:
        """Return the slot of a register or of a constant."""
        if operand in self._shared:
            constant = self._shared[operand]
        elif operand[0] in "-0123456789":
            constant = _constant(operand, kind)
        else:
            return self._place(operand)
        place = self._places.setdefault(f"{kind} {operand}", len(self._places))
        self._constants[place] = constant
        return place


def _parts(vector: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in vector.strip("{}").split(","))


def _constant(text: str, kind: str) -> int:
    """Return the bits of a constant: an integer, or the bits of a float as 0f or 0d and hexadecimal digits."""
    if text[:2] in ("0f", "0d"):
        return int(text[2:], 16)
    if kind == "pred":
        return int(int(text) != 0)
    return int(text, 0) & ((1 << 64) - 1 if _BYTES.get(kind) == 8 else (1 << 32) - 1)
