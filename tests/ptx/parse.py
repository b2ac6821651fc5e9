"""Reads PTX: kernels, their parameters and shared arrays, and their instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d+)\]")
_ENTRY = re.compile(r"\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s+(\w+)$")
_SOURCE_LINE = re.compile(r"\.loc\s+\d+\s+(\d+)\b")
_IGNORED = re.compile(r"\.(reg|pragma)\b")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
# Outside braces and brackets.
_COMMA = re.compile(r",\s*(?![^{\[]*[}\]])")


class PtxError(ValueError):
    """PTX that this package does not know."""


@dataclass(frozen=True)
class Instruction:
    """An instruction as written.

    Attributes
    ----------
    name : str
        With all modifiers and types, such as ``add.ftz.f32``.
    operands : tuple of str
    guard : str or None
        The predicate, if it is executed only where that is `wanted`.
    line : int
        Line of the CUDA text, 0 if unknown.
    """

    name: str
    operands: tuple[str, ...]
    guard: str | None = None
    wanted: bool = True
    line: int = 0

    def __str__(self) -> str:
        guard = f"@{'' if self.wanted else '!'}{self.guard} " if self.guard else ""
        return f"{guard}{self.name} {', '.join(self.operands)}".rstrip()


@dataclass
class Kernel:
    """A kernel.

    Attributes
    ----------
    parameters : dict of str to str
        Type of each parameter.
    shared : dict of str to int
        Bytes of each array in shared memory.
    labels : dict of str to int
        Index of the instruction behind each label.
    """

    name: str
    parameters: dict[str, str]
    shared: dict[str, int] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> dict[str, Kernel]:
    """Return the kernels of a PTX module by name.

    Raises
    ------
    PtxError
        A statement is unknown.
    """
    text = _COMMENT.sub("", text)
    entries = list(_ENTRY.finditer(text))
    # An array that several kernels use is declared before the first of them.
    common = {name: int(size) for _, name, size in _SHARED.findall(text[: entries[0].start()])} if entries else {}
    return {entry[1]: _kernel(entry, text, common) for entry in entries}


def _kernel(entry: re.Match[str], text: str, common: dict[str, int]) -> Kernel:
    parameters = {}
    for declared in filter(None, map(str.strip, entry[2].split(","))):
        match = _PARAMETER.match(declared)
        if match is None:
            raise PtxError(f"{entry[1]}: unknown parameter {declared!r}")
        parameters[match[2]] = match[1]
    kernel = Kernel(entry[1], parameters, dict(common))
    line = 0
    for statement in _statements(_body(text, entry.end())):
        if match := _SOURCE_LINE.match(statement):
            line = int(match[1])
        elif not statement.startswith("."):
            _add_instruction(kernel, statement, line)
        elif match := _SHARED.match(statement):
            kernel.shared[match[2]] = int(match[3])
        elif not _IGNORED.match(statement):
            raise PtxError(f"{kernel.name}: unknown directive {statement!r}")
    return kernel


def _body(text: str, start: int) -> str:
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    raise PtxError("a kernel does not end")


def _statements(body: str) -> list[str]:
    # Labels and positions in the source end with the line, everything else with a semicolon. Blocks only limit names.
    lines = []
    for line in map(str.strip, body.split("\n")):
        if line not in ("{", "}"):
            lines.append(f"{line};" if line.endswith(":") or _SOURCE_LINE.match(line) else line)
    return [statement for statement in map(str.strip, "\n".join(lines).split(";")) if statement]


def _add_instruction(kernel: Kernel, statement: str, line: int) -> None:
    if statement.endswith(":"):
        kernel.labels[statement[:-1]] = len(kernel.instructions)
        return
    match = _INSTRUCTION.fullmatch(statement)
    if match is None:
        raise PtxError(f"{kernel.name}: unknown statement {statement!r}")
    negated, guard, name, operands = match.groups()
    split = tuple(_COMMA.split(operands)) if operands else ()
    kernel.instructions.append(Instruction(name, split, guard, not negated, line))
