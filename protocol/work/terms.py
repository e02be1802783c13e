"""Terms and keepers: the signed values by which a run outlives its scheduler, and their checks.

Keepers are peers that the manifest names; they store the ledger and sign where it stands. A record
is final when a quorum of them has signed a head that has it in its chain, in that head's own term.
A scheduler begins a term with the promises of a quorum, and from the highest head among them.
docs/safety.md proves that no final record is lost. No clock takes part in it.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest, Scheduling
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.wire.identity import PeerId, PeerIdField, short_peer
from dipaco.protocol.wire.signed import Signed, open_signed

NO_RECORD = Digest(bytes(32))
"""The field `previous` of the first record, and the digest of a head of no record."""
FIRST_TERM = 0
MAX_TERMS = 1 << 20

Term = Annotated[int, Meta(ge=0, le=MAX_TERMS)]


class Head(Wire, frozen=True, kw_only=True):
    """Where a ledger ends; of no record, all its fields are 0."""

    term: Term
    """The term of the last record."""
    length: Annotated[int, Meta(ge=0, le=1 << 40)]
    """Number of records."""
    digest: DigestField
    """Body digest of the last record."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.length and (self.term or self.digest != NO_RECORD):
            raise ValueError("length: without a record, the term and the digest are 0 as well")

    @property
    def rank(self) -> tuple[int, int]:
        """The order of heads: the higher term first, then the longer chain."""
        return self.term, self.length


NO_HEAD: Final = Head(term=FIRST_TERM, length=0, digest=NO_RECORD)
"""The head of a ledger without a record."""


class Promise(Wire, frozen=True, kw_only=True):
    """A keeper promises that it signs no head of a lower term any more."""

    run: DigestField
    term: Annotated[int, Meta(ge=1, le=MAX_TERMS)]
    """The term that the asker wants to begin."""
    keeper: PeerIdField
    """The signer."""
    head: Head
    """Where the keeper's chain ends at this moment, with what is not final yet."""


class Cosigned(Wire, frozen=True, kw_only=True):
    """A keeper has this head in its chain, on disk, and signs it in the head's own term."""

    run: DigestField
    keeper: PeerIdField
    """The signer."""
    head: Head


class OwnersGrant(Wire, frozen=True, kw_only=True):
    """The run's owner lets a term begin without promises: by hand, where a quorum is gone."""

    run: DigestField
    term: Annotated[int, Meta(ge=1, le=MAX_TERMS)]
    head: Head
    """The records that the term goes on from; what other chains have beyond it is given up."""


def check_certificate(manifest: Manifest, run: Digest, certificate: Sequence[Signed]) -> Head:
    """Return the head that a certificate makes final; raises RemoteProtocolError.

    certificate   `Cosigned` of a quorum of the manifest's keepers, all of one head, in ascending
                  order of keepers.
    """
    cosigned = [open_signed(signed, Cosigned) for signed in certificate]
    _check_quorum(manifest.schedule, [each.keeper for each in cosigned], certificate)
    head = cosigned[0].head
    if any(each.run != run for each in cosigned):
        raise RemoteProtocolError("the certificate has a cosignature of another run")
    if any(each.head != head for each in cosigned):
        raise RemoteProtocolError("the certificate has cosignatures of different heads")
    if not head.length:
        raise RemoteProtocolError("the certificate is of no record")
    return head


def check_promises(
    manifest: Manifest, run: Digest, term: int, promises: Sequence[Signed]
) -> list[Promise]:
    """Return the promises that begin `term`; raises RemoteProtocolError.

    promises   of a quorum of the manifest's keepers, in ascending order of keepers. Which chain
               they choose is for `chosen_head` to say.
    """
    opened = [open_signed(signed, Promise) for signed in promises]
    _check_quorum(manifest.schedule, [each.keeper for each in opened], promises)
    for promise in opened:
        if promise.run != run:
            raise RemoteProtocolError("a promise is of another run")
        if promise.term != term:
            raise RemoteProtocolError(f"a promise is of term {promise.term}, not of {term}")
        if promise.head.term >= term:
            raise RemoteProtocolError(
                f"a promise of term {term} has a head of term {promise.head.term}"
            )
    return opened


def chosen_head(promises: Sequence[Promise]) -> Head:
    """Return the head that a term goes on from: the highest one among at least one promise."""
    return max((promise.head for promise in promises), key=lambda head: head.rank)


def _check_quorum(
    schedule: Scheduling, keepers: Sequence[PeerId], signed: Sequence[Signed]
) -> None:
    """Check that enough of the manifest's keepers signed, each once and for itself."""
    named = schedule.named_keepers
    if not named:
        raise RemoteProtocolError("the run has no keepers")
    for keeper, envelope in zip(keepers, signed, strict=True):
        if envelope.signer != keeper:
            raise RemoteProtocolError(
                f"what {short_peer(keeper)} should have signed is signed by "
                f"{short_peer(envelope.signer)}"
            )
        if keeper not in named:
            raise RemoteProtocolError(f"{short_peer(keeper)} is not a keeper of the run")
    if list(keepers) != sorted(set(keepers)):
        raise RemoteProtocolError("the keepers are not in ascending order, each once")
    if len(keepers) < schedule.keeper_quorum:
        raise RemoteProtocolError(
            f"{len(keepers)} of {len(named)} keepers signed, {schedule.keeper_quorum} must"
        )
