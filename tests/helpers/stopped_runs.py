"""Runs that stop somewhere, and what is left of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomad_dask.callbacks import CheckpointWritten, Event, StageFinished, StageStarted
from nomad_dask.errors import Interrupted
from tests.helpers.runs import EventLog, make_map

STAGES = ["sample", "cells", "shards", "neighbors", "layout"]
SETTINGS: dict[str, Any] = {"n_shards": 2, "n_epochs": 16, "cell_size": 60}


def reaches(event: Event, kind: str, where: str) -> bool:
    if kind == "begin":
        return isinstance(event, StageStarted) and event.stage == where
    return isinstance(event, CheckpointWritten) and event.epoch == int(where)


def stop_at(reached: Callable[[Event], bool]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        if reached(event):
            raise KeyboardInterrupt

    return emit


def stopped(x: np.ndarray, workspace: Path, reached: Callable[[Event], bool], **more: Any) -> None:
    with pytest.raises(Interrupted, match="Completed work is kept in") as caught:
        make_map(x, workspace=workspace, emit=stop_at(reached), **(SETTINGS | more))
    assert str(workspace) in str(caught.value)
    assert caught.value.exit_code == 4


def resumed_stages(event_log: EventLog) -> list[str]:
    return [event.stage for event in event_log.of(StageFinished) if event.resumed]


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def damaged(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        np.save(file, np.array([{"code": print}], object), allow_pickle=True)


# A file of every stage that is there when the next one begins, how it is damaged, and whether stages are kept.
