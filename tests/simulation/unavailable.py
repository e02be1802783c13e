"""When a run can rightly not go on: told apart from one that is stuck, which is a fault.

Each rule reads the disks of the nodes that are not gone for good, and none of them can be true of a
run that some later event of its universe would set going again.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar, cast

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.tail import Chain
from dipaco.protocol.work.terms import Head
from tests.simulation.blobs import TABLE
from tests.simulation.keeper import KeeperNode
from tests.simulation.scheduler import SchedulerNode
from tests.simulation.volunteer import VolunteerNode
from tests.simulation.world import Node

N = TypeVar("N", bound=Node)


def why_unavailable(
    manifest: Manifest,
    schedulers: Sequence[SchedulerNode],
    keepers: Sequence[KeeperNode],
    volunteers: Sequence[VolunteerNode],
    liars: AbstractSet[PeerId],
) -> str:
    """Return why the run cannot go on from here, whatever happens; empty: it can.

    liars   nodes that sign two ledgers.
    """
    if not _there(schedulers):
        return "all schedulers are gone"
    if not _there(volunteers):
        return "all volunteers are gone"
    there = _there(keepers)
    if any(not node.up for node in there):
        return ""  # they start again: then they say where they stand
    if keepers and (why := _without_quorum(manifest, there, gone=len(keepers) - len(there))):
        return why
    if _divided(there) and {node.peer for node in _there(schedulers)} <= liars:
        return "a scheduler signed two chains, and no other is left"
    if keepers and sum(node.gone or node.lost for node in keepers) < manifest.schedule.blob_copies:
        return ""  # a blob that a final record names is with one of the others
    if not keepers and len(schedulers) == 1:
        return ""  # its disk has all of them
    return _without_blobs(schedulers, (*schedulers, *keepers, *volunteers))


def _there(nodes: Iterable[N]) -> list[N]:
    return [node for node in nodes if not node.gone]


def _without_quorum(manifest: Manifest, there: Sequence[KeeperNode], *, gone: int) -> str:
    quorum = manifest.schedule.keeper_quorum
    voting = [node for node in there if not node.forgot]
    chains = _chains(voting)
    begun = any(chain.head.length for chain in chains)
    if len(voting) < quorum and (gone or begun):
        return "fewer keepers vote than a quorum"
    if (
        begun
        and max(sum(_allows(each.head, chain) for each in chains) for chain in chains) < quorum
    ):
        return "a scheduler signed two chains, and no quorum that is left has one of them"
    return ""


def _divided(there: Sequence[KeeperNode]) -> bool:
    """Return whether keepers stand at two records of one number and term."""
    heads = [chain.head for chain in _chains(there)]
    return len(set(heads)) > len({(head.term, head.length) for head in heads})


def _chains(keepers: Sequence[KeeperNode]) -> list[Chain]:
    return [node.keeper.chain(node.state, node.chain.final) for node in keepers]


def _allows(head: Head, chain: Chain) -> bool:
    """Return whether a keeper that stands at `head` may go on with `chain`."""
    if head.rank > chain.head.rank:
        return False
    if head.term < chain.head.term or not head.length:
        return True
    return chain.digest_of(head.length - 1) == head.digest


def _without_blobs(schedulers: Sequence[SchedulerNode], nodes: Sequence[Node]) -> str:
    """Say whether a state, momentum or delta of the next steps is on the disk of gone nodes only.

    A delta that no node has is made again, unless a keeper that is gone may have it.
    """
    longest = max((node for node in schedulers if node.up), key=_length, default=None)
    if longest is None:
        return ""
    fold = longest.chain.record.state
    needed = {versions[-1] for versions in fold.states.values()} | set(fold.momenta.values())
    if any(node.gone for node in nodes if isinstance(node, KeeperNode)) and longest.ready:
        for accepted in longest.schedule.state.accepted.values():
            needed.update(each.digest for each in accepted.result.deltas)
    here: set[Digest] = set()
    for node in nodes:
        if not node.gone:
            here.update(cast(Digest, key[0]) for key in node.disk.rows(TABLE))
    return "a state, momentum or delta is with nobody that is left" if needed - here else ""


def _length(node: SchedulerNode) -> int:
    return len(node.chain.records)
