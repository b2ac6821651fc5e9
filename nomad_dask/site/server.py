"""A local web server for a site, on the loopback address only."""

from __future__ import annotations

import errno
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nomad_dask.errors import InputError

_HOST = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """Serves a folder, which may still be empty, until it is stopped.

    Parameters
    ----------
    folder : Path
    port : int
        0 for any free port.

    Raises
    ------
    InputError
        The port is in use, or not permitted.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        try:
            super().__init__((_HOST, port), partial(_Handler, directory=str(folder)))
        except OSError as error:
            problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise InputError(f"Port {port} of {_HOST} {problem}: use another, or none for a free one.") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report the error of a request, unless the browser has only closed its connection early."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        return f"http://{_HOST}:{self.server_address[1]}/"


class _Handler(SimpleHTTPRequestHandler):
    """Serves files but no directory listings, to pages of this address only."""

    # Not the types of the system, which may be wrong: browsers do not run a script of another type.
    extensions_map = {  # noqa: RUF012 - as in the base class
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".txt": "text/plain; charset=utf-8",
        ".png": "image/png",
        "": "application/octet-stream",
    }

    def send_head(self) -> Any:
        port = self.connection.getsockname()[1]
        # Another site could read the map through a host name that resolves to this address.
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        """Write nothing: a line for each tile would be noise."""
