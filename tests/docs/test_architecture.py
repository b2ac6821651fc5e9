"""The drawings of the architecture show what the code imports and calls now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.scripts import loaded
from tests.test_imports import FILES, PACKAGE, ROOMS, imports, room_of

ROOT = Path(__file__).parents[2]
COMMAND = "python docs/draw_architecture.py"
CHARACTER = 7.3  # pixels of a monospace character at 12 pixels


@pytest.fixture(scope="module")
def drawing() -> Iterator[ModuleType]:
    with loaded(ROOT / "docs/draw_architecture.py") as module:
        yield module


@pytest.mark.parametrize("name", ["layers.svg", "fit.svg"])
def test_drawing_is_up_to_date(drawing: ModuleType, name: str) -> None:
    assert (ROOT / "docs/images" / name).read_text() == drawing.DRAWINGS[name](), f"run {COMMAND}"


def test_page_shows_every_drawing_and_how_to_make_it(drawing: ModuleType) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert all(f"(images/{name})" in page for name in drawing.DRAWINGS)
    assert COMMAND in page


def test_layers_show_the_imports_of_the_code(drawing: ModuleType) -> None:
    """The imports are those that the test of imports finds, and arrows lead to each of them and to nothing else."""
    expected: dict[str, set[str]] = {name: set() for name in ROOMS}
    for file in FILES:
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in expected:
            expected[room] |= {room_of(name) for name in imports(file)} & set(ROOMS) - {room}
    assert drawing.package_imports() == expected
    arrows = drawing.without_implied(expected)
    for name, out in expected.items():
        assert arrows[name] <= out
        assert out <= drawing.reachable(arrows, name)
        for other in arrows[name]:
            rest = {**arrows, name: arrows[name] - {other}}
            assert other not in drawing.reachable(rest, name), f"the arrow from {name} to {other} follows from others"


def test_transitive_reduction_and_levels_of_a_small_graph(drawing: ModuleType) -> None:
    graph: dict[str, set[str]] = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}, "e": {"a"}}
    assert drawing.without_implied(graph) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}, "e": {"a"}}
    assert drawing.levels_of(graph) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 1}


def test_boxes_of_layers_do_not_overlap_and_hold_their_names(drawing: ModuleType) -> None:
    text = (ROOT / "docs/images/layers.svg").read_text()
    number = r'="([\d.]+)"'
    boxes = [
        tuple(map(float, found))
        for found in re.findall(rf"<rect x{number} y{number} width{number} height{number}", text)
    ]
    assert len(boxes) == len(ROOMS)
    for (x0, y0, width, height), (x1, y1, _, _) in combinations(boxes, 2):
        assert abs(x0 - x1) > width or abs(y0 - y1) > height
    names = re.findall(r'class="bold"[^>]*>([^<]+)<', text)
    assert sorted(names) == sorted(ROOMS)
    assert max(map(len, names)) * CHARACTER < boxes[0][2]


def test_fit_leads_from_the_source_to_the_map(drawing: ModuleType) -> None:
    calls = [(call.package, call.label) for call in drawing.calls_of_fit()]
    assert calls[0] == ("estimator", "fit")
    packages = list(dict.fromkeys(package for package, _ in calls))
    wanted = ["sources", "planning", "partition", "neighbors", "layout", "maps"]
    assert [name for name in ROOMS if name in packages and name in wanted] == wanted
    first = {name: next(i for i, call in enumerate(calls) if call[0] == name) for name in wanted[:-1]}
    assert list(first.values()) == sorted(first.values()), "the stages are out of order"
    assert calls.index(("maps", "write_map")) > first["layout"]
