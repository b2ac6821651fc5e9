"""The card of the benchmarks on a machine without a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu_card import REPEATS
from tests.helpers.host_runtime import HostRuntime


class HostCard:
    """`gpu_card.Card` on the host: its times are those of emulated kernels and are meaningless."""

    runtime = HostRuntime()

    def seconds(self, work: Callable[[], Any], repeats: int = REPEATS) -> float:
        work()
        began = time.monotonic()
        work()
        return time.monotonic() - began

    def used_bytes(self) -> int:
        return 0

    def multiply(self, kind: str, a: Any, b: Any, out: Any) -> None:
        assert {a.dtype, b.dtype} == {np.dtype(np.float16 if kind == "float16" else np.float32)}
        out[...] = a.astype(np.float32).T @ b.astype(np.float32)
