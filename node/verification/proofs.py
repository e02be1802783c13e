"""Proofs that a scheduler signed two ledgers, as files that anybody can check without a network.

A file holds the run's signed manifest and both records: nothing else is needed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dipaco.node.runs.files import RunFile, open_run
from dipaco.node.storage.files import read_file, write_file
from dipaco.node.storage.journal import SavedProof
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.signed import Signed, signed_bytes
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.ledger import Equivocation, LedgerRecord, check_equivocation


class ProofFile(Wire, frozen=True, kw_only=True):
    """The content of a proof's file."""

    MOST_BYTES: ClassVar = signed_bytes(Manifest) + 2 * signed_bytes(LedgerRecord) + 256

    manifest: Signed
    """The run's `Manifest`."""
    proof: Equivocation


@dataclass(frozen=True)
class Proven:
    """A proof that holds."""

    run: RunFile
    scheduler: PeerId
    """Who signed two ledgers."""
    one: LedgerRecord
    other: LedgerRecord
    proof: Equivocation


def proof_of(saved: SavedProof, run: RunFile) -> ProofFile:
    """Return what a node keeps as a proof in the form of a file.

    Raises Refusal for a single record that cannot follow: that shows with the ledger alone.
    """
    if not saved.one:
        raise Refusal(
            f"{run.manifest.name}: {saved.reason}; that shows only with the ledger before that "
            "record: `dipaco-node verify --history` checks it"
        )
    pair = (decode(each, Signed) for each in (saved.one, saved.other))
    one, other = pair
    return ProofFile(manifest=run.signed, proof=Equivocation(one=one, other=other))


def write_proof(path: Path, proof: ProofFile) -> None:
    """Write a proof, whole or not at all."""
    write_file(path, encode(proof))


def read_proof(path: Path, expected: RunFile | None = None) -> Proven:
    """Read a proof's file and check it with the manifest in it.

    expected   the run that it must be of; None: any.

    Raises ConfigError for a file that cannot be read, Refusal for one that proves nothing.
    """
    data = read_file(path, limit=ProofFile.MOST_BYTES)
    try:
        content = decode(data, ProofFile)
    except RemoteProtocolError as error:
        raise Refusal(f"{path}: not a proof, or damaged: {error}") from error
    run = open_run(encode(content.manifest), str(path))
    if expected is not None and run.id != expected.id:
        raise ConfigError(
            f"{path}: is of run {run.id.hex()} ({run.manifest.name}), not of {expected.id.hex()}"
        )
    try:
        one, other = check_equivocation(content.proof, run=run.id, manifest=run.manifest)
    except RemoteProtocolError as error:
        raise Refusal(f"{path}: proves nothing: {error}") from error
    scheduler = scheduler_of_term(run.manifest.schedule.schedulers, one.term)
    return Proven(run, scheduler, one, other, content.proof)
