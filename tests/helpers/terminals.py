"""Scripts on a real pseudo-terminal, and what they leave on its screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import sys, time
from nomad_dask.callbacks import *
from nomad_dask.callbacks.progress_bars import progress_bars
"""


def on_a_terminal(script: str, columns: int = 120) -> str:
    """Run a script whose standard error is a terminal of so many columns; return all that it wrote there."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are a thing of Unix")
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    code = PRELUDE + textwrap.dedent(script)
    child = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=environment)
    os.close(slave)
    written = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux ends a terminal whose last writer went away with EIO
            break
        if not piece:
            break
        written += piece
    os.close(master)
    assert child.wait() == 0, written.decode()
    return written.decode()


def screen(written: str) -> list[str]:
    """Return the lines that are left on the screen, by following the cursor."""
    lines: list[str] = [""]
    row = column = 0
    for token in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token.startswith("\x1b"):
            if token.endswith("A"):
                row -= int(token[2:-1] or 1)
            elif token == "\x1b[2K":
                lines[row] = ""
            elif not token.endswith(("m", "l", "h")):
                raise AssertionError(f"unknown control sequence {token!r}")
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]
