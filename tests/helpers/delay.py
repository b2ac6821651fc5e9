"""Links that hold every frame for a while: pairs of TAP devices, joined by this process.

    python delay.py MILLISECONDS A:B ...

Stands in for netem, which many kernels lack. A frame that enters A leaves B so many milliseconds later, and the
other way round, in order and however many are under way. TCP between the two is the kernel's own, with its
windows and its slow start; a relay that ended the connections would hide these. Frames keep their offload
headers, so that one of 64 KiB passes in one piece, as over a real card.

Makes the devices, writes "ready", and ends with its standard input. A process of its own, with the standard
library only: it needs little memory and runs before all others, or the computing beside it would delay frames.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP, NO_INFO, OFFLOAD_HEADER = 0x0002, 0x1000, 0x4000
CHECKSUM, TSO4, TSO6 = 1, 2, 4
LARGEST = 1 << 17
TURNS = 64
# What this process itself adds each way.
OWN_SECONDS = 50e-6


def tap(name: str) -> int:
    """Make a device and return what to read its frames from and write them to."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_INFO | OFFLOAD_HEADER))
    fcntl.ioctl(fd, TUNSETOFFLOAD, CHECKSUM | TSO4 | TSO6)
    return fd


def hold(pairs: list[tuple[int, int]], seconds: float) -> None:
    """Pass frames between the devices of each pair until standard input ends."""
    other = dict(pairs) | {b: a for a, b in pairs}
    # The delay is the same for all, so what came first is due first.
    waiting: deque[tuple[float, int, bytes]] = deque()
    watched = [*other, sys.stdin.fileno()]
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(watched, [], [], pause)
        for fd in readable:
            if fd not in other:
                return
            for _ in range(TURNS):
                try:
                    frame = os.read(fd, LARGEST)
                except OSError:  # no more of them, or the device is down
                    break
                waiting.append((time.monotonic() + seconds, other[fd], frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, fd, frame = waiting.popleft()
            try:
                os.write(fd, frame)
            except OSError:  # the device is down: the frame is lost, as in a cable that is cut
                continue


def main() -> None:
    milliseconds, *names = sys.argv[1:]
    pairs = [(tap(a), tap(b)) for a, _, b in (name.partition(":") for name in names)]
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    print("ready", flush=True)
    hold(pairs, max(0.0, float(milliseconds) / 1000 - OWN_SECONDS))


if __name__ == "__main__":
    main()
