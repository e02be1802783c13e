"""The state of a local network at one moment, and pure functions of it.

They compute the progress of the network, the time left, whether anything changed, and the nodes
in the middle of a lease.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dipaco.cli.views.pace import time_left
from dipaco.node.api.values import LedgerView
from dipaco.node.status.document import Status
from dipaco.protocol.run.manifest import Manifest


@dataclass(frozen=True)
class Snapshot:
    """The answers of all nodes; a node that was killed or does not answer is left out."""

    elapsed: float
    """Seconds since the start."""
    statuses: Mapping[str, Status]
    """Name: status; the rendezvous node first."""
    ledger: LedgerView
    """The ledger of the rendezvous node."""

    @property
    def movement(self) -> tuple[object, ...]:
        """A value that changes with every progress of the network."""
        tasks = tuple(
            (name, s.state, s.reason.code, s.task and (s.task.stage, s.task.round, s.task.done))
            for name, s in self.statuses.items()
        )
        return (self.ledger.records, tasks)

    @property
    def tokens_per_second(self) -> float:
        """The speed of all volunteers that train now."""
        tasks = [s.task for s in self.statuses.values() if s.task is not None]
        return sum(task.tokens_per_second for task in tasks if task.kind in ("seed", "train"))

    @property
    def loss(self) -> float | None:
        """The mean of the latest training losses, nats per token; None before there are any."""
        first = next(iter(self.statuses.values()), None)
        reported = [p.loss for p in first.swarm if p.loss is not None] if first else []
        tasks = [s.task.loss for s in self.statuses.values() if s.task and s.task.loss is not None]
        known = reported or tasks
        return sum(known) / len(known) if known else None


def round_of(snapshot: Snapshot) -> int:
    """Return the current round: the slowest module's version + 1; 0 before the seed model."""
    versions = snapshot.ledger.versions.values()
    return min(versions) + 1 if versions else 0


def share_done(snapshot: Snapshot, manifest: Manifest) -> float:
    """Return the share of outer steps that are done, 0 to 1."""
    total = manifest.training.rounds * len(manifest.topology.modules)
    return sum(snapshot.ledger.versions.values()) / total


def remaining(snapshot: Snapshot, manifest: Manifest, seeded_at: float | None) -> float | None:
    """Return the seconds left at the pace since `seeded_at`, None if it is not known yet."""
    if seeded_at is None:
        return None
    return time_left(share_done(snapshot, manifest), 1.0, snapshot.elapsed - seeded_at)


def nodes_in_a_lease(snapshot: Snapshot) -> list[str]:
    """Return the volunteers that are in the middle of a path's lease."""
    found = []
    for name, status in snapshot.statuses.items():
        task = status.task
        if task is not None and task.kind == "train" and 0 < task.done < task.total:
            found.append(name)
    return found
