"""A real Jupyter kernel for tests, and what its widgets tell the browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any

from jupyter_client.manager import KernelManager


class Kernel:
    """A kernel in a process of its own.

    Attributes
    ----------
    widgets : dict
        State of each widget by its comm, as the browser has it: traits and binary traits.
    """

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self.client = manager, client
        self.widgets: dict[str, dict[str, Any]] = {}

    def run(self, code: str, meanwhile: Callable[[], Any] | None = None, seconds: float = 100.0) -> dict[str, Any]:
        """Execute code and return its reply, with what it wrote as ``text``; `meanwhile` is called at every message."""
        asked = self.client.execute(code)
        written: list[str] = []
        deadline = time.monotonic() + seconds
        while True:
            assert time.monotonic() < deadline, "the kernel is still busy"
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            kind, content = message["msg_type"], message["content"]
            self._take(kind, content, message["buffers"])
            if kind == "stream":
                written.append(content["text"])
            if meanwhile is not None:
                meanwhile()
            if (
                kind == "status"
                and content["execution_state"] == "idle"
                and message["parent_header"]["msg_id"] == asked
            ):
                break
        reply = self.client.get_shell_msg(timeout=30)
        while not _answers(reply, asked):
            reply = self.client.get_shell_msg(timeout=30)
        return dict(reply["content"]) | {"text": "".join(written)}

    def _take(self, kind: str, content: dict[str, Any], buffers: list[Any]) -> None:
        if kind not in ("comm_open", "comm_msg"):
            return
        data = content["data"]
        if data.get("method", "update") != "update":
            return
        state = self.widgets.setdefault(content["comm_id"], {})
        state.update(data["state"])
        for path, buffer in zip(data.get("buffer_paths", []), buffers, strict=True):
            state[path[0]] = bytes(buffer)


def _answers(message: dict[str, Any], asked: str) -> bool:
    return bool(message["parent_header"].get("msg_id") == asked)


@contextmanager
def kernel() -> Iterator[Kernel]:
    """Start a kernel, and end it."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
