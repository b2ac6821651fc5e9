"""Whether a run has a joint layout, as the client decides it."""

from __future__ import annotations

import logging
from typing import Any

from nomad_dask.cluster.time_limit import time_limit
from nomad_dask.neighbors.shard_graph import has_joint_shards
from nomad_dask.planning.run_context import RunContext

_LOG = logging.getLogger("nomad_dask")
# After this many failures of communication, though no worker was lost, shards exchange summaries.
_MAX_FAILURES = 2


class JointMode:
    """Whether the shards of a run are laid out jointly.

    That is decided when the layout starts, and recorded in its checkpoints: later workers may be lost, join or resume
    the run, and the map stays the same. A joint layout whose workers cannot communicate is given up for the rest of
    the run.

    Parameters
    ----------
    run : RunContext

    Attributes
    ----------
    limit : TimeLimit
        For each step that can wait without end.
    is_wanted : bool
    """

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._n_failures = 0
        self.limit = time_limit("nccl-within")
        self.is_wanted = run.wants_joint_layout

    def begin(self, facts: dict[str, Any]) -> None:
        """Decide for a layout that starts at a checkpoint, of which `facts` are recorded."""
        if not self.is_wanted:
            return
        if not facts.get("joint", True):
            self.is_wanted = False
            _LOG.info("Shards exchange summaries, as they did before the last checkpoint.")
        elif not has_joint_shards(self._run):
            self.give_up("the graph was built by a run on CPUs, or by an earlier version")

    def give_up(self, reason: str) -> None:
        """Let shards exchange summaries for the rest of the run."""
        self.is_wanted = False
        _LOG.warning(
            "The shards are not laid out jointly (%s): they exchange summaries, so that the attraction and repulsion "
            "of rows of other shards are approximate.",
            reason,
        )

    def report_failure(self, reason: str) -> None:
        """Count a failure of communication of workers of which none is lost, and give up if there were several."""
        self._n_failures += 1
        if self._n_failures >= _MAX_FAILURES:
            self.give_up(reason)
        else:
            _LOG.warning("Workers cannot communicate (%s): the layout goes on from the last checkpoint.", reason)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint records about it; nothing for runs that never have a joint layout."""
        return {"joint": self.is_wanted} if self._run.wants_joint_layout else {}
