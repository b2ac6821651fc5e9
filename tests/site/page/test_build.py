from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.helpers.small_sites import fnv, words_of

ROOT = Path(__file__).parents[3]
DIST = ROOT / "nomad_dask" / "site" / "web"
FILES = {"index.html", "app.js", "app.css", "LICENSES.txt"}


def test_the_page_is_there_and_asks_for_nothing_from_elsewhere() -> None:
    assert {p.name for p in DIST.iterdir()} == FILES
    page = (DIST / "index.html").read_text()
    assert (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'none'"
        in page
    )
    code = (DIST / "app.js").read_text()
    for forbidden in (
        "eval(",
        "new Function",
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "fetch(",
    ):
        assert forbidden not in code
    # The name of the space of SVG elements is no address that is asked for anything.
    texts = code.replace("http://www.w3.org/2000/svg", "") + (DIST / "app.css").read_text()
    assert re.findall(r"(?:https?:)?//[a-z]", texts) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with what they need from npm, built into ``dist`` beside it."""
    web = tmp_path_factory.mktemp("page") / "web"
    shutil.copytree(ROOT / "web", web, ignore=shutil.ignore_patterns("node_modules"))
    for command in (
        ["ci", "--no-audit", "--no-fund"],
        ["run", "check"],
        ["run", "build", "--", str(web.parent / "dist")],
    ):
        subprocess.run(["npm", "--silent", *command], check=True, cwd=web)
    return web


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="There is no npm here")
def test_building_it_again_gives_the_same_bytes(built: Path) -> None:
    for name in FILES:
        assert (built.parent / "dist" / name).read_bytes() == (DIST / name).read_bytes(), f"{name}: run make web"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="There is no npm here")
def test_words_are_the_same_as_in_python(built: Path) -> None:
    code = """
import { hashOf, wordsOf } from "./search.mjs";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const words = wordsOf(String.fromCodePoint(...line.split(" ").map(Number)));
  console.log(JSON.stringify(words.map((word) => [word, hashOf(new TextEncoder().encode(word))])));
}
"""
    (built / "words.mjs").write_text(code)
    esbuild = built / "node_modules" / ".bin" / "esbuild"
    bundle = [str(esbuild), "src/search/searchIndex.ts", "--bundle", "--format=esm", "--outfile=search.mjs", "--log-level=warning"]
    subprocess.run(bundle, check=True, cwd=built)
    known = [c for c in range(0x20, sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = [f"a {chr(c)}B" for c in known] + ["ΣΊΣΥΦΟΣ straße", "İstanbul", "x" * 100]
    lines = "\n".join(" ".join(str(ord(c)) for c in text) for text in texts)
    node = shutil.which("node") or "node"
    out = subprocess.run([node, "words.mjs"], input=lines, check=True, cwd=built, capture_output=True, text=True).stdout
    wrong = [
        (text, found)
        for text, line in zip(texts, out.splitlines(), strict=True)
        if (found := [tuple(pair) for pair in json.loads(line)]) != [(w[:64], fnv(w[:64])) for w in words_of(text)]
    ]
    assert not wrong, wrong[:40]
