"""A run's whole ledger, checked without a network.

Each record is held against the manifest and the records before it: signature, place, the right by
which a term began, the rules of the fold. In a run with keepers the certificate says how much of it
is final, up to the owner's word that the run goes on without them. Every outer step whose blobs are
at hand is taken again, on the processor alone, and must give the digests that the ledger names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from dipaco.node.aggregation.outer import take_outer_step
from dipaco.node.jobs.values import OuterStep, Stepped
from dipaco.node.runs.chain import RECORD
from dipaco.node.runs.ledger_file import Told
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.blobs import BlobStore, Buffer
from dipaco.protocol.errors import Refusal, RemoteProtocolError, Unavailable
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.ledger import Entry, LedgerRecord, ModuleUpdated, TermBegun
from dipaco.protocol.work.terms import check_certificate


@dataclass(frozen=True)
class BegunTerm:
    """A term that the ledger has records of."""

    term: int
    scheduler: PeerId
    first: int
    """Number of its first record."""
    promises: int | None
    """Number of promises that it began with; None: it is the first, or the owner granted it."""


@dataclass
class History:
    """What a ledger tells, as far as it was checked; nothing of it is wrong."""

    records: int = 0
    terms: list[BegunTerm] = field(default_factory=list)
    final: int = 0
    """Number of records that are final."""
    signers: int = 0
    """Number of keepers that made them so; 0 in a run without keepers."""
    redone: int = 0
    """Outer steps that were taken again, with the digests of the ledger."""
    missing: int = 0
    """Outer steps whose blobs are not at hand."""

    @property
    def unchecked(self) -> Iterator[str]:
        """Yield what could not be checked, in words."""
        if self.final < self.records:
            yield (
                f"whether records {self.final} to {self.records - 1} are final: no certificate of "
                "them is here"
            )
        if self.missing:
            steps = self.missing + self.redone
            yield f"{self.missing} of {steps} outer steps: their blobs are not here"


def check_history(told: Told, blobs: BlobStore, origin: str) -> History:
    """Check a ledger; raises Refusal, which names `origin` and the first record that is wrong.

    blobs   those at hand; none is written.
    """
    record = RunRecord(told.run.id, told.run.manifest)
    steps, found = _Digests(blobs), History()
    for number, data in enumerate(told.records):
        try:
            signed = decode(data, Signed, limit=RECORD)
            (each,) = record.check([signed])
            step = _step_of(record, each.entry)
            _note_term(record, each, found)
            record.advance(signed, each)
            if step is not None and isinstance(each.entry, ModuleUpdated):
                _redo(step, each.entry, steps, found)
        except RemoteProtocolError as error:
            raise Refusal(f"{origin}: record {number}: {error}") from error
    found.records = record.length
    try:
        _check_final(told, record, found)
    except RemoteProtocolError as error:
        raise Refusal(f"{origin}: {error}") from error
    return found


def _note_term(record: RunRecord, each: LedgerRecord, found: History) -> None:
    if found.terms and not each.begins:
        return
    scheduler = record.manifest.schedule.schedulers
    promises = len(each.entry.promises) if isinstance(each.entry, TermBegun) else None
    who = scheduler[each.term % len(scheduler)]
    found.terms.append(BegunTerm(each.term, who, each.seq, promises))


def _check_final(told: Told, record: RunRecord, found: History) -> None:
    """Note how much of the ledger is final; raises RemoteProtocolError for a wrong certificate."""
    if not record.manifest.schedule.named_keepers:
        if told.certificate:
            raise RemoteProtocolError("it has a certificate, and the run has no keepers")
        found.final = record.length
        return
    if told.certificate:
        found.final, found.signers = _certified(told, record), len(told.certificate)
    granted = (each.first for each in found.terms if each.term and each.promises is None)
    if found.final >= next(granted, math.inf):  # it goes on without keepers, says the owner
        found.final = record.length


def _certified(told: Told, record: RunRecord) -> int:
    """Return the number of records that the certificate makes final."""
    head = check_certificate(record.manifest, record.run, told.certificate)
    if head.length > record.length:
        raise RemoteProtocolError(
            f"its certificate is of {head.length} records, and {record.length} are here: it is cut "
            "off"
        )
    if record.digests[head.length - 1] != head.digest:
        raise RemoteProtocolError("its certificate is of another ledger: this one is not final")
    return head.length


def _step_of(record: RunRecord, entry: Entry) -> OuterStep | None:
    """Return the outer step of an entry, on what the ledger told before it; None: it is none."""
    if not isinstance(entry, ModuleUpdated) or entry.module not in record.state.states:
        return None  # the fold says what is wrong with an unknown module
    state, module = record.state, ModuleId(entry.module)
    return OuterStep(
        manifest=record.manifest,
        module=module,
        state=state.states[module][-1],
        momentum=state.momenta.get(module),
        residual=state.residual(module),
        contributions=entry.contributions,
    )


def _redo(step: OuterStep, entry: ModuleUpdated, blobs: "_Digests", found: History) -> None:
    """Take an outer step again; raises RemoteProtocolError if it gives something else."""
    if not any(each.weight for each in step.contributions):  # shares of nothing
        raise RemoteProtocolError(f"all contributions to module {entry.module} have weight 0")
    try:
        made = take_outer_step(blobs, step)
    except Unavailable:
        found.missing += 1
        return
    told = Stepped(state=entry.state, momentum=entry.momentum, quantised=entry.quantised)
    if made != told:
        raise RemoteProtocolError(
            f"the outer step of module {entry.module} to version {entry.version} gives state "
            f"{short(made.state)} and momentum {short(made.momentum)}, and the ledger says "
            f"{short(told.state)} and {short(told.momentum)}"
        )
    found.redone += 1


class _Digests(BlobStore):
    """A store that is only read: what is written has a digest, and goes nowhere."""

    def __init__(self, blobs: BlobStore) -> None:
        self._root = blobs._root
        self._checked = blobs._checked

    def write(self, data: Buffer) -> Digest:
        """Return the digest of `data`."""
        return sha256(data)
