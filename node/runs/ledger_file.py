"""A run's ledger as a file: the signed manifest, then every signed record, as nodes hand them on.

Each of them is an envelope in its canonical encoding behind its length in bytes (u32, little
endian); the first line names the format.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from dipaco.node.runs.chain import RECORD
from dipaco.node.runs.files import RunFile, find_run, open_run
from dipaco.node.runs.known import known_runs, read_records
from dipaco.node.runs.record import RunRecord
from dipaco.node.storage.files import read_file, replacing
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed
from dipaco.protocol.work.ledger import LedgerRecord

FIRST_LINE = b"dipaco ledger 1\n"
LENGTH_BYTES = 4
MAX_FILE = 1 << 32  # bytes; the ledger of 16 x 16 paths and 600 rounds has 100 MB


def write_ledger(path: Path, run: RunFile, records: Iterable[bytes]) -> int:
    """Write a ledger, whole or not at all; returns the number of its records."""
    envelopes = [encode(run.signed), *records]
    with replacing(path) as file:
        file.write(FIRST_LINE)
        for envelope in envelopes:
            file.write(len(envelope).to_bytes(LENGTH_BYTES, "little") + envelope)
    return len(envelopes) - 1


def read_ledger(path: Path) -> tuple[RunFile, list[bytes]]:
    """Return the run of a ledger file and its signed records, which nobody has checked yet.

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
    return open_run(envelopes[0], str(path)), envelopes[1:]


def _envelopes(data: bytes, origin: str) -> Iterator[bytes]:
    start = len(FIRST_LINE)
    while start < len(data):
        begin = start + LENGTH_BYTES
        length = int.from_bytes(data[start:begin], "little")
        if length > MAX_ENVELOPE or begin + length > len(data):
            raise Refusal(f"{origin}: damaged, or cut off, at byte {start}")
        yield data[begin : begin + length]
        start = begin + length


def ledger_at(path: Path, name: str) -> tuple[RunFile, list[bytes]]:
    """Return a run and its signed records, of a ledger file or of a node's home.

    name   of a run that the home knows, or its id; empty: the only one that has a ledger there.
    """
    if not path.is_dir():
        return read_ledger(path)
    known = known_runs(path)
    found = {run.id: records for run in known if (records := read_records(run.id, path))}
    if name:
        run = find_run(known, name)
        if run.id not in found:
            raise ConfigError(f"{path}: has no ledger of {run.manifest.name}")
        return run, found[run.id]
    told = [run for run in known if run.id in found]
    if len(told) != 1:
        names = ", ".join(run.manifest.name for run in told)
        raise ConfigError(f"{path}: has {len(told)} ledgers ({names}): name the run")
    return told[0], found[told[0].id]


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
