"""The ledger: the scheduler's signed, hash-chained account of a run.

A node that holds all records knows the adopted specs and the version of every module, and can
repeat each outer step from the contributions that its record lists. Records are few and small:
they name blobs by digest and hold none.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

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
"""The field `previous` of the first record."""
FIRST_TERM = 0
MAX_TERMS = 1 << 20


class SpecAdopted(Wire, frozen=True, kw_only=True):
    """From here on documents are routed by this spec: from round 1, or after re-sharding."""

    epoch: Annotated[int, Meta(ge=0, le=1 << 20)]
    spec: DigestField
    live: Annotated[tuple[Path, ...], Meta(min_length=1, max_length=MAX_PATHS)] | UnsetType = UNSET
    """The paths that have training data by this spec, ascending: the fold counts quorums over them.
    Given exactly where the manifest has `training.quorum`."""


class Contribution(Wire, frozen=True, kw_only=True):
    """One path's part in an outer step."""

    path: Path
    peer: PeerIdField
    delta: DigestField
    weight: Size
    """n_p: the path's tokens as the router spec states them."""
    moments: DigestField | None = None
    """The path's inner moments of this module after the round, where the manifest carries them."""
    steps: Size = 0
    """Inner steps that these moments have seen; 0 where none are carried."""


class Quantised(Wire, frozen=True, kw_only=True):
    """An outer step's packed update and residual, where the manifest packs updates (method 7.2)."""

    update: DigestField
    """The packed update: a node that holds the version before needs this blob alone."""
    residual: DigestField
    """The part that packing left out, float32; the next outer step adds it."""


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


class RoundMissed(Wire, frozen=True, kw_only=True):
    """A path was late: its modules take the outer step of this round without it (method 2.10).

    A module that has no other live path comes to the round's version as it is.
    """

    path: Path
    round: Round


Entry = SpecAdopted | ModuleUpdated | RoundMissed | WorkEntry


class LedgerRecord(Wire, frozen=True, kw_only=True):
    """One entry and its place in the chain."""

    run: DigestField
    term: Annotated[int, Meta(ge=0, le=MAX_TERMS)]
    """It says who may sign: each term belongs to one scheduler (`authority.scheduler_of_term`)."""
    seq: Annotated[int, Meta(ge=0, le=1 << 40)]
    """From 0, without gaps."""
    previous: DigestField
    """Body digest of the record before; zeros in the first record."""
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
    """Return the records in `records`, after checking that they continue a chain of `seq` records.

    term        the chain's term so far, 0 at its beginning. A chain stays in its term: this
                version knows no entry that begins another.
    previous    body digest of the chain's last record, `NO_RECORD` if it is empty.
    schedulers  PeerIDs of the manifest's schedulers, in its order.

    Raises RemoteProtocolError at the first record that is not the chain's next.
    """
    scheduler = scheduler_of_term(schedulers, term)
    opened: list[LedgerRecord] = []
    for signed in records:
        record = open_signed(signed, LedgerRecord)
        if signed.signer != scheduler:
            raise RemoteProtocolError(f"{signed.signer} is not the scheduler of term {term}")
        if record.run != run:
            raise RemoteProtocolError("the record belongs to another run")
        if record.term != term:
            raise RemoteProtocolError(f"the record is of term {record.term}, the chain of {term}")
        if (record.seq, record.previous) != (seq, previous):
            raise RemoteProtocolError(f"the record is not record {seq} of this chain")
        opened.append(record)
        seq, previous = seq + 1, signed.body_digest
    return opened
