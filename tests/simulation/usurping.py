"""A node that asks for what is not its own: a keeper must refuse it, whatever else happens."""

from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.calls import AskPromise
from tests.simulation.world import Ask, Node, Task

TERMS = 12  # above the node's own ledger's that it asks for


def usurp(node: Node, run: Digest, manifest: Manifest, term: int) -> Task:
    """Ask every keeper for a promise of a term of another scheduler, above `term`."""
    schedule = manifest.schedule
    terms = [
        each
        for each in range(term + 1, term + TERMS)
        if scheduler_of_term(schedule.schedulers, each) != node.peer
    ]
    if not terms:
        return
    node.world.note_fault("asks for another's term")
    for keeper in schedule.named_keepers:
        yield Ask(keeper, AskPromise(run=run, term=node.random.choice(terms)))
