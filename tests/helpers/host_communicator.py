"""Collective operations between processes on a machine without a GPU, over sockets through the member of rank 0.

As with NCCL, members find each other by an identifier that rank 0 makes, and when one is lost the others wait without
end, until `abort`.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from nomad_dask.backends.joint import CommunicatorError, RowParts

# Sockets on which the groups of this process wait for their members, by identifier.
_LISTENING: dict[bytes, socket.socket] = {}
# What fails in this process: "id", "join" or "share", of which the last two wait without end.
_FAILING: set[str] = set()


def let_fail(*operations: str) -> None:
    """Let these operations fail in this process from now on, and no others."""
    _FAILING.clear()
    _FAILING.update(operations)


def communicator_id() -> bytes:
    """Return the identifier of a new group, and wait for its members."""
    if "id" in _FAILING:
        raise CommunicatorError("there are no sockets")
    listening = socket.create_server(("127.0.0.1", 0))
    found = struct.pack("!H", listening.getsockname()[1]) + secrets.token_bytes(16)
    _LISTENING[found] = listening
    return found


class HostCommunicator:
    """The `Communicator` of a process without a GPU.

    Parameters
    ----------
    communicator_id : bytes
    rank, n_members : int
    seed : int
        The order in which rank 0 adds what it receives, which NCCL does not define either.
    """

    def __init__(self, communicator_id: bytes, rank: int, n_members: int, seed: int = 0) -> None:
        self._rank, self._order = rank, np.random.default_rng(seed)
        self._aborted = threading.Event()
        self._peers: dict[int, socket.socket] = {}
        if "join" in _FAILING:
            self._wait_for_abort()
        if rank:
            (port,) = struct.unpack("!H", communicator_id[:2])
            self._peers[0] = socket.create_connection(("127.0.0.1", port))
            self._peers[0].sendall(communicator_id[2:] + struct.pack("!I", rank))
            return
        with _LISTENING.pop(communicator_id) as listening:
            while len(self._peers) < n_members - 1:
                peer, _ = listening.accept()
                hello = self._receive(peer, 20)
                assert hello[:16] == communicator_id[2:]
                self._peers[struct.unpack("!I", hello[16:])[0]] = peer

    def sum_integers(self, values: np.ndarray, total: np.ndarray) -> None:
        assert values.dtype == total.dtype == np.int64
        assert values.shape == total.shape
        if self._rank:
            self._send(0, values)
            total[...] = self._receive_array(0, total)
            return
        added = values.copy()
        for peer in self._order.permutation(sorted(self._peers)).tolist():
            added += self._receive_array(peer, total)
        total[...] = added
        for peer in self._peers:
            self._send(peer, total)

    def share_parts(self, array: np.ndarray, parts: RowParts) -> None:
        assert array.flags.c_contiguous
        if "share" in _FAILING:
            self._wait_for_abort()
        slices = [slice(int(a), int(b)) for a, b in zip(parts.offsets[:-1], parts.offsets[1:], strict=True)]
        owned = [(owner, part) for owner, part in zip(parts.owners, slices, strict=True) if owner != 0]
        if self._rank:
            for owner, part in owned:
                if owner == self._rank:
                    self._send(0, array[part])
            array[...] = self._receive_array(0, array)
            return
        for owner, part in owned:
            array[part] = self._receive_array(owner, array[part])
        for peer in self._peers:
            self._send(peer, array)

    def check(self) -> None:
        pass

    def abort(self) -> None:
        self._aborted.set()
        for peer in self._peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _send(self, peer: int, array: np.ndarray) -> None:
        try:
            self._peers[peer].sendall(np.ascontiguousarray(array).tobytes())
        except OSError:
            self._wait_for_abort()

    def _receive_array(self, peer: int, like: np.ndarray) -> np.ndarray:
        received = self._receive(self._peers[peer], like.nbytes)
        return np.frombuffer(received, like.dtype).reshape(like.shape)

    def _receive(self, peer: socket.socket, n_bytes: int) -> bytes:
        received = bytearray()
        while len(received) < n_bytes:
            try:
                piece = peer.recv(min(1 << 20, n_bytes - len(received)))
            except OSError:
                piece = b""
            if not piece:
                self._wait_for_abort()
            received += piece
        return bytes(received)

    def _wait_for_abort(self) -> Any:
        self._aborted.wait()
        raise CommunicatorError("the group was aborted")
