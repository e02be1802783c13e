"""A swarm with keepers and two schedulers, over the transport in memory, in virtual time."""

from dataclasses import dataclass, field
from pathlib import Path

import trio

from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from tests.kept import KEEPERS, kept_manifest
from tests.node.scheduler.swarm import SCHEDULER, Swarm, SwarmNode, found
from tests.values import peer

SECOND = "second"
"""The scheduler that stands by."""


@dataclass
class KeptSwarm:
    """The nodes of one run with keepers, by name."""

    swarm: Swarm
    home: Path
    keepers: tuple[str, ...] = KEEPERS
    schedulers: tuple[str, ...] = (SCHEDULER, SECOND)
    nodes: dict[str, SwarmNode] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)
    """Fields of the manifest."""

    def __post_init__(self) -> None:
        self.manifest: Manifest = kept_manifest(self.keepers, self.schedulers, **self.changes)
        self.run: Digest = run_id(self.manifest)
        for name in {*self.keepers, *self.schedulers}:
            found(self.home, self.manifest, name)

    async def start(self, *names: str) -> None:
        """Start nodes, each in the role that the manifest gives it: else it trains."""
        for name in names:
            self.nodes[name] = await self.swarm.start(
                name,
                founds=name in self.schedulers,
                keeper=name in self.keepers and name not in self.schedulers,
            )

    async def start_all(self, *volunteers: str) -> None:
        """Start schedulers, keepers and volunteers."""
        await self.start(*self.schedulers)
        await self.start(*(name for name in self.keepers if name not in self.schedulers))
        await self.start(*volunteers)

    async def kill(self, *names: str) -> None:
        """End nodes as SIGKILL does."""
        for name in names:
            await self.swarm.kill(self.nodes.pop(name))

    def cut(self, ones: tuple[str, ...], others: tuple[str, ...]) -> None:
        """Cut every line between two groups of nodes."""
        for one, other in _pairs(ones, others):
            self.swarm.network.cut(one, other)

    def mend(self, ones: tuple[str, ...], others: tuple[str, ...]) -> None:
        """Undo `cut`."""
        for one, other in _pairs(ones, others):
            self.swarm.network.mend(one, other)

    def schedules(self, name: str) -> bool:
        """Return whether a node schedules the run."""
        return self.nodes[name].parts.request_router.scheduling(self.run)

    def leases(self, name: str) -> int:
        """Return the number of leases that a scheduler has granted."""
        scheduler = self.nodes[name].parts.request_router.schedulers.get(self.run)
        return len(scheduler.schedule.grants) if scheduler else 0

    def term(self, name: str) -> int:
        """Return the term of a node's ledger."""
        return self.nodes[name].parts.run_store.runs[self.run].term

    def finished(self, name: str) -> bool:
        """Return whether a node's ledger tells of the run's end."""
        record = self.nodes[name].parts.run_store.runs.get(self.run)
        return record is not None and record.over

    def states(self, name: str) -> dict[str, list[Digest]]:
        """Return every version of every module."""
        state = self.nodes[name].parts.run_store.runs[self.run].state
        return {str(module): list(states) for module, states in state.states.items()}

    def chain(self, name: str) -> list[Digest]:
        """Return the digests of the records of a node's ledger, which are final."""
        return list(self.nodes[name].parts.run_store.runs[self.run].digests)

    async def until(self, condition: object, *, seconds: float = 3600.0) -> float:
        """Wait until `condition()` holds; returns the seconds that it took."""
        began = trio.current_time()
        assert callable(condition)
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.5)
        return trio.current_time() - began


def _pairs(ones: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[PeerId, PeerId]]:
    return [(peer(one), peer(other)) for one in ones for other in others]
