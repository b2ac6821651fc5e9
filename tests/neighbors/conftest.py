"""The backends, for what calls them."""

from __future__ import annotations

from tests.backends.conftest import backend, cpu_backend, gpu_backend

__all__ = ["backend", "cpu_backend", "gpu_backend"]
