"""The ledger: the scheduler's signed, hash-chained account of a run.

A node that holds all records knows the adopted specs and the version of every module, and can
repeat each outer step from the contributions that its record lists. Records are few and small:
they name blobs by digest and hold none.

A chain is of records of ascending terms. The first record of every term above 0 says by what right
the term begins: `TermBegun` with the promises of a quorum of keepers, or `TermGranted` by the run's
owner. So whoever has the manifest and the chain can check each choice.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import MAX_PATHS
from dipaco.protocol.run.modules import ModuleName
from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.messages import MAX_KEEPERS
from dipaco.protocol.wire.signed import Signed, open_signed, signed_bytes
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.kinds import Path, Round, Size, WorkEntry
from dipaco.protocol.work.terms import (
    Head,
    OwnersGrant,
    Promise,
    Term,
    check_promises,
    chosen_head,
)


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


class TermBegun(Wire, frozen=True, kw_only=True):
    """A scheduler begins its term with the promises of a quorum of keepers.

    The record before it is the last one of the highest head among them.
    """

    MOST_BYTES: ClassVar = 64 + MAX_KEEPERS * signed_bytes(Promise)

    promises: Annotated[tuple[Signed, ...], Meta(min_length=1, max_length=MAX_KEEPERS)]
    """Signed `Promise`s of this term, in ascending order of keepers."""


class TermGranted(Wire, frozen=True, kw_only=True):
    """A scheduler begins its term since the run's owner says so."""

    MOST_BYTES: ClassVar = 64 + signed_bytes(OwnersGrant)

    grant: Signed
    """The owner's signed `OwnersGrant` of this term; its head is the record before this one."""


class RoundMissed(Wire, frozen=True, kw_only=True):
    """A path was late: its modules take the outer step of this round without it (method 2.10).

    A module that has no other live path comes to the round's version as it is.
    """

    path: Path
    round: Round


Entry = SpecAdopted | ModuleUpdated | RoundMissed | WorkEntry | TermBegun | TermGranted


class LedgerRecord(Wire, frozen=True, kw_only=True):
    """One entry and its place in the chain."""

    run: DigestField
    term: Term
    """It says who may sign: each term belongs to one scheduler (`authority.scheduler_of_term`)."""
    seq: Annotated[int, Meta(ge=0, le=1 << 40)]
    """From 0, without gaps."""
    previous: DigestField
    """Body digest of the record before; zeros in the first record."""
    entry: Entry

    @property
    def begins(self) -> bool:
        """Whether it begins a term above 0."""
        return isinstance(self.entry, TermBegun | TermGranted)


def append_checked(
    records: Iterable[Signed],
    *,
    run: Digest,
    manifest: Manifest,
    head: Head,
    digest_of: Callable[[int], Digest],
) -> list[LedgerRecord]:
    """Return the records in `records`, after checking that they continue a chain.

    head        where the chain ends, `NO_HEAD` if it is empty.
    digest_of   gives the body digest of a record of the chain by its number, below `head.length`.

    Raises RemoteProtocolError at the first record that is not the chain's next.
    """
    opened: list[LedgerRecord] = []
    digests: list[Digest] = []

    def known(seq: int) -> Digest:
        made = seq - first
        return digests[made] if made >= 0 else digest_of(seq)

    first = head.length
    for signed in records:
        record = open_signed(signed, LedgerRecord)
        scheduler = scheduler_of_term(manifest.schedule.schedulers, record.term)
        if record.run != run:
            raise RemoteProtocolError("the record belongs to another run")
        if signed.signer != scheduler:
            raise RemoteProtocolError(f"{signed.signer} is not the scheduler of term {record.term}")
        if (record.seq, record.previous) != (head.length, head.digest):
            raise RemoteProtocolError(f"the record is not record {head.length} of this chain")
        _check_term(record, manifest, head, known)
        opened.append(record)
        digests.append(signed.body_digest)
        head = Head(term=record.term, length=record.seq + 1, digest=digests[-1])
    return opened


def _check_term(
    record: LedgerRecord, manifest: Manifest, head: Head, digest_of: Callable[[int], Digest]
) -> None:
    """Check that a record is of the chain's term, or begins a higher one by right."""
    if record.term == head.term and not record.begins:
        return
    if record.term <= head.term or not record.begins:
        raise RemoteProtocolError(
            f"the record is of term {record.term}, the chain of {head.term}"
            + (", which is begun once" if record.begins else ", and does not begin it")
        )
    if isinstance(record.entry, TermBegun):
        promises = check_promises(manifest, record.run, record.term, record.entry.promises)
        check_choice(promises, head, digest_of)
    elif isinstance(record.entry, TermGranted):
        grant = open_signed(record.entry.grant, OwnersGrant)
        if record.entry.grant.signer != manifest.owner:
            raise RemoteProtocolError("the grant of the term is not signed by the run's owner")
        if (grant.run, grant.term, grant.head) != (record.run, record.term, head):
            raise RemoteProtocolError("the owner's grant is of another run, term or head")


def check_choice(
    promises: Iterable[Promise], head: Head, digest_of: Callable[[int], Digest]
) -> None:
    """Check that `head` is the one that promises choose, and that they do not contradict it.

    digest_of   as in `append_checked`, of the chain that ends at `head`.

    Keepers may stand at different heads of one term: each must be part of the chain, else the
    scheduler of that term signed two chains, and any of them may have been final at a keeper that
    did not promise. Then another quorum has to promise. Raises RemoteProtocolError.
    """
    promised = tuple(promises)
    chosen = chosen_head(promised)
    if chosen != head:
        raise RemoteProtocolError(
            f"the promises choose head {chosen.length} of term {chosen.term}, and the chain has "
            f"{head.length} of term {head.term}"
        )
    for each in (promise.head for promise in promised):
        if each.term == head.term and each.length and digest_of(each.length - 1) != each.digest:
            raise RemoteProtocolError(
                f"two keepers promise heads of term {each.term} of which neither has the other"
            )


class Equivocation(Wire, frozen=True, kw_only=True):
    """Two records that prove that their signer signed two ledgers, to anybody with the manifest."""

    MOST_BYTES: ClassVar = 64 + 2 * signed_bytes(LedgerRecord)

    one: Signed
    """A `LedgerRecord`."""
    other: Signed
    """A `LedgerRecord` of the same term, of the same number or the next one."""


def check_equivocation(
    proof: Equivocation, *, run: Digest, manifest: Manifest
) -> tuple[LedgerRecord, LedgerRecord]:
    """Return both records; raises RemoteProtocolError if they prove nothing.

    Both have one number and differ, or the other names another record before it.
    """
    pair = open_signed(proof.one, LedgerRecord), open_signed(proof.other, LedgerRecord)
    one, other = pair
    if {one.run, other.run} != {run}:
        raise RemoteProtocolError("a record belongs to another run")
    if one.term != other.term:
        raise RemoteProtocolError(f"the records are of two terms, {one.term} and {other.term}")
    scheduler = scheduler_of_term(manifest.schedule.schedulers, one.term)
    if {proof.one.signer, proof.other.signer} != {scheduler}:
        raise RemoteProtocolError(f"the scheduler of term {one.term} did not sign both records")
    if one.seq == other.seq and proof.one.body_digest != proof.other.body_digest:
        return pair
    if one.seq + 1 == other.seq and other.previous != proof.one.body_digest:
        return pair
    raise RemoteProtocolError("the records do not contradict each other")
