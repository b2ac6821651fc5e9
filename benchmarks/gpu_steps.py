"""The steps of `gpu_quick.py` in order of value, and how each is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import gpu_checks
from benchmarks.gpu_card import Card, about, about_host, ceilings
from benchmarks.gpu_kernels import epoch, kernels
from benchmarks.gpu_vectors import neighbors, umap, whole_map

Tell = Callable[[dict[str, Any]], None]
MILLION = 1_000_000


@dataclass(frozen=True)
class Step:
    """One measurement or check.

    Attributes
    ----------
    part : str
        What is done.
    seconds : float
        After which it is stopped.
    rows : int
        On which it is done; 0 if it has sizes of its own.
    """

    part: str
    seconds: float
    rows: int = 0

    @property
    def name(self) -> str:
        return self.part if not self.rows else f"{self.part} at {self.rows:,} rows"


QUICK = (
    Step("environment", 60),
    Step("launches", 90),
    Step("agreement", 120),
    Step("ceilings", 45),
    Step("kernels", 45, MILLION),
    Step("kernels", 60, 10 * MILLION),
    Step("kernels", 120, 60 * MILLION),
    Step("epochs", 45, MILLION),
    Step("epochs", 90, 10 * MILLION),
    Step("memory", 60),
    Step("reading", 60, MILLION),
    Step("memcheck", 150),
    Step("same bits", 100),
    Step("maps", 120, MILLION),
    Step("maps", 200, 4 * MILLION),
    Step("neighbors", 60, 100_000),
    Step("neighbors", 90, MILLION),
    Step("epochs", 180, 60 * MILLION),
    Step("racecheck", 200),
    Step("synccheck", 150),
)
"""What twelve minutes are for: the limits add up to more, but most steps take a fraction of theirs."""

LONG = (
    Step("maps", 300, 70_000),
    Step("umap", 300, 70_000),
    Step("umap", 600, MILLION),
    Step("neighbors", 900, 10 * MILLION),
    Step("umap", 1800, 10 * MILLION),
    Step("maps", 1800, 10 * MILLION),
    Step("maps", 3600, 60 * MILLION),
)
"""What follows where a card is there for hours."""

# Sizes with which the emulated kernels take seconds.
_REHEARSED_ROWS = {"kernels": 900, "epochs": 700, "reading": 1000, "maps": 800, "neighbors": 600}


@dataclass(frozen=True)
class Place:
    """Where steps are done.

    Attributes
    ----------
    card : Card
    scratch : Path
        Directory for files and workspaces.
    is_rehearsal : bool
        Whether the card is the host, which needs small sizes.
    """

    card: Card
    scratch: Path
    is_rehearsal: bool = False

    def rows(self, step: Step) -> int:
        return min(step.rows, _REHEARSED_ROWS[step.part]) if self.is_rehearsal else step.rows

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Yield a client of a worker that runs kernels on the host; None on a card, where a run starts its workers."""
        if not self.is_rehearsal:
            yield None
            return
        from tests.helpers.runs import worker_processes

        with worker_processes(1, preload="tests.helpers.host_runtime") as client:
            yield client


def do(step: Step, place: Place, tell: Tell) -> None:
    """Do a step, and report each result as soon as it is known.

    Raises
    ------
    NotAvailableError
        A tool or package that it needs is not installed.
    """
    card, rows, small = place.card, place.rows(step) if step.rows else 0, place.is_rehearsal
    max_rows = 500 if small else None
    match step.part:
        case "environment":
            tell({"card": "the host", **about_host()} if small else about())
        case "launches":
            gpu_checks.launches(card, tell)
        case "agreement":
            gpu_checks.agreement(card, tell, max_rows)
        case "ceilings":
            tell(dict(ceilings(card, 1 << 20, 64) if small else ceilings(card)))
        case "kernels":
            kernels(card, rows, tell)
        case "epochs":
            tell(epoch(card, rows))
        case "memory":
            gpu_checks.memory(card, tell, 1 << 20 if small else 1 << 30)
        case "reading":
            gpu_checks.reading(card, rows, place.scratch, tell)
        case "memcheck" | "racecheck" | "synccheck":
            gpu_checks.sanitized(step.part, tell, step.seconds)
        case "same bits":
            gpu_checks.same_bits(card, place.scratch, tell, max_rows)
        case "maps":
            with place.client() as client:
                whole_map(rows, place.scratch, tell, client, n_epochs=4 if small else None)
        case "neighbors":
            neighbors(card, rows, place.scratch, tell, 64 if small else 8192)
        case "umap":
            umap(rows, tell)
        case _:
            raise ValueError(f"there is no step {step.part!r}")
