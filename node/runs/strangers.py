"""Room for the runs of strangers: which of them go when there are too many. Pure.

Anybody may sign a manifest, and identities are free: so there are bounds on all runs that this node
does not work for, on those of one owner, and on those that one network prefix brought. The least
useful goes first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId

MAX_RUNS = 256  # runs that this node does not work for: what a person may choose from
MAX_BYTES = 4 << 20  # of their manifests in all; a usual one has 2 to 200 kB
MAX_MANIFEST = 1 << 20  # bytes of one of them: 5,000 files of a source
MAX_OF_OWNER = 16  # runs of one signer; identities are free, but the lazy use one
MAX_OF_PREFIX = 64  # runs that one prefix brought, whatever their signers
MAX_FOLLOWED = 8  # runs whose ledgers are fetched before one of them is chosen
MAX_DETAILS = 4 << 20  # bytes of specs, receipts and records of one such run: 32 MiB in all


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A stranger's run, as far as the choice of those that go needs it."""

    run: Digest
    owner: PeerId
    bytes: int
    """Of its manifest."""
    origin: str = ""
    """The IP prefix of the peer that brought it; empty: it is not counted."""
    useful: int = 0
    """Those with less go first: 0, or 1 where its own scheduler offers it, 2 where it is
    followed."""


def spare(held: Sequence[Stored], new: Stored) -> list[Digest]:
    """Return the runs that make room for a new one, the least useful first.

    held   the least recently offered first.
    """
    left = sorted(held, key=lambda each: each.useful)
    gone: list[Digest] = []
    for reason in _excesses(left, new):
        left.remove(reason)
        gone.append(reason.run)
    return gone


def _excesses(left: list[Stored], new: Stored) -> Iterator[Stored]:
    """Yield the run that goes while a bound is exceeded; the caller removes it from `left`."""
    while True:
        of_owner = [each for each in left if each.owner == new.owner]
        of_prefix = [each for each in left if each.origin and each.origin == new.origin]
        total = sum(each.bytes for each in left) + new.bytes
        if len(of_owner) >= MAX_OF_OWNER:
            yield of_owner[0]
        elif len(of_prefix) >= MAX_OF_PREFIX:
            yield of_prefix[0]
        elif left and (len(left) >= MAX_RUNS or total > MAX_BYTES):
            yield left[0]
        else:
            return
