"""The calls of a universe beside the product's own: blobs and parts of the ledger."""

from dataclasses import dataclass

from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.ledger import Equivocation


@dataclass(frozen=True)
class Fetch:
    """Ask for a blob."""

    digest: Digest


@dataclass(frozen=True)
class Content:
    """A blob."""

    data: bytes


@dataclass(frozen=True)
class Lacks:
    """The peer does not have that blob."""


@dataclass(frozen=True)
class Pull:
    """Ask for the ledger from a record on."""

    first: int


@dataclass(frozen=True)
class Part:
    """Consecutive records of the ledger; also sent unasked, as gossip."""

    first: int
    records: tuple[Signed, ...]
    certificate: tuple[Signed, ...] = ()
    """Of the last of them, in a run with keepers."""
    grant: Signed | None = None
    """The owner's word that another scheduler goes on, if there is one."""


@dataclass(frozen=True)
class Proof:
    """Sent unasked: a scheduler signed two ledgers."""

    proof: Equivocation
