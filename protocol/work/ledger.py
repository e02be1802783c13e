"""The ledger: the scheduler's signed, hash-chained account of a run.

Whoever holds the records from the first on knows which spec was adopted and which version every
module stands at, and can redo each outer step from its listed contributions. Records are few and
small: they name blobs by digest and hold none.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from msgspec import Meta

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.run.modules import ModuleName
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.wire.identity import PeerId, PeerIdField
from dipaco.protocol.wire.signed import Signed, open_signed
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.kinds import Path, Round, Size, WorkEntry

NO_RECORD = Digest(bytes(32))
"""What the first record calls its predecessor."""
FIRST_TERM = 0
MAX_TERMS = 1 << 20


class SpecAdopted(Wire, frozen=True, kw_only=True):
    """From here on documents are routed by this spec: from round 1, or after re-sharding."""

    epoch: Annotated[int, Meta(ge=0, le=1 << 20)]
    spec: DigestField


class Contribution(Wire, frozen=True, kw_only=True):
    """One path's part in an outer step."""

    path: Path
    peer: PeerIdField
    delta: DigestField
    weight: Size
    """n_p: the path's tokens as the router spec states them."""
    moments: DigestField | None = None
    """The path's AdamW moments of this module after the round, where the manifest carries them."""


class Quantised(Wire, frozen=True, kw_only=True):
    """A state's way to the next version where `training.updates` are packed (method.md 7.2)."""

    update: DigestField
    """Whoever holds the version before needs this alone."""
    residual: DigestField
    """What the update leaves out, float32: the next outer step adds it."""


class ModuleUpdated(Wire, frozen=True, kw_only=True):
    """The outer step of one module."""

    module: ModuleName
    version: Round
    """The version it made: round t makes version t."""
    contributions: Annotated[tuple[Contribution, ...], Meta(min_length=1, max_length=MAX_PATHS)]
    """In ascending order of paths."""
    state: DigestField
    momentum: DigestField
    quantised: Quantised | None = None


Entry = SpecAdopted | ModuleUpdated | WorkEntry


class LedgerRecord(Wire, frozen=True, kw_only=True):
    """One entry and its place in the chain."""

    run: DigestField
    term: Annotated[int, Meta(ge=0, le=MAX_TERMS)]
    """Who may sign: each term belongs to one scheduler (`authority.scheduler_of_term`)."""
    seq: Annotated[int, Meta(ge=0, le=1 << 40)]
    """From 0, without gaps."""
    previous: DigestField
    """Body digest of the record before; zeros for the first."""
    entry: Entry


def append_checked(
    records: Iterable[Signed],
    *,
    run: Digest,
    term: int,
    seq: int,
    previous: Digest,
    schedulers: Sequence[PeerId],
) -> list[LedgerRecord]:
    """Return the entries of `records`, which continue a chain of `seq` records.

    term        of the chain so far, 0 at its beginning. A chain stays in its term: no entry that
                this version knows begins another.
    previous    body digest of the chain's last record, `NO_RECORD` if it is empty.
    schedulers  PeerIDs of the manifest's schedulers, in its order.

    Raises RemoteProtocolError at the first record that is not the chain's next.
    """
    scheduler = scheduler_of_term(schedulers, term)
    opened: list[LedgerRecord] = []
    for signed in records:
        record = open_signed(signed, LedgerRecord)
        if signed.signer != scheduler:
            raise RemoteProtocolError(f"{signed.signer} does not keep this ledger in term {term}")
        if (record.run, record.term) != (run, term):
            raise RemoteProtocolError(f"a record of term {record.term} or of another run")
        if (record.seq, record.previous) != (seq, previous):
            raise RemoteProtocolError(f"not record {seq} of this ledger, or of another chain")
        opened.append(record)
        seq, previous = seq + 1, signed.body_digest
    return opened
