"""Runs with keepers for tests: their manifest, and records with certificates."""

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.signed import Signed, sign
from dipaco.protocol.work.kinds import Seeded
from dipaco.protocol.work.ledger import Entry, LedgerRecord
from dipaco.protocol.work.terms import NO_RECORD, Cosigned, Head
from tests.values import digest, key, manifest, peer

KEEPERS = ("kim", "ken", "kay")


def kept_manifest(
    keepers: Sequence[str] = KEEPERS, schedulers: Sequence[str] = ("scheduler",), **changes: object
) -> Manifest:
    """Return the small run with keepers and schedulers of these names."""
    plain = manifest(**changes)
    named = replace(
        plain.schedule,
        schedulers=tuple(map(peer, schedulers)),
        keepers=tuple(map(peer, keepers)) or UNSET,
    )
    return replace(plain, schedule=named)


def kept_chain(
    value: Manifest, *entries: Entry, by: str = "scheduler", term: int = 0, first: int = 0
) -> list[Signed]:
    """Return the records of `entries`, each signed by the scheduler called `by`."""
    records: list[Signed] = []
    for seq, entry in enumerate(entries, first):
        record = LedgerRecord(
            run=run_id(value),
            term=term,
            seq=seq,
            previous=records[-1].body_digest if records else NO_RECORD,
            entry=entry,
        )
        records.append(sign(record, key(by)))
    return records


def head(records: Sequence[Signed], *, term: int = 0) -> Head:
    """Return the head of a chain from its first record on."""
    return Head(term=term, length=len(records), digest=records[-1].body_digest)


def cosigned(run: Digest, name: str, of: Head, *, by: str = "") -> Signed:
    """Return the cosignature of the keeper `name`, signed by the key of `by`."""
    return sign(Cosigned(run=run, keeper=peer(name), head=of), key(by or name))


def certificate(run: Digest, names: Sequence[str], of: Head) -> tuple[Signed, ...]:
    """Return the certificate that the keepers of these names make."""
    return tuple(cosigned(run, name, of) for name in sorted(names, key=peer))


def encoded(records: Sequence[Signed]) -> tuple[bytes, ...]:
    """Return records as they travel."""
    return tuple(map(encode, records))


def seeded_of(value: Manifest) -> Seeded:
    """Return the entry of a seed model: each module has the state of its counterpart."""
    top = value.topology
    return Seeded(
        peer=peer("anna"),
        states=tuple(
            ModuleDigest(module=m, digest=digest(top.counterpart(m))) for m in top.modules
        ),
    )
