"""Servers for the tests of URLs: an S3 of its own, counted and disturbed on the way."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}
ANSWERS = {
    403: b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    503: b"<Error><Code>ServiceUnavailable</Code><Message>Try later</Message></Error>",
}


class Store:
    """An S3 server on this machine.

    Attributes
    ----------
    url : str
        Where it listens.
    sent : Counter
        Bytes of objects that were sent, by their path.
    answer : callable or None
        Asked before every request with its method, path and range; a status that it returns is the answer.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self.sent: Counter[str] = Counter()
        self.answer: Callable[[str, str, str], int | None] | None = None
        self._lock = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        server: Any = self._server._server
        self._app, server.app = server.app, self._serve
        self.url = "http://{}:{}".format(*self._server.get_host_and_port())

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        status = self.answer(method, path, environ.get("HTTP_RANGE", "")) if self.answer else None
        if status is not None:
            body = b"" if method == "HEAD" else ANSWERS[status]
            start_response(f"{status} Disturbed", [("Content-Type", "application/xml")])
            return [body]
        body = b"".join(self._app(environ, start_response))
        if method == "GET":
            with self._lock:
                self.sent[path] += len(body)
        return [body]

    def put(self, folder: Any, bucket: str = "data") -> str:
        """Upload a file or what is in a folder; return the URL of the folder, or of the bucket."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.url)
        client.create_bucket(Bucket=bucket)
        for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
            client.put_object(Bucket=bucket, Key=path.relative_to(folder.parent).as_posix(), Body=path.read_bytes())
        return f"s3://{bucket}/{folder.name}"

    def close(self) -> None:
        """Stop it."""
        self._server.stop()


@contextmanager
def s3(environ: Callable[[str, str], None]) -> Iterator[Store]:
    """Give a server that this process and its children find by their environment."""
    from s3fs import S3FileSystem

    for name, value in CREDENTIALS.items():
        environ(name, value)
    store = Store()
    environ("AWS_ENDPOINT_URL", store.url)
    # What was connected keeps the server and the credentials it had.
    S3FileSystem.clear_instance_cache()
    try:
        yield store
    finally:
        store.close()
