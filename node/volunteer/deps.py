"""The parts of a node that its volunteer works with."""

from dataclasses import dataclass

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.limits.gate import Gate
from dipaco.node.limits.order import Orders
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.finding import Finder
from dipaco.node.network.guard import Guard
from dipaco.node.network.rpc import Rpc
from dipaco.node.runs.store import RunStore
from dipaco.node.status.activity import RunActivity
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.node.verification.verifier import Verifier
from dipaco.protocol.wire.identity import PeerId


@dataclass(frozen=True)
class VolunteerDeps:
    """The parts; the node owns all of them."""

    run_store: RunStore
    blobs: BlobStore
    exchange: Exchange
    finder: Finder
    rpc: Rpc
    worker: JobRunner
    guard: Guard
    activity: RunActivity
    verifier: Verifier
    gate: Gate
    """It cancels the volunteer's work when it closes, and says why."""
    orders: Orders
    """They say whether the lease that is held is to be the last one for now."""
    heartbeat_seconds: float
    claims: Claims
    me: PeerId
    """This node."""
