"""The parts of a node that a scheduler works with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.condition import Condition
from dipaco.node.jobs.runner import JobRunner
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.guard import Guard
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.identity import PeerId


@dataclass(frozen=True)
class SchedulerDeps:
    """The parts; the node owns all of them."""

    key: Ed25519PrivateKey
    run_store: RunStore
    journal: Journal
    blobs: BlobStore
    claims: Claims
    exchange: Exchange
    worker: JobRunner
    guard: Guard
    blame: Callable[[PeerId, str], Awaitable[None]]
    """Lowers a peer's reputation."""
    prefix: Callable[[PeerId], str]
    """Returns the IP prefix of a peer, as `seats.prefix_of` does."""
    changed: Condition = field(default_factory=Condition)
