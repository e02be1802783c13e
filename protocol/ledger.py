"""The ledger: the scheduler's signed, hash-chained account of a run.

Whoever holds the records from the first on knows which spec was adopted and which version every
module stands at, and can redo each outer step from its listed contributions. Records are few and
small: they name blobs by digest and hold none.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from dipaco.protocol.canonical import Wire
from dipaco.protocol.digest import Digest, DigestField
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.identity import PeerIdField
from dipaco.protocol.lease import MAX_MODULES, ModuleDigest, ModuleName, Sheet, Size
from dipaco.protocol.manifest import MAX_PATHS
from dipaco.protocol.signed import Signed, open_signed

NO_RECORD = Digest(bytes(32))
"""What the first record calls its predecessor."""


class SpecAdopted(Wire, frozen=True, kw_only=True):
    """From here on documents are routed by this spec: from round 1, or after re-sharding."""

    epoch: Annotated[int, Meta(ge=0, le=1 << 20)]
    spec: DigestField


class Seeded(Wire, frozen=True, kw_only=True):
    """The seed model became version 0 of every module."""

    peer: PeerIdField
    """Who trained it."""
    states: Annotated[tuple[ModuleDigest, ...], Meta(max_length=1 << 14)]
    """Of all modules, in the topology's order."""


class Contribution(Wire, frozen=True, kw_only=True):
    """One path's part in an outer step."""

    path: Annotated[int, Meta(ge=0, lt=MAX_PATHS)]
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
    version: Annotated[int, Meta(ge=1, le=1 << 20)]
    """The version it made: round t makes version t."""
    contributions: Annotated[tuple[Contribution, ...], Meta(min_length=1, max_length=MAX_PATHS)]
    """In ascending order of paths."""
    state: DigestField
    momentum: DigestField
    quantised: Quantised | None = None


class MomentsReplaced(Wire, frozen=True, kw_only=True):
    """A path's moments after a round, made once more, elsewhere: their first maker took them away.

    Where the hardware is alike they are the same, and there is no such entry.
    """

    path: Annotated[int, Meta(ge=0, lt=MAX_PATHS)]
    round: Annotated[int, Meta(ge=1, le=1 << 20)]
    peer: PeerIdField
    moments: Annotated[tuple[ModuleDigest, ...], Meta(min_length=1, max_length=MAX_MODULES)]
    """Of all the path's modules, in the topology's order."""


class Evaluated(Wire, frozen=True, kw_only=True):
    """The held-out loss of one path at one version, as the peer that looked reports it."""

    path: Annotated[int, Meta(ge=0, lt=MAX_PATHS)]
    version: Annotated[int, Meta(ge=0, le=1 << 20)]
    peer: PeerIdField
    documents: Size
    tokens: Size
    nll: Annotated[float, Meta(ge=0, le=1e12)]


class Scored(Wire, frozen=True, kw_only=True):
    """A peer's scores of the router documents of one window by one path, at the re-sharding.

    Which of several sheets of one path and window stand follows from their contents and order
    (`labels.standing`).
    """

    path: Annotated[int, Meta(ge=0, lt=MAX_PATHS)]
    window: Size
    peer: PeerIdField
    sheet: Sheet


Entry = SpecAdopted | Seeded | ModuleUpdated | MomentsReplaced | Evaluated | Scored


class LedgerRecord(Wire, frozen=True, kw_only=True):
    """One entry and its place in the chain."""

    run: DigestField
    seq: Annotated[int, Meta(ge=0, le=1 << 40)]
    """From 0, without gaps."""
    previous: DigestField
    """Body digest of the record before; zeros for the first."""
    entry: Entry


def append_checked(
    records: Iterable[Signed], *, run: Digest, seq: int, previous: Digest, schedulers: Iterable[str]
) -> list[LedgerRecord]:
    """Return the entries of `records`, which continue a chain of `seq` records.

    previous    body digest of the chain's last record, `NO_RECORD` if it is empty.
    schedulers  PeerIDs whose signature counts.

    Raises RemoteProtocolError at the first record that is not the chain's next.
    """
    allowed = frozenset(schedulers)
    opened: list[LedgerRecord] = []
    for signed in records:
        record = open_signed(signed, LedgerRecord)
        if signed.signer not in allowed:
            raise RemoteProtocolError(f"{signed.signer} does not keep this ledger")
        if (record.run, record.seq, record.previous) != (run, seq, previous):
            raise RemoteProtocolError(f"not record {seq} of this ledger, or of another chain")
        opened.append(record)
        seq, previous = seq + 1, signed.body_digest
    return opened
