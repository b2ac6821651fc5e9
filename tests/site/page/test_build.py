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
BUNDLE = ROOT / "nomad_dask" / "site" / "web"
LIVE = ROOT / "nomad_dask" / "callbacks" / "live"
FILES = {"index.html", "app.js", "app.css", "LICENSES.txt"}
MAX_WORD_LENGTH = 64
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


def test_page_is_complete_and_requests_nothing_from_elsewhere() -> None:
    assert {p.name for p in BUNDLE.iterdir()} == FILES
    page = (BUNDLE / "index.html").read_text()
    assert (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'none'"
        in page
    )
    code = (BUNDLE / "app.js").read_text()
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
    # The name of the SVG namespace looks like an address, but nothing is requested from it.
    texts = code.replace("http://www.w3.org/2000/svg", "") + (BUNDLE / "app.css").read_text()
    assert re.findall(r"(?:https?:)?//[a-z]", texts) == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with their npm packages, built into ``dist/site/web`` and ``dist/callbacks/live``."""
    web = tmp_path_factory.mktemp("page") / "web"
    shutil.copytree(ROOT / "web", web, ignore=shutil.ignore_patterns("node_modules"))
    for command in (["ci", "--no-audit", "--no-fund"], ["run", "build", "--", str(web.parent / "dist")]):
        subprocess.run(["npm", "--silent", *command], check=True, cwd=web)
    return web


@pytest.mark.slow
@needs_npm
def test_rebuilt_page_has_same_bytes(built: Path) -> None:
    for name in FILES:
        fresh = built.parent / "dist/site/web" / name
        assert fresh.read_bytes() == (BUNDLE / name).read_bytes(), f"{name}: run make web"


@pytest.mark.slow
@needs_npm
def test_rebuilt_live_map_has_same_bytes(built: Path) -> None:
    for name in ("live.js", "live.css"):
        fresh = built.parent / "dist/callbacks/live" / name
        assert fresh.read_bytes() == (LIVE / name).read_bytes(), f"{name}: run make web"


@pytest.mark.slow
@needs_npm
def test_tokenizer_agrees_with_python_on_all_characters(built: Path) -> None:
    code = """
import { fnv1a, tokenize } from "./tokenizer.mjs";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const words = tokenize(String.fromCodePoint(...line.split(" ").map(Number)));
  console.log(JSON.stringify(words.map((word) => [word, fnv1a(new TextEncoder().encode(word))])));
}
"""
    (built / "words.mjs").write_text(code)
    esbuild = str(built / "node_modules" / ".bin" / "esbuild")
    options = ["--bundle", "--format=esm", "--outfile=tokenizer.mjs", "--log-level=warning"]
    subprocess.run([esbuild, "src/search/tokenizer.ts", *options], check=True, cwd=built)
    assigned = [c for c in range(0x20, sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = [f"a {chr(c)}B" for c in assigned] + ["ΣΊΣΥΦΟΣ straße", "İstanbul", "x" * 100]
    lines = "\n".join(" ".join(str(ord(c)) for c in text) for text in texts)
    node = shutil.which("node") or "node"
    out = subprocess.run([node, "words.mjs"], input=lines, check=True, cwd=built, capture_output=True, text=True).stdout
    wrong = []
    for text, line in zip(texts, out.splitlines(), strict=True):
        expected = [(w[:MAX_WORD_LENGTH], fnv(w[:MAX_WORD_LENGTH])) for w in words_of(text)]
        if [tuple(pair) for pair in json.loads(line)] != expected:
            wrong.append((text, line))
    assert not wrong, wrong[:40]
