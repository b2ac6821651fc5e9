"""A local web server for a site, on the loopback address only."""

from __future__ import annotations

import errno
import socket
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import unquote

from nomad_dask.errors import InputError

_HOST = "127.0.0.1"
# Browsers open six connections to a server; whoever opens many more keeps them from nobody.
_MAX_CONNECTIONS = 64
# Sent with every answer, also with errors: no other site can load, frame or keep hold of the page.
_SAFETY_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves a folder, which may still be empty, until it is stopped.

    Parameters
    ----------
    folder : Path
    port : int
        0 for any free port.
    idle_seconds : float
        How long a client may take to send the next bytes of its request, or to take those of the answer.

    Raises
    ------
    InputError
        The port is in use, or not permitted.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int = 0, idle_seconds: float = 15.0) -> None:
        self.idle_seconds = idle_seconds
        self._lock = Lock()
        self._connections: dict[socket.socket, bool] = {}
        try:
            super().__init__((_HOST, port), partial(_Handler, directory=str(folder)))
        except OSError as error:
            problem = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise InputError(f"Port {port} of {_HOST} {problem}: use another, or none for a free one.") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request in a thread of its own, if need be in place of the connection that has waited longest."""
        with self._lock:
            if len(self._connections) >= _MAX_CONNECTIONS:
                # Those that were opened and have asked for nothing come first.
                oldest = next((c for c, asked in self._connections.items() if not asked), None)
                self._end(oldest or next(iter(self._connections)))
            self._connections[request] = False
        super().process_request(request, client_address)

    def note_request(self, connection: socket.socket) -> None:
        """Note that a connection has asked for something."""
        with self._lock:
            if connection in self._connections:
                self._connections[connection] = True

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that was answered."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def _end(self, connection: socket.socket) -> None:
        """End a connection; its thread then reads the end of the stream, and closes it."""
        self._connections.pop(connection)
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client has closed it already

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report the error of a request, unless only its connection or its file failed."""
        if not isinstance(sys.exception(), OSError):
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
    _file: Path | None = None

    def setup(self) -> None:
        server: Any = self.server
        super().setup()
        self.connection.settimeout(server.idle_seconds)

    def send_head(self) -> Any:
        """Send the headers of the answer, and return the file to send after them, if any."""
        server: Any = self.server
        server.note_request(self.connection)
        if not self._is_own_request(server.server_address[1]):
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        self._file = self._find_file()
        if self._file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Return the path of the file that was found, whatever `path` leads to by now."""
        return str(self._file)

    def _is_own_request(self, port: int) -> bool:
        """Return whether the page itself asks, or a reader who opens it, and not another site in the same browser."""
        hosts = (f"{_HOST}:{port}", f"localhost:{port}")
        # Another site could read the map through a host name that resolves to this address.
        if self.headers.get("Host") not in hosts:
            return False
        if self.headers.get("Origin") not in (None, *(f"http://{host}" for host in hosts)):
            return False
        # Or it could load the chunks, which are scripts. Browsers tell where a request comes from.
        if self.headers.get("Sec-Fetch-Site", "none") in ("same-origin", "none"):
            return True
        # A link elsewhere may open the page, which its site cannot read.
        opens_page = (
            self.headers.get("Sec-Fetch-Mode") == "navigate" and self.headers.get("Sec-Fetch-Dest") == "document"
        )
        return opens_page and self.path.partition("?")[0] in ("/", "/index.html")

    def _find_file(self) -> Path | None:
        """Return the regular file that the request names, or None if the folder holds none of that name."""
        path = self.path.partition("?")[0].partition("#")[0]
        name = "index.html" if path == "/" else path.lstrip("/")
        try:
            root = Path(self.directory).resolve(strict=True)
            # A path that leaves the folder, by its name or through a symbolic link, does not exist.
            file = root.joinpath(unquote(name, errors="strict")).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # not there; null bytes or other than UTF-8; links in a circle
            return None
        return file if file.is_relative_to(root) and file.is_file() and not name.endswith("/") else None

    def end_headers(self) -> None:
        for name, value in _SAFETY_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in the base class
        """Write nothing: a line for each tile would be noise."""
