"""A run's ledger as a file: the signed manifest, then every signed record, as nodes hand them on.

In a run with keepers the signatures follow that make the records final. Each of them all is an
envelope in its canonical encoding behind its length in bytes (u32, little endian); the first line
names the format.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dipaco.node.runs.chain import RECORD
from dipaco.node.runs.files import RunFile, find_run, open_run
from dipaco.node.runs.known import known_runs, named_run, read_certificate, read_records
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import read_file, replacing
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode, field_of
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed
from dipaco.protocol.work.ledger import LedgerRecord
from dipaco.protocol.work.terms import NO_HEAD, Cosigned

FIRST_LINE = b"dipaco ledger 1\n"
LENGTH_BYTES = 4
MAX_FILE = 1 << 32  # bytes; the ledger of 16 x 16 paths and 600 rounds has 100 MB


@dataclass(frozen=True)
class Told:
    """A ledger as a file or a home tells it: nobody has checked it yet."""

    run: RunFile
    records: list[bytes]
    """Signed `LedgerRecord`s, encoded."""
    certificate: tuple[Signed, ...] = ()
    """What makes the records final, in a run with keepers; empty: it is not told."""

    @property
    def head(self) -> Digest:
        """The body digest of the last record, zeros if there is none; raises Refusal."""
        if not self.records:
            return NO_HEAD.digest
        try:
            return decode(self.records[-1], Signed, limit=RECORD).body_digest
        except RemoteProtocolError as error:
            raise Refusal(f"the last record of the ledger is damaged: {error}") from error


def write_ledger(path: Path, told: Told) -> None:
    """Write a ledger, whole or not at all."""
    signatures = (encode(signed) for signed in told.certificate)
    with replacing(path) as file:
        file.write(FIRST_LINE)
        for envelope in (encode(told.run.signed), *told.records, *signatures):
            file.write(len(envelope).to_bytes(LENGTH_BYTES, "little") + envelope)


def is_ledger(path: Path) -> bool:
    """Return whether a file begins as a ledger file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(FIRST_LINE)) == FIRST_LINE
    except OSError:
        return False


def read_ledger(path: Path) -> Told:
    """Return what a ledger file tells.

    Raises ConfigError if it cannot be read, Refusal if it is no ledger file.
    """
    data = read_file(path, limit=MAX_FILE)
    if not data.startswith(FIRST_LINE):
        raise Refusal(
            f"{path}: not a ledger file: `dipaco-node run ledger RUN --out FILE` makes one"
        )
    envelopes = list(_envelopes(data, str(path)))
    if not envelopes:
        raise Refusal(f"{path}: ends before the manifest")
    rest = envelopes[1:]
    records = len(rest)
    while records and _is_cosigned(rest[records - 1]):
        records -= 1
    try:
        certificate = tuple(decode(each, Signed, limit=RECORD) for each in rest[records:])
    except RemoteProtocolError as error:
        raise Refusal(f"{path}: its certificate is damaged: {error}") from error
    return Told(open_run(envelopes[0], str(path)), rest[:records], certificate)


def _is_cosigned(envelope: bytes) -> bool:
    body = field_of(envelope, "body")
    return isinstance(body, bytes) and field_of(body, "type") == Cosigned.__name__


def _envelopes(data: bytes, origin: str) -> Iterator[bytes]:
    start = len(FIRST_LINE)
    while start < len(data):
        begin = start + LENGTH_BYTES
        length = int.from_bytes(data[start:begin], "little")
        if length > MAX_ENVELOPE or begin + length > len(data):
            raise Refusal(f"{origin}: damaged, or cut off, at byte {start}")
        yield data[begin : begin + length]
        start = begin + length


def ledger_at(path: Path, name: str) -> Told:
    """Return what a ledger file or a node's home tells of a run.

    name   a run file, or the name or id of a run that the home knows or the ledger file is of;
           empty: the only one that has a ledger there.
    """
    if not path.is_dir():
        told = read_ledger(path)
        if name:
            find_run((told.run,), name)
        return told
    if name:
        run = named_run(name, path)
        records = read_records(run.id, path)
        if not records:
            raise ConfigError(f"{path}: has no ledger of {run.manifest.name}")
        return Told(run, records, read_certificate(run.id, path))
    found = [(run, records) for run in known_runs(path) if (records := read_records(run.id, path))]
    if not found:
        raise ConfigError(f"{path}: has no ledger")
    if len(found) > 1:
        names = ", ".join(run.manifest.name for run, _ in found)
        raise ConfigError(f"{path}: has {len(found)} ledgers ({names}): name the run")
    [(run, records)] = found
    return Told(run, records, read_certificate(run.id, path))


def told_of(name: str, home: Path) -> Told:
    """Return what the ledger file `name` tells, else what `home` tells of the run `name`."""
    if is_ledger(Path(name)):
        return ledger_at(Path(name), "")
    if not home.is_dir():
        raise ConfigError(f"{home}: has no ledger")
    return ledger_at(home, name)


def checked(run: RunFile, records: Iterable[bytes], origin: str) -> list[LedgerRecord]:
    """Return the records of a ledger, each of which can follow those before it.

    Raises Refusal, which names the first one that cannot.
    """
    record, found = RunRecord(run.id, run.manifest), list[LedgerRecord]()
    for number, data in enumerate(records):
        try:
            signed = decode(data, Signed, limit=RECORD)
            for each in record.check([signed]):
                record.advance(signed, each)
                found.append(each)
        except RemoteProtocolError as error:
            raise Refusal(f"{origin}: record {number}: {error}") from error
    return found
