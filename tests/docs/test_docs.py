"""Every code block in the docs and the README runs, in the order of its page, on real data.

A block that cannot run in a test is preceded by a comment with one of a few reasons. External services are replaced by
local ones of the same kind: an S3 server, a scheduler and workers in separate processes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from nomad_dask import NomadProjection
from tests.helpers.commands import run_command
from tests.helpers.object_store import s3
from tests.helpers.processes import kill_tree, wait_until

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROWS = 800

REASONS = {"needs a GPU", "installs from the network", "needs a cluster of another kind"}
RUN = {"python", "sh", "console"}
SHOWN = {"output", "text"}  # the output of the previous block, and lines with placeholders
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*?) -->\n+)?^(?P<fence>```+)(?P<language>\w*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
SERVICE = re.compile(r"dask (scheduler|worker) ")


@dataclass(frozen=True)
class Block:
    """A code block with its language, the reason if it is not run, and its first line."""

    language: str
    code: str
    reason: str | None
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(m["language"], m["code"], m["reason"], text.count("\n", 0, m.start("fence")) + 1)
        for m in BLOCK.finditer(text)
    ]


ALL = [(page, block) for page in PAGES for block in blocks_of(page)]
WITH_CODE = [page for page in PAGES if any(b.language in RUN and not b.reason for other, b in ALL if other == page)]


def name_of(page: Any) -> str:
    return page.relative_to(ROOT).as_posix()


def test_every_block_has_a_known_language():
    for page, block in ALL:
        assert block.language in RUN | SHOWN, f"{name_of(page)}:{block.line} is a block of {block.language!r}"
    for page in PAGES:
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(blocks_of(page)), f"{name_of(page)} has a block that is not recognized"


def test_every_block_that_is_not_run_has_a_known_reason():
    assert {block.reason for _, block in ALL if block.reason} == REASONS
    markers = sum(page.read_text().count("<!-- not run:") for page in PAGES)
    assert markers == sum(block.reason is not None for _, block in ALL), "a marker is not followed by a block"


def test_only_lines_with_placeholders_are_text():
    for page, block in ALL:
        if block.language == "text":
            assert re.search(r"\b[A-Z]{3,}\b|\[", block.code), f"{name_of(page)}:{block.line} could be run"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages use: Debian packages, under the names on the pages."""
    folder = tmp_path_factory.mktemp("prepared")
    table = pq.read_table(ROOT / "notebooks/packages.parquet").slice(0, ROWS)
    (folder / "embeddings").mkdir()
    (folder / "shared/embeddings").mkdir(parents=True)
    for name in ("embeddings.parquet", "big.parquet", "embeddings/part-0.parquet"):
        pq.write_table(table, folder / name)
    vectors = np.stack(table.column("embedding").to_numpy())
    np.save(folder / "shared/embeddings.npy", vectors)
    nomad = NomadProjection(preset="fast").fit(
        folder / "embeddings.parquet", metadata_columns=["name", "section", "text"]
    )
    nomad.map_.to_parquet(folder / "shared/map.parquet")
    return folder


class Runner:
    """Runs the blocks of one page in a folder, with local replacements of external services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self.has_exports = False  # which this process does not get
        self.vectors = np.load(folder / "shared/embeddings.npy").astype(np.float32)
        self.names: dict[str, Any] = {"__name__": "docs", "X": self.vectors}
        self.services: list[tuple[subprocess.Popen[bytes], Path]] = []
        self.port = 0

    def localize(self, text: str) -> str:
        """Replace external addresses and paths by local ones."""
        text = re.sub(r"\b(10\.0\.0\.1|scheduler):8786", f"127.0.0.1:{self.port}", text)
        # Smaller posters, in a fraction of the time.
        text = text.replace("6000x5000", "600x500").replace("(2400, 2000)", "(480, 400)")
        return text.replace("10.0.0.1", "127.0.0.1").replace("/shared/", f"{self.folder}/shared/")

    def run(self, block: Block) -> str:
        """Run a block and return its output."""
        if block.language == "python":
            return self._python(block)
        code = block.code
        if block.language == "console":
            code = re.sub(r"^\w+\$ ", "", code, flags=re.MULTILINE)
        printed = ""
        for command in filter(None, code.replace("\\\n", " ").splitlines()):
            printed += self._command(command)
        return printed

    def _python(self, block: Block) -> str:
        if "scheduler:8786" in block.code:
            self._serve("dask scheduler --host 127.0.0.1")
            self._serve(f"dask worker 127.0.0.1:{self.port} --nthreads 1 --no-nanny")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(self.localize(block.code), f"line {block.line}", "exec"), self.names)
        return printed.getvalue()

    def _command(self, command: str) -> str:
        if SERVICE.match(command):
            self._serve(command)
            return ""
        command = self.localize(command)
        if found := re.match(r"export (\w+)=(.*)", command):
            self.environment[found[1]] = found[2]
            self.has_exports = True
            return ""
        if command.startswith("nomad-dask view "):
            return self._view(command)
        if command.startswith("nomad-dask ") and not self.has_exports:
            code, out, errors = run_command(shlex.split(command, comments=True)[1:])
            assert code == 0, f"{command}\n{out}{errors}"
            return out
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        """Start a scheduler or a worker, and wait until it is ready."""
        if command.startswith("dask scheduler"):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            host = "" if "--host" in command else " --host 127.0.0.1"
            command += f"{host} --port {self.port} --dashboard-address 127.0.0.1:0"
            ready_message = "Scheduler at:"
        else:
            command = re.sub(r"--nthreads \d+", "--nthreads 1", command) + " --no-dashboard"
            ready_message = "Registered to:"
        log = self.folder / f"service-{len(self.services)}.log"
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {self.localize(command)}"],
            cwd=self.folder, env=self.environment, stdout=log.open("wb"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.services.append((process, log))
        wait_until(lambda: ready_message in log.read_text() or process.poll() is not None, 120, command)
        assert process.poll() is None, f"{command}\n{log.read_text()}"

    def _view(self, command: str) -> str:
        """Open the page that a command serves, then stop the command like Ctrl-C."""
        process = subprocess.Popen(
            ["bash", "-euc", f"exec {command}"],
            cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(address, timeout=30) as response:
                assert b"<html" in response.read()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        finally:
            kill_tree(process.pid)
        return f"{address}\n"

    def close(self) -> None:
        """Stop all services."""
        from distributed import default_client

        with contextlib.suppress(ValueError):
            default_client().close()
        for process, _ in reversed(self.services):
            kill_tree(process.pid)
            process.wait()


@pytest.fixture
def runner(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    started = Runner(folder)
    try:
        yield started
    finally:
        started.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_page(page: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    creates_map = any("-o map.parquet" in block.code for block in blocks if not block.reason)
    if not creates_map:  # then the page assumes that there is one
        shutil.copy(runner.folder / "shared/map.parquet", runner.folder)
    with contextlib.ExitStack() as stack:
        if any("s3://" in block.code for block in blocks):
            store = stack.enter_context(s3(monkeypatch.setenv))
            runner.environment |= {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
            store.put(runner.folder / "embeddings", bucket="bucket")
        if any("ca.pem" in block.code for block in blocks):
            write_certificates(runner.folder)
        printed = ""
        for block in blocks:
            if block.language == "output":
                assert printed == block.code, f"{name_of(page)}:{block.line}"
            elif block.language in RUN and not block.reason:
                started = time.monotonic()
                printed = runner.run(block)
                print(f"{name_of(page)}:{block.line} took {time.monotonic() - started:.1f} s")


def write_certificates(folder: Path) -> None:
    """Write a self-signed certificate and its key."""
    from distributed.security import Security

    security = Security.temporary()
    (folder / "ca.pem").write_text(security.tls_ca_file)
    (folder / "cert.pem").write_text(security.tls_scheduler_cert)
    (folder / "key.pem").write_text(security.tls_scheduler_key)


def test_numbers_on_reading_maps_are_those_that_were_measured() -> None:
    page = (ROOT / "docs/reading.md").read_text()
    figures = json.loads((ROOT / "docs/images/figures.json").read_text())
    first, second = figures["seeds"]["scores"]
    assert f"NP@10 is {first['NP@10']:.3f} and {second['NP@10']:.3f}" in page
    assert f"label accuracy {first['label accuracy']:.3f} and {second['label accuracy']:.3f}" in page
    assert f"only {100 * figures['seeds']['common neighbors']:.0f} %" in page
    assert f"NP@10 is {figures['noise']['NP@10']:.3f} and RTA {figures['noise']['RTA']:.3f}" in page
    data, drawn = figures["widths"]["data"], figures["widths"]["map"]
    rows = {f"width of the {name} group": name for name in ("narrow", "middle", "wide", "far")}
    rows |= {f"distance from the middle group to the {name} one": f"to {name}" for name in ("wide", "far")}
    for title, name in rows.items():
        (shown,) = re.findall(rf"^\| {title} \| (\S+) \| (\S+) \|$", page, re.MULTILINE)
        for text, value in zip(shown, (data[name], drawn[name]), strict=True):
            assert abs(float(text) - value) <= 0.5 * 10.0 ** -len(text.partition(".")[2])
