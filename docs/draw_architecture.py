"""Draw the pictures of the page on the architecture from the imports and calls in the code.

    python docs/draw_architecture.py

`layers.svg` has the packages with their imports, `fit.svg` the functions that `NomadProjection.fit` calls.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PACKAGE = "nomad_dask"
IMAGES = ROOT / "docs" / "images"

# The second drawing opens these packages; of the others it shows only the functions that these call.
OPENED = ("estimator", "pipeline")
# The field of a stage that has its function: where it is passed on, the functions of all stages run.
STAGE_FUNCTION = "function"
# Packages that handle no rows: the second drawing leaves them out.
SUPPORT = ("errors", "params", "utils", "storage", "callbacks")

INK, MUTED, LINE, ACCENT, FILL = "#1f2328", "#59636e", "#c4ccd4", "#00796b", "#e6f2f0"
CHARACTER = 7.3  # pixels of a monospace character at 12 pixels
STYLE = (
    "text{font:12px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace}"
    ".bold{font-weight:600}.small{font-size:10px}"
)


# ------------------------------------------------------------------------------------------------ reading the code


def module_file(module: str) -> Path | None:
    """Return the file of a module, or None if a dotted name is not a module."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.exists():
            return file
    return None


def package_of(module: str) -> str:
    """Return the package that a module belongs to, as in "layout" for "nomad_dask.layout.optimize"."""
    return module.split(".")[1] if "." in module else ""


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Return the names that imports from this package bind, with what they stand for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name: a.name for a in node.names if a.name.startswith(f"{PACKAGE}.")}
    return names


def packages() -> dict[str, int]:
    """Return the packages with the number of their modules."""
    counts: dict[str, int] = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = file.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        if name not in ("__init__", "__main__"):
            counts[name] = counts.get(name, 0) + (file.name != "__init__.py")
    return counts


def package_imports() -> dict[str, set[str]]:
    """Return the other packages that each package imports from, inside functions and for types too."""
    names = packages()
    imports: dict[str, set[str]] = {name: set() for name in names}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = file.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        if name in names:
            targets = {package_of(target) for target in imported_names(ast.parse(file.read_text())).values()}
            imports[name] |= targets & set(names) - {name}
    return imports


# ------------------------------------------------------------------------------------------- packages in layers


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return all nodes that can be reached from a node."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def without_implied(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the transitive reduction of an acyclic graph: without edges that a longer path implies."""
    return {a: {b for b in out if all(b not in reachable(graph, c) for c in out - {b})} for a, out in graph.items()}


def levels_of(graph: dict[str, set[str]]) -> dict[str, int]:
    """Return the level of each node: one above the highest that it imports from."""

    @cache
    def level(name: str) -> int:
        return 1 + max((level(other) for other in graph[name]), default=-1)

    return {name: level(name) for name in graph}


@dataclass
class Node:
    """A package, or a bend of an edge that passes a level."""

    name: str
    level: int
    width: float
    x: float = 0.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)


BOX_WIDTH, BOX_HEIGHT, LEVEL_HEIGHT, GAP = 104.0, 38.0, 84.0, 14.0


def layered(graph: dict[str, set[str]]) -> list[list[Node]]:
    """Return the nodes level by level from the bottom, ordered and placed so that few edges cross (Sugiyama)."""
    height = levels_of(graph)
    boxes = {name: Node(name, height[name], BOX_WIDTH) for name in graph}
    rows: list[list[Node]] = [[] for _ in range(max(height.values()) + 1)]
    for node in boxes.values():
        rows[node.level].append(node)
    for name, out in graph.items():
        for other in sorted(out):
            upper = boxes[name]
            for level in range(height[name] - 1, height[other], -1):
                bend = Node("", level, 10.0)
                rows[level].append(bend)
                _connect(upper, bend)
                upper = bend
            _connect(upper, boxes[other])
    best = [list(row) for row in rows]
    for sweep in range(40):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            _number(rows)
            row.sort(key=lambda node: _mean([n.x for n in (node.below if down else node.above)], node.x))
        if _crossings(rows) < _crossings(best):
            best = [list(row) for row in rows]
    _place(best)
    return best


def _connect(upper: Node, lower: Node) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _number(rows: list[list[Node]]) -> None:
    """Give each node its position in its level as x."""
    for row in rows:
        for i, node in enumerate(row):
            node.x = i - len(row) / 2


def _crossings(rows: list[list[Node]]) -> int:
    _number(rows)
    total = 0
    for row in rows:
        edges = [(node.x, other.x) for node in row for other in node.below]
        total += sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(edges) for c, d in edges[:i])
    return total


def _place(rows: list[list[Node]]) -> None:
    """Move nodes towards what they are connected with, as far as the others of their level leave room."""
    for row in rows:
        x = 0.0
        for node in row:
            node.x = x + node.width / 2
            x += node.width + GAP
        for node in row:
            node.x -= x / 2
    for sweep in range(60):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = [_mean([n.x for n in (*node.above, *node.below)], node.x) for node in row]
            distances = [(a.width + b.width) / 2 + GAP for a, b in pairwise(row)]
            forward, backward = list(wanted), list(wanted)
            for i, distance in enumerate(distances):
                forward[i + 1] = max(forward[i + 1], forward[i] + distance)
            for i in range(len(distances) - 1, -1, -1):
                backward[i] = min(backward[i], backward[i + 1] - distances[i])
            for node, a, b in zip(row, forward, backward, strict=True):
                node.x = (a + b) / 2


def draw_layers() -> str:
    """Return the drawing of the packages and their imports."""
    modules, imports = packages(), package_imports()
    rows = layered(without_implied(imports))
    margin = 20.0
    left = min(node.x - node.width / 2 for row in rows for node in row) - margin
    right = max(node.x + node.width / 2 for row in rows for node in row) + margin
    height = 2 * margin + (len(rows) - 1) * LEVEL_HEIGHT + BOX_HEIGHT

    def top(node: Node) -> float:
        return margin + (len(rows) - 1 - node.level) * LEVEL_HEIGHT

    def port(node: Node, others: list[Node], other: Node) -> float:
        """Return where an edge leaves a box, so that its edges do not touch each other."""
        order = sorted(others, key=lambda n: n.x)
        share = (order.index(other) + 1) / (len(order) + 1) - 0.5
        return node.x + share * node.width * 0.8 - left if node.name else node.x - left

    parts = []
    for node in (node for row in rows for node in row):
        y = top(node)
        if not node.name:
            parts.append(_path(f"M{node.x - left:.1f} {y:.1f}V{y + BOX_HEIGHT:.1f}"))
        for other in node.below:
            x0, y0 = port(node, node.below, other), y + BOX_HEIGHT
            x1, y1 = port(other, other.above, node), top(other)
            middle = (y0 + y1) / 2
            curve = f"M{x0:.1f} {y0:.1f}C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
            parts.append(_path(curve, arrow=bool(other.name)))
    for node in (node for row in rows for node in row if node.name):
        x, y, n = node.x - left, top(node), modules[node.name]
        is_module = (ROOT / PACKAGE / f"{node.name}.py").exists()
        parts += [
            f'<rect x="{x - BOX_WIDTH / 2:.1f}" y="{y:.1f}" width="{BOX_WIDTH:g}" height="{BOX_HEIGHT:g}" rx="6"'
            f' fill="{FILL}" stroke="{ACCENT}"/>',
            _text(x, y + 17, node.name, "bold", anchor="middle"),
            _text(x, y + 30, "module" if is_module or n == 1 else f"{n} modules", "small", MUTED, "middle"),
        ]
    description = "Packages of nomad_dask. " + " ".join(
        f"{name} imports from {', '.join(sorted(out)) or 'no other'}." for name, out in imports.items()
    )
    return _svg(right - left, height, "The packages and their imports", description, parts)


# ---------------------------------------------------------------------------------------- the functions of a fit


@dataclass(frozen=True)
class Call:
    """A function, with the package of its first caller; `depth` counts the calls from `fit` on."""

    caller: str
    package: str
    name: str
    depth: int

    @property
    def label(self) -> str:
        return self.name.rpartition(".")[2].strip("_")


@cache
def _module(module: str) -> tuple[dict[str, str], dict[str, ast.stmt]]:
    """Return what a module imports from this package, and what it defines, by name."""
    file = module_file(module)
    if file is None:
        raise ValueError(f"{module} is not a module.")
    tree = ast.parse(file.read_text())
    defined: dict[str, ast.stmt] = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return imported_names(tree), defined


def _definition(module: str, name: str) -> tuple[str, str, ast.stmt | None] | None:
    """Return the module, name and definition that a name in a module stands for; for a module no definition."""
    imported, defined = _module(module)
    if name in defined:
        return module, name, defined[name]
    if name not in imported:
        return None
    if module_file(imported[name]):
        return imported[name], "", None
    origin, _, original = imported[name].rpartition(".")
    return _definition(origin, original) if module_file(origin) else None


def _resolve(module: str, node: ast.AST) -> tuple[str, str, ast.stmt] | None:
    """Return the module, name and definition of a name, or of an attribute of a module; None for anything else."""
    found = None
    if isinstance(node, ast.Name):
        found = _definition(module, node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = _definition(module, node.value.id)
        found = _definition(owner[0], node.attr) if owner and owner[2] is None else None
    return (found[0], found[1], found[2]) if found and found[2] is not None else None


def _stage_functions() -> Iterator[tuple[str, str, ast.stmt]]:
    """Yield the functions of the stages, in the order of their table."""
    for package in OPENED:
        for file in sorted((ROOT / PACKAGE / package).glob("*.py")):
            for statement in ast.parse(file.read_text()).body:
                if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
                    continue
                for node in ast.walk(statement):
                    if isinstance(node, ast.keyword) and node.arg == STAGE_FUNCTION:
                        found = _resolve(f"{PACKAGE}.{package}.{file.stem}", node.value)
                        if found:
                            yield found


class _Walker:
    """Follows the functions that a function refers to, in the order of the code, through the opened packages."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._seen: set[tuple[str, str]] = set()

    def visit(self, module: str, name: str, node: ast.stmt, owner: ast.ClassDef | None, caller: Call | None) -> None:
        if (module, name) in self._seen:
            return
        self._seen.add((module, name))
        package = package_of(module)
        if isinstance(node, ast.FunctionDef):
            first = caller.package if caller else package
            caller = Call(first, package, name, caller.depth + 1 if caller else 0)
            self.calls.append(caller)
        if package in OPENED:
            owner = node if isinstance(node, ast.ClassDef) else owner
            for target in self._references(module, node, owner):
                self.visit(*target, caller)

    def _references(
        self, module: str, node: ast.stmt, owner: ast.ClassDef | None
    ) -> Iterator[tuple[str, str, ast.stmt, ast.ClassDef | None]]:
        names = [child for child in ast.walk(node) if isinstance(child, (ast.Name, ast.Attribute))]
        compared = [child.left for child in ast.walk(node) if isinstance(child, ast.Compare)]
        for child in sorted(names, key=lambda child: (child.lineno, child.col_offset)):
            if found := _resolve(module, child):
                yield *found, None
            elif isinstance(child, ast.Attribute) and child.attr == STAGE_FUNCTION and child not in compared:
                yield from ((*found, None) for found in _stage_functions())
            elif isinstance(child, ast.Attribute) and owner and ast.unparse(child.value) in ("self", "cls"):
                for method in owner.body:
                    if isinstance(method, ast.FunctionDef) and method.name == child.attr:
                        yield module, f"{owner.name}.{method.name}", method, owner


def calls_of_fit() -> list[Call]:
    """Return the functions that a fit calls, in the order of the code.

    Of the opened packages these are the functions that call into another package that handles rows.
    """
    module = f"{PACKAGE}.estimator"
    owner = _module(module)[1]["NomadProjection"]
    if not isinstance(owner, ast.ClassDef):
        raise TypeError("NomadProjection is not a class.")
    fit = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    walker = _Walker()
    walker.visit(module, "NomadProjection.fit", fit, owner, None)
    calls = [call for call in walker.calls if call.package not in SUPPORT]

    def is_shown(i: int) -> bool:
        """Return whether a call leaves the opened packages, itself or in a call that it makes."""
        if calls[i].package not in OPENED:
            return True
        inner = []
        for call in calls[i + 1 :]:
            if call.depth <= calls[i].depth:
                break
            inner.append(call)
        return any(call.package not in OPENED and call.depth == calls[i].depth + 1 for call in inner)

    return [call for i, call in enumerate(calls) if is_shown(i)]


LANE, ROW, HEADER = 88.0, 21.0, 44.0


def draw_fit() -> str:
    """Return the drawing of the functions that a fit calls: a lane for each package, a row for each function."""
    calls = calls_of_fit()
    rows_of = {
        package: [i for i, call in enumerate(calls) if call.package == package]
        for package in {c.package for c in calls}
    }
    order = sorted(rows_of, key=lambda p: (p not in OPENED, OPENED.index(p) if p in OPENED else median(rows_of[p]), p))
    lanes = {package: 52 + i * LANE for i, package in enumerate(order)}
    height = HEADER + len(calls) * ROW + 16
    width = max(lanes[call.package] + 10 + len(call.label) * CHARACTER for call in calls) + 16
    parts = []
    for package, x in lanes.items():
        parts.append(f'<rect x="{x - LANE / 2 + 3:.1f}" y="10" width="{LANE - 6:g}" height="22" rx="5" fill="{FILL}"/>')
        parts.append(_text(x, 25, package, "bold", ACCENT, "middle"))
        parts.append(_path(f"M{x:.1f} 32V{height - 10:.1f}", LINE))
    for i, call in enumerate(calls):
        x, y = lanes[call.package], HEADER + (i + 0.5) * ROW
        start = lanes.get(call.caller, x)
        if start != x:
            sign = 1 if x > start else -1
            parts.append(_path(f"M{start:.1f} {y:.1f}H{x - 5 * sign:.1f}", MUTED, arrow=True))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{ACCENT}"/>')
        parts.append(_text(x + 9, y + 4, call.label, "bold" if call.package in OPENED else "", halo=True))
    description = "In this order: " + ", ".join(f"{call.package}.{call.label}" for call in calls) + "."
    return _svg(width, height, "The functions that a fit calls", description, parts)


# ------------------------------------------------------------------------------------------------------- drawing


def _path(data: str, color: str = MUTED, *, arrow: bool = False) -> str:
    marker = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<path d="{data}" fill="none" stroke="{color}"{marker}/>'


def _text(
    x: float, y: float, text: str, style: str = "", color: str = INK, anchor: str = "start", *, halo: bool = False
) -> str:
    outline = ' stroke="#fff" stroke-width="4" paint-order="stroke" stroke-linejoin="round"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" fill="{color}" text-anchor="{anchor}"{outline}>'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, title: str, description: str, parts: list[str]) -> str:
    """Return a drawing on a white ground, so that it can be read on a dark page too."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
            f' height="{height:.0f}" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(description)}</desc>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            f' orient="auto"><path d="M0 0.5L7.5 4L0 7.5z" fill="{MUTED}"/></marker></defs>',
            '<rect width="100%" height="100%" rx="8" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


DRAWINGS = {"layers.svg": draw_layers, "fit.svg": draw_fit}


def main() -> None:
    for name, draw in DRAWINGS.items():
        (IMAGES / name).write_text(draw())


if __name__ == "__main__":
    main()
