"""The host runtime, which counts what would cost time on a GPU: launches, and waits of the host for the device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.helpers.host_runtime import HostRuntime


@dataclass(frozen=True)
class CountingRuntime(HostRuntime):
    """Counts launches by the kernel's name, and `waits`; those within CuPy's functions are not seen."""

    counts: Counter[str] = field(default_factory=Counter)

    def launch(self, kernel: str, dim: int, n_items: int, *args: Any) -> None:
        self.counts[kernel] += 1
        super().launch(kernel, dim, n_items, *args)

    def download(self, array: np.ndarray) -> np.ndarray:
        self.counts["waits"] += 1
        return super().download(array)

    def synchronize(self) -> None:
        self.counts["waits"] += 1
