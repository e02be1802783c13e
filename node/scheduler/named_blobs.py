"""The blobs that an entry of the ledger names, and that its scheduler must have on keepers before.

Moments are no part of it: their maker may still have them when an outer step names them. They are
on keepers before the next one (`held_moments.py`), and until then they can be made again. Deltas
are on keepers since their result was accepted.
"""

from collections.abc import Iterator

from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.kinds import Scored, Seeded
from dipaco.protocol.work.ledger import Entry, ModuleUpdated


def blobs_named(entry: Entry) -> Iterator[Digest]:
    """Yield the blobs that are lost for good if nobody has them once `entry` stands."""
    match entry:
        case Seeded(states=states):
            yield from (each.digest for each in states)
        case ModuleUpdated(state=state, momentum=momentum, quantised=quantised):
            yield from (state, momentum)
            if quantised is not None:
                yield from (quantised.update, quantised.residual)
        case Scored(sheet=sheet):
            yield sheet.digest
        case _:
            pass
