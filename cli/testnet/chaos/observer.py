"""Collects what happens in a network while faults meet it, and makes that part of the report."""

from collections.abc import Iterator, Sequence
from typing import Final

import trio

from dipaco.cli.testnet.chaos.executor import Executor
from dipaco.cli.testnet.chaos.samples import growths, measure
from dipaco.cli.testnet.chaos.trace import TRAIN, fault_report, rate, read_line
from dipaco.cli.testnet.processes import LocalSwarm
from dipaco.cli.views.chaos import Chaos, Happening, Head, NodeState, Sample
from dipaco.node.api.values import NoDaemon
from dipaco.protocol.wire.identity import PeerId, short_peer

SAMPLE_SECONDS: Final = 2.0
SOAK_SAMPLE_SECONDS: Final = 10.0  # 180 of each node in half an hour
JUDGED_SHARE: Final = 0.5
"""Share of a soak that a process must have lived to be judged for growth."""
MOST_HAPPENINGS: Final = 100_000  # that a report keeps; a day of a busy run has fewer


class Observer:
    """The clock, the trace and the samples of one network."""

    def __init__(self, first: str) -> None:
        """first: the node that schedules until another one grants a lease."""
        self.scheduling = first
        self.first_lease = trio.Event()
        self.trace: list[Happening] = []
        self.samples: list[Sample] = []
        self._names: dict[str, str] = {}
        self._zero = 0.0
        self._accepted = self._records = 0

    def begin(self) -> None:
        """Set time zero to now."""
        self._zero = trio.current_time()

    def now(self) -> float:
        """Return the seconds since time zero."""
        return trio.current_time() - self._zero

    def name(self, node: str, peer: PeerId) -> None:
        """Note the name of a peer."""
        self._names[short_peer(peer)] = node

    def read(self, node: str, line: str) -> None:
        """Take one line of a node's log."""
        found = read_line(line, self.now(), node, self._names)
        if found is None or len(self.trace) >= MOST_HAPPENINGS:
            return
        self.trace.append(found)
        self._accepted += found.what == "accepted"
        self._records += found.what == "record"
        if found.what == "lease":
            self.scheduling = node
            if found.text == TRAIN:
                self.first_lease.set()

    @property
    def progress(self) -> tuple[int, int]:
        """A value that changes with every result that counts, and every record of the ledger."""
        return self._accepted, self._records

    async def sample(self, swarm: LocalSwarm, soaking: bool) -> None:
        """Measure all nodes again and again; endless."""
        while True:
            for node in [node for node in swarm.nodes if node.running]:
                found = await trio.to_thread.run_sync(measure, node, self.now())
                if found is not None:
                    self.samples.append(found)
            await trio.sleep(SOAK_SAMPLE_SECONDS if soaking else SAMPLE_SECONDS)

    async def chaos(self, seed: int, executor: Executor, stuck: str, soak: float | None) -> Chaos:
        """Return the part of the report."""
        end, trace = self.now(), tuple(self.trace)
        heads = await _heads(executor.swarm)
        met = [each.began for each in executor.happened.values() if each.met]
        zero = next((each.time for each in trace if each.text == TRAIN), end)
        records = sum(each.what == "record" for each in trace)
        judged = growths(self.samples, least_seconds=JUDGED_SHARE * (soak or 0), records=records)
        return Chaos(
            seed=seed,
            faults=tuple(
                fault_report(f, executor.happened.get(f.number), trace) for f in executor.tape
            ),
            applied=executor.applied,
            stuck=stuck,
            checked="not checked",
            forked=_forked(heads),
            heads=tuple(heads),
            before=rate(trace, zero, min(met)) if met else None,
            after=rate(trace, min(met), end) if met else None,
            growth=tuple(judged) if soak else (),
            states=tuple(_states(executor.swarm)) if stuck else (),
            happenings=trace,
            samples=tuple(self.samples),
        )


async def _heads(swarm: LocalSwarm) -> list[Head]:
    found = []
    for node in swarm.nodes:
        if node.answers:
            try:
                ledger = await swarm.ledger(node)
            except NoDaemon:
                continue
            found.append(Head(node=node.name, records=ledger.records, head=ledger.head))
    return found


def _forked(heads: Sequence[Head]) -> bool:
    """Return whether two ledgers of one length end differently."""
    by_length: dict[int, set[str]] = {}
    for each in heads:
        by_length.setdefault(each.records, set()).add(each.head)
    return any(len(found) > 1 for found in by_length.values())


def _states(swarm: LocalSwarm) -> Iterator[NodeState]:
    for node in swarm.nodes:
        yield NodeState(node=node.name, process=node.state, status=node.last, tail=tuple(node.tail))
