"""How workers join for a joint layout: all agree that they can, or none does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from nomad_dask.backends.devices import Gpu, detect_worker_gpu
from nomad_dask.backends.joint import Communicator, CommunicatorError, JointLayout, JointLayouts, SingleMember
from nomad_dask.cluster import get_worker_state, worker_backend
from nomad_dask.cluster.p2p import ExchangeAborted, PeerExchange
from nomad_dask.cluster.time_limit import TimeLimit, TimeLimitError
from nomad_dask.planning.run_context import RunContext

# A group of another run that no task has used for so long is that of a client that is gone.
_ABANDONED_SECONDS = 600.0
_LEAVE_SECONDS = 10.0


@dataclass(frozen=True)
class JoinRequest:
    """What the workers of a joint layout agree on.

    Attributes
    ----------
    name : str
        Unique name of the exchange between the workers.
    worker_addresses : tuple of str
        Address of the worker of each shard of the map.
    limit : TimeLimit
        For each step of it that can wait without end.
    """

    name: str
    worker_addresses: tuple[str, ...]
    limit: TimeLimit

    @property
    def members(self) -> tuple[str, ...]:
        """Addresses of the workers by rank."""
        return tuple(dict.fromkeys(self.worker_addresses))

    def owners(self) -> tuple[int, ...]:
        """Return the rank of the worker of each shard."""
        ranks = {address: rank for rank, address in enumerate(self.members)}
        return tuple(ranks[address] for address in self.worker_addresses)


@dataclass
class Group:
    """The group of workers of a joint layout, in the memory of one of them.

    Attributes
    ----------
    run_id : str
    communicator : Communicator
    owners : tuple of int
        Rank of the worker of each shard.
    layout : JointLayout or None
        None until the shards are loaded.
    last_used : float
        Time of the last task, by the monotonic clock.
    """

    run_id: str
    communicator: Communicator
    owners: tuple[int, ...]
    layout: JointLayout | None = None
    last_used: float = field(default_factory=time.monotonic)


class JoinedGroups(dict[str, Group]):
    """The groups of which a worker is a member, by workspace."""

    def leave(self, workspace: str) -> None:
        """End the group of a workspace, without waiting for its operations."""
        if group := self.pop(workspace, None):
            ending = Thread(target=group.communicator.abort, name="nomad-leave", daemon=True)
            ending.start()
            ending.join(_LEAVE_SECONDS)

    def used_by_others(self, workspace: str) -> bool:
        """Return whether another run has a group.

        Two groups on the same devices can wait for each other without end, as their operations may be in another
        order on each device.
        """
        for other in [name for name in self if name != workspace]:
            if time.monotonic() - self[other].last_used > _ABANDONED_SECONDS:
                self.leave(other)
        return any(name != workspace for name in self)


@dataclass(frozen=True)
class _Offer:
    """What a worker says before it joins.

    Attributes
    ----------
    device : str
        Unique name of its device.
    lacks : str
        Why it cannot join; empty if it can.
    communicator_id : object
        That of the group, from the member of rank 0.
    """

    device: str
    lacks: str
    communicator_id: Any = None


def join_group(run: RunContext, run_id: str, shards: tuple[int, ...], request: JoinRequest) -> list[str | None]:
    """Join the workers of all shards.

    Returns
    -------
    list
        For each shard the same: why the workers have not joined, empty if they have, or None if one was lost.
    """
    groups, workspace = get_worker_state().get(JoinedGroups), str(run.workspace)
    groups.leave(workspace)
    rank = request.owners()[shards[0]]
    try:
        with PeerExchange(request.name, request.worker_addresses) as peers:
            with worker_backend(run.device) as backend:
                joint = backend.joint_layouts
                assert joint is not None  # noqa: S101 - see `RunContext.wants_joint_layout`
                offer = _make_offer(joint, rank, len(request.members), groups.used_by_others(workspace))
                offers = peers.exchange(0, dict.fromkeys(shards, offer))
                communicator, lacks = None, _compare_offers(offers, request)
                if not lacks:
                    communicator, lacks = _open(joint, offers, rank, request)
            lacks = next(filter(None, peers.exchange(1, dict.fromkeys(shards, lacks))), "")
    except ExchangeAborted:
        return [None for _ in shards]
    if communicator is not None and lacks:
        communicator.abort()
    elif communicator is not None:
        groups[workspace] = Group(run_id, communicator, request.owners())
    return [lacks for _ in shards]


def _make_offer(joint: JointLayouts, rank: int, n_members: int, is_used: bool) -> _Offer:
    found = detect_worker_gpu()
    if not isinstance(found, Gpu):
        return _Offer("", found.lacks)
    if is_used:
        return _Offer(found.uuid, "another run has joined the same workers")
    try:
        return _Offer(found.uuid, "", joint.communicator_id() if rank == 0 and n_members > 1 else None)
    except CommunicatorError as error:
        return _Offer(found.uuid, str(error))


def _compare_offers(offers: Sequence[_Offer], request: JoinRequest) -> str:
    """Return why the workers cannot join, or an empty string."""
    for offer in offers:
        if offer.lacks:
            return offer.lacks
    device_of = {address: offer.device for address, offer in zip(request.worker_addresses, offers, strict=True)}
    return "" if len(set(device_of.values())) == len(device_of) else "several workers share a GPU"


def _open(
    joint: JointLayouts, offers: Sequence[_Offer], rank: int, request: JoinRequest
) -> tuple[Communicator | None, str]:
    """Return the communicator of the group, or why there is none."""
    n_members = len(request.members)
    if n_members == 1:
        return SingleMember(), ""
    communicator_id = next(offer.communicator_id for offer in offers if offer.communicator_id is not None)
    try:
        return request.limit.call(joint.open_communicator, communicator_id, rank, n_members), ""
    except (CommunicatorError, TimeLimitError) as error:
        return None, str(error)
