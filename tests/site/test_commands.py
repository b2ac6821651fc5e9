"""The commands: output, served files, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread

import pytest

from nomad_dask.site.export import export
from nomad_dask.site.server import Server
from tests.helpers import site_maps as sites
from tests.helpers.processes import command_line, run_nomad


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
    done = run_nomad(
        "export", blobs, "-o", tmp_path / "s", "--color", "group, score", "--hover", "name,group", "--search", "name",
        "--title", "Heaps", "--tile-rows", 500, "-v", from_new=True,
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
    done = run_nomad("export", blobs, "-o", tmp_path / "s", "--hover", "", "--search", "", "--color", "cell", "--json")
    result = json.loads(done.stdout)
    assert (result["path"], result["rows"], result["levels"]) == (str(tmp_path / "s"), 20_000, 2)
    assert result["bytes"] == sum(map(len, sites.files(tmp_path / "s").values()))
    assert sites.about(tmp_path / "s")["title"] == "blobs"
    assert sites.about(tmp_path / "s")["search"] is None


def test_export_refuses_without_a_traceback(blobs, site, tmp_path):
    refused(run_nomad("export", tmp_path / "no.parquet", "-o", tmp_path / "s"), r"The map .* does not exist")
    refused(run_nomad("export", blobs, "-o", tmp_path / "s", "--color", "gruop"), "Did you mean 'group'")
    refused(run_nomad("export", blobs, "-o", site), "already holds a site.*--overwrite")
    refused(run_nomad("export", blobs), "Missing option '-o'")
    assert list(tmp_path.iterdir()) == []


def get(address: str, **headers: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, b"", ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_view_serves_a_map_until_it_is_stopped(blobs, tmp_path, how):
    env = {"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    with command_line("view", blobs, "--quiet", env=env, from_new=how == signal.SIGINT) as process:
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


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[tuple[str, int]]:
    """The address of `view` of a site and its port; the process must have nothing to report in the end."""
    with command_line("view", site) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        yield address, int(address.rstrip("/").rsplit(":", 1)[1])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "Ctrl-C ends.\n")


def ask(port: int, path: str, *headers: str) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of the answer to a request, sent as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers)
        client.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        answer = client.makefile("rb").read().decode("latin-1")
    status, *lines = answer.partition("\r\n\r\n")[0].split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize(
    ("site_of_request", "more", "path", "status"),
    [
        ("same-origin", (), "/site.js", 200),
        ("none", (), "/", 200),  # an address that the reader typed
        ("cross-site", (), "/site.js", 403),
        ("same-site", ("no-cors", "script"), "/site.js", 403),  # another port of this machine
        ("cross-site", ("no-cors", "image"), "/overview/0.png", 403),
        ("cross-site", ("navigate", "iframe"), "/", 403),
        ("cross-site", ("navigate", "document"), "/", 200),  # a link from a notebook
        ("cross-site", ("navigate", "document"), "/site.js", 403),
    ],
)
def test_view_answers_no_other_site(served, site_of_request, more, path, status):
    headers = [f"Sec-Fetch-Site: {site_of_request}"]
    headers += [f"Sec-Fetch-{name}: {value}" for name, value in zip(("Mode", "Dest"), more, strict=False)]
    found, sent = ask(served[1], path, *headers)
    assert found == status
    assert sent["Cross-Origin-Resource-Policy"] == "same-origin"
    assert sent["X-Content-Type-Options"] == "nosniff"


def test_view_answers_no_script_of_another_origin(served):
    address, port = served
    assert ask(port, "/site.js", "Origin: https://evil.example")[0] == 403
    assert ask(port, "/site.js", "Origin: null")[0] == 403
    assert ask(port, "/site.js", f"Origin: {address.rstrip('/')}")[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /site.js HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
        b"Sec-Fetch-Dest: document\r\n\r\n",
        b"GET /site.js HTTP/1.1\r\nHost: {host}\r\nIf-Modified-Since: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * 70_000,
    ],
    ids=range(9),
)
def test_view_has_nothing_to_report_of_broken_requests(served, request_):
    port = served[1]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request_.replace(b"{host}", b"127.0.0.1:%d" % port))
        client.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):  # it may close the connection before it has read all
            client.makefile("rb").read()
    assert ask(port, "/")[0] == 200


@pytest.mark.parametrize("path", ["/%00", "/site.js%00", "/%ff", "/%ed%a0%80", "/" + 300 * "x", "/site.js/", "/tiles"])
def test_view_has_no_file_of_an_impossible_name(served, path):
    assert ask(served[1], path)[0] == 404
    assert ask(served[1], "/")[0] == 200


def test_view_serves_nothing_but_regular_files_of_its_folder(site, tmp_path):
    folder = tmp_path / "site"
    shutil.copytree(site, folder)
    (tmp_path / "secret.js").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "other.js").write_text("secret")
    (folder / "leaves.js").symlink_to(tmp_path / "secret.js")
    (folder / "folder").symlink_to(tmp_path / "secrets")
    (folder / "circle.js").symlink_to(folder / "circle.js")
    (folder / "stays.js").symlink_to("site.js")
    os.mkfifo(folder / "waits.js")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    with command_line("view", linked) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        for name in ("leaves.js", "folder/other.js", "circle.js", "waits.js", "../secret.js", "..%2fsecret.js"):
            assert get(address + name)[0] == 404, name
        assert get(address + "stays.js")[1] == (site / "site.js").read_bytes()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "Ctrl-C ends.\n")


def test_view_answers_in_spite_of_connections_that_ask_for_nothing(served):
    address, port = served
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        assert get(address)[0] == 200
        # Only so many are kept: the first ones have been closed.
        for first in idle[:200]:
            first.settimeout(30)
            assert first.recv(1) == b""


def test_view_closes_a_connection_that_stays_idle(site):
    with Server(site, idle_seconds=0.2) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_connection(server.server_address) as idle:
            idle.settimeout(30)
            idle.sendall(b"GET / HTTP/1.1\r\nHost:")
            assert idle.recv(1) == b""
        server.shutdown()


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
            refused(
                run_nomad("view", what, "--port", port, "--quiet"),
                f"Port {port} of 127.0.0.1 is in use: use another",
            )
    assert list(tmp_path.iterdir()) == []


def test_view_refuses(blobs, site, tmp_path):
    refused(run_nomad("view", tmp_path), "holds no site: use a map, or a folder written by 'export'")
    refused(run_nomad("view", site, "--color", "group"), "is already a site")
    refused(run_nomad("view", blobs, "--port", 70_000), "70000 is not in the range")
    refused(run_nomad("view", blobs, "-o", site), "already holds a site")
