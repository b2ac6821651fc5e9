"""The commands: output, served files, and exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nomad_dask.site.export import export
from tests.helpers import site_maps as sites
from tests.helpers.processes import NOMAD, command_line


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [NOMAD, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr, re.DOTALL), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def site(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("site") / "site"
    export(blobs, path)
    return path


def test_export_prints_the_page_and_takes_all_options(blobs, tmp_path):
    done = run(
        "export", blobs, "-o", tmp_path / "s", "--color", "group, score", "--hover", "name,group", "--search", "name",
        "--title", "Heaps", "--tile-rows", 500, "-v",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 's' / 'index.html'}\n"
    assert {"extent", "columns", "tiles", "pictures", "text", "search"} <= {
        line.split(":")[0] for line in done.stderr.splitlines()
    }
    about = sites.about(tmp_path / "s")
    assert (about["title"], about["tile_rows"], about["hover"]) == ("Heaps", 500, ["name", "group"])
    assert [c["name"] for c in about["columns"] if c["in_tiles"]] == ["group", "score"]
    assert about["search"]["columns"] == ["name"]


def test_export_json_counts_what_was_written(blobs, tmp_path):
    done = run("export", blobs, "-o", tmp_path / "s", "--hover", "", "--search", "", "--color", "cell", "--json")
    result = json.loads(done.stdout)
    assert (result["path"], result["rows"], result["levels"]) == (str(tmp_path / "s"), 20_000, 2)
    assert result["bytes"] == sum(map(len, sites.files(tmp_path / "s").values()))
    assert sites.about(tmp_path / "s")["title"] == "blobs"
    assert sites.about(tmp_path / "s")["search"] is None


def test_export_refuses_without_a_traceback(blobs, site, tmp_path):
    refused(run("export", tmp_path / "no.parquet", "-o", tmp_path / "s"), r"The map .* does not exist")
    refused(run("export", blobs, "-o", tmp_path / "s", "--color", "gruop"), "Did you mean 'group'")
    refused(run("export", blobs, "-o", site), "already holds a site.*--overwrite")
    refused(run("export", blobs), "Missing option '-o'")
    assert list(tmp_path.iterdir()) == []


def get(address: str, **headers: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, b"", ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_view_serves_a_map_until_it_is_stopped(blobs, tmp_path, how):
    with command_line("view", blobs, "--quiet", env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), process.communicate()
        status, page, kind = get(address)
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert page.startswith(b"<!doctype html>")
        folder = next(tmp_path.glob("nomad-dask-*/site"))
        for name, kind in (("site.js", "text/javascript; charset=utf-8"), ("overview/0.png", "image/png")):
            assert get(address + name) == (200, (folder / name).read_bytes(), kind)
        for missing in ("nothing.js", "tiles/", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "tiles/9/9-9.js"):
            assert get(address + missing)[0] == 404
        # A host name of another site that resolves to this address.
        assert get(address + "site.js", Host="evil.example")[0] == 403
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "Ctrl-C ends.\n")
    assert list(tmp_path.iterdir()) == []


def test_view_reports_no_connection_that_a_browser_resets(blobs, tmp_path):
    with command_line("view", blobs, "--quiet", env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        port = int(address.rstrip("/").rsplit(":", 1)[1])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as browser:
                browser.sendall(f"GET /site.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                # Closing sends a reset, while the server writes its answer.
                browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert get(address)[0] == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "Ctrl-C ends.\n")


def test_view_keeps_the_site_where_asked_and_serves_it_again(blobs, tmp_path):
    for arguments in (["view", blobs, "-o", tmp_path / "s", "--title", "Kept"], ["view", tmp_path / "s"]):
        with command_line(*map(str, arguments)) as process:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert get(address + "site.js")[1] == (tmp_path / "s" / "site.js").read_bytes()
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        assert process.returncode == 0
    assert sites.about(tmp_path / "s")["title"] == "Kept"


def test_view_of_a_port_that_is_taken_names_it_before_the_work(blobs, site, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for what in (blobs, site):
            refused(run("view", what, "--port", port, "--quiet"), f"Port {port} of 127.0.0.1 is in use: use another")
    assert list(tmp_path.iterdir()) == []


def test_view_refuses(blobs, site, tmp_path):
    refused(run("view", tmp_path), "holds no site: use a map, or a folder written by 'export'")
    refused(run("view", site, "--color", "group"), "is already a site")
    refused(run("view", blobs, "--port", 70_000), "70000 is not in the range")
    refused(run("view", blobs, "-o", site), "already holds a site")
