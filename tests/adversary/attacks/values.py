"""Attacks by the signed values that gossip spreads: manifests, specs, receipts, ledgers."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from dipaco.node.network.gossip import SYNC
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import Manifest, Scheduling, run_id
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import SourceFile
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import peer_id
from dipaco.protocol.wire.messages import Announcement, AskInventory, Inventory, Item
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.kinds import Evaluated, Evaluation
from dipaco.protocol.work.ledger import LedgerRecord, SpecAdopted
from dipaco.protocol.work.terms import NO_RECORD
from tests.adversary.arena import Arena
from tests.adversary.client import Stranger, Target, cbor, envelope, plain, reply
from tests.adversary.registry import attack

COMPARISONS = 70.0  # s in which every node has compared its inventory with a neighbour's


def own_run(arena: Arena, key: Ed25519PrivateKey, **changes: Any) -> Manifest:
    """Return a manifest of a stranger, which names the stranger as owner and scheduler."""
    me = peer_id(key)
    mine = replace(arena.manifest, owner=me, schedule=Scheduling(schedulers=(me,)), start=())
    return replace(mine, **changes)


def hold_run(stranger: Stranger, value: Manifest) -> Digest:
    """Have the stranger offer a run."""
    stranger.hold("manifest", run_id(value), encode(sign(value, stranger.key)))
    return run_id(value)


async def offer_to_all(
    arena: Arena,
    prepare: Callable[[Stranger, int], Awaitable[None] | None],
    count: int,
    *,
    seconds: float | None = None,
) -> None:
    """Let `count` identities offer what `prepare` gives each of them to every node."""

    async def offer(stranger: Stranger, number: int) -> None:
        made = prepare(stranger, number)
        if made is not None:
            await made
        for target in arena.everybody:
            await stranger.meet(target)
        await trio.sleep_forever()

    await arena.crowd(count, offer, prefix=None, seconds=seconds)


# -------------------------------------------------------------------- work for a node


@attack()
async def foreign_run_for_the_scheduler(arena: Arena) -> None:
    """Give the scheduler work by manifests that name it, of 2^40 documents and of three."""

    def prepare(stranger: Stranger, number: int) -> None:
        schedule = Scheduling(schedulers=(arena.scheduler.peer, stranger.me))
        documents = (1 << 40, 3)[number % 2]
        source = replace(arena.manifest.source, documents=documents, window=documents)
        hold_run(stranger, own_run(arena, stranger.key, schedule=schedule, source=source))
        second = Scheduling(schedulers=(stranger.me, arena.scheduler.peer))
        hold_run(stranger, own_run(arena, stranger.key, schedule=second, name=f"second-{number}"))

    await offer_to_all(arena, prepare, 4)


@attack()
async def foreign_run_for_the_volunteers(arena: Arena) -> None:
    """Lure volunteers away by runs that look like theirs and have a scheduler that answers."""

    def prepare(stranger: Stranger, number: int) -> None:
        value = own_run(arena, stranger.key, name=arena.manifest.name, seed=number + 1)
        hold_run(stranger, value)

    await offer_to_all(arena, prepare, 6)


@attack()
async def endless_sources(arena: Arena) -> None:
    """Offer runs whose sources would take a worker process for years."""

    def prepare(stranger: Stranger, number: int) -> None:
        for each in range(4):
            source = replace(arena.manifest.source, documents=1 << 40, window=1 << 40)
            hold_run(stranger, own_run(arena, stranger.key, source=source, seed=each))

    await offer_to_all(arena, prepare, 4)


# -------------------------------------------------------------------- small values that grow


@attack()
async def wide_manifests(arena: Arena) -> None:
    """Have a manifest of 1.4 kB grow to a topology of 122 MB, several times."""
    levels = (Level(experts=32, blocks=128), Level(experts=32, blocks=128))
    grid = Grid(levels=levels, path_specific_blocks=tuple(range(256)), path_specific_stem=True)
    model = Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=48)
    routing = replace(arena.manifest.routing, sample=1 << 12, overlap=1, reshard=None)
    training = replace(arena.manifest.training, early_stopping=False)

    def prepare(stranger: Stranger, number: int) -> None:
        for each in range(3):
            value = own_run(
                arena,
                stranger.key,
                grid=grid,
                model=model,
                routing=routing,
                training=training,
                seed=each,
            )
            run = hold_run(stranger, value)
            body = LedgerRecord(
                run=run, term=0, seq=0, previous=NO_RECORD,
                entry=SpecAdopted(epoch=0, spec=sha256(b"any")),
            )  # fmt: skip
            stranger.hold_ledger(run, [encode(sign(body, stranger.key))])

    await offer_to_all(arena, prepare, 3)


@attack()
async def heavy_manifests(arena: Arena) -> None:
    """Fill disks and memory with manifests of 650 kB, each of a run of its own."""
    files = tuple(
        SourceFile(name="x" * 240 + f"{number:04d}", size=1, sha256=Digest(bytes(32)), rows=1)
        for number in range(2000)
    )
    source = replace(
        arena.manifest.source, kind="files", files=files, documents=2000, window=2000, revision="1"
    )

    def prepare(stranger: Stranger, number: int) -> None:
        for each in range(4):
            hold_run(stranger, own_run(arena, stranger.key, source=source, seed=each))

    await offer_to_all(arena, prepare, 4)  # in memory the measure counts what these hold, too


@attack()
async def many_runs(arena: Arena) -> None:
    """Offer 300 runs, more than a node keeps."""

    def prepare(stranger: Stranger, number: int) -> None:
        for each in range(100):
            hold_run(stranger, own_run(arena, stranger.key, seed=each))

    await offer_to_all(arena, prepare, 3)


@attack()
async def many_receipts(arena: Arena) -> None:
    """Fill the honest run's table of receipts, and refute its router by hundreds of identities."""

    def prepare(stranger: Stranger, number: int) -> None:
        for each in range(100):
            key = arena.new_key()
            verdict = Verdict(outcome=Outcome.REFUTED, stage="static", reason="x" * 200)
            receipt = Receipt(
                manifest=arena.run, spec=sha256(b"%d" % each), verdict=verdict, software="x" * 60
            )
            stranger.hold("receipt", arena.run, encode(sign(receipt, key)))

    await offer_to_all(arena, prepare, 6)


@attack()
async def long_ledger(arena: Arena) -> None:
    """Have every node keep a long ledger of a run that nobody works for."""

    def prepare(stranger: Stranger, number: int) -> None:
        run = hold_run(stranger, own_run(arena, stranger.key))
        stranger.hold_ledger(run, chain(stranger.key, run, 1500))

    await offer_to_all(arena, prepare, 2)


def chain(key: Ed25519PrivateKey, run: Digest, length: int, first: bytes = b"spec") -> list[bytes]:
    """Return a ledger as long as wanted, if not one that makes sense."""
    records, previous = [], NO_RECORD
    for seq in range(length):
        entry: Any = SpecAdopted(epoch=0, spec=sha256(first))
        if seq:
            found = Evaluation(documents=1, tokens=1, nll=float(seq))
            entry = Evaluated(path=0, version=0, peer=peer_id(key), evaluation=found)
        signed = sign(LedgerRecord(run=run, term=0, seq=seq, previous=previous, entry=entry), key)
        records.append(encode(signed))
        previous = signed.body_digest
    return records


# -------------------------------------------------------------------- blame


@attack()
async def forked_ledgers(arena: Arena) -> None:
    """Have volunteers ban their scheduler: it hands on one ledger of a run, a stranger another."""
    keys = [arena.new_key() for _ in range(4)]

    async def offer(stranger: Stranger, targets: tuple[Target, ...], side: bytes) -> None:
        for key in keys:
            value = own_run(arena, key)
            run = run_id(value)
            stranger.hold("manifest", run, encode(sign(value, key)))
            stranger.hold_ledger(run, chain(key, run, 1, side))
        for target in targets:
            await stranger.meet(target)
        await trio.sleep_forever()

    async with arena.stranger(11) as one, arena.stranger(12) as other:
        with trio.move_on_after(max(arena.seconds, COMPARISONS)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(offer, one, (arena.scheduler,), b"one")
                nursery.start_soon(offer, other, arena.volunteers, b"other")


@attack()
async def relayed_nonsense(arena: Arena) -> None:
    """Have one honest node judge another by what it relays: ledgers and specs that do not fit."""
    key = arena.new_key()
    value = own_run(arena, key)
    run = run_id(value)

    def prepare(stranger: Stranger, number: int) -> None:
        stranger.hold("manifest", run, encode(sign(value, key)))
        records = chain(key, run, 3)
        stranger.hold_ledger(run, records[: 1 + number % 3])
        stranger.hold("spec", arena.run, envelope(b"\xa0", key, "RouterSpec"))

    await offer_to_all(arena, prepare, 4, seconds=max(arena.seconds, COMPARISONS))


@attack()
async def false_signatures(arena: Arena) -> None:
    """Offer values of the honest run whose signatures, types or fields are not what they claim."""

    def prepare(stranger: Stranger, number: int) -> None:
        body = encode(arena.manifest)
        changed = cbor(plain(arena.manifest, seed=-1))
        record = LedgerRecord(
            run=arena.run, term=0, seq=0, previous=NO_RECORD,
            entry=SpecAdopted(epoch=0, spec=sha256(b"mine")),
        )  # fmt: skip
        values = (
            ("manifest", envelope(body, stranger.key, "Manifest")),
            ("manifest", envelope(changed, stranger.key, "Manifest")),
            ("manifest", envelope(body, stranger.key, "Receipt")),
            ("receipt", envelope(body, stranger.key, "Receipt")),
            ("spec", envelope(b"", stranger.key, "RouterSpec")),
            ("ledger", encode(sign(record, stranger.key))),
        )
        kind, data = values[number % len(values)]
        if kind == "ledger":
            item = Item(kind=kind, run=arena.run, digest=sha256(data), seq=1 << 40)
            stranger.values[item], stranger.ledgers[arena.run] = b"", [data]
        else:
            stranger.hold(kind, arena.run, data)

    await offer_to_all(arena, prepare, 12)


# -------------------------------------------------------------------- inventories, announcements


@attack()
async def hollow_inventories(arena: Arena) -> None:
    """Tell of a thousand values and hold none of them."""
    items = tuple(
        Item(kind=kind, run=arena.run, digest=sha256(b"%s %d" % (kind.encode(), n)), seq=n + 1)
        for kind in ("manifest", "spec", "receipt", "ledger")
        for n in range(250)
    )

    async def answer(request: Any) -> bytes:
        return reply(request, body)

    body = encode(Inventory(same=False, items=items))

    def prepare(stranger: Stranger, number: int) -> None:
        stranger.answers["AskInventory"] = answer

    await offer_to_all(arena, prepare, 4)


@attack()
async def late_answers(arena: Arena) -> None:
    """Take every place for pulls: 24 peers tell of values and never hand them out."""
    item = Item(kind="manifest", run=sha256(b"late"), digest=sha256(b"late"), seq=0)

    async def never(_request: Any) -> None:
        await trio.sleep_forever()

    def prepare(stranger: Stranger, number: int) -> None:
        stranger.values[replace(item, digest=sha256(b"late %d" % number))] = b""
        stranger.answers["ReadValue"] = never

    await offer_to_all(arena, prepare, 24)


@attack()
async def announcements_of_nothing(arena: Arena) -> None:
    """Publish thousands of announcements of values that nobody holds, and garbage."""

    async def publish(stranger: Stranger, number: int) -> None:
        for target in arena.everybody:
            await stranger.meet(target)
        for each in range(300):
            item = Item(kind="manifest", run=arena.run, digest=sha256(b"%d" % each), seq=0)
            await stranger.announce(encode(Announcement(item=item, size=1 << 50)))
            await trio.sleep(0.01)
        if number % 2:
            await stranger.announce(b"\xff" * 4000)

    await arena.crowd(6, publish, prefix=None)


@attack()
async def foreign_heads(arena: Arena) -> None:
    """Claim a longer ledger of the honest run, and give records of it drop by drop."""

    async def slow(request: Any) -> bytes:
        await trio.sleep(9.0)
        return reply(request, b"\xa2\x64type\x6aLedgerPart\x67records\x80")

    def prepare(stranger: Stranger, number: int) -> None:
        item = Item(kind="ledger", run=arena.run, digest=sha256(b"head"), seq=1 << 30)
        stranger.values[item] = b""
        stranger.answers["ReadLedger"] = slow

    await offer_to_all(arena, prepare, 10)


@attack()
async def names_that_a_terminal_obeys(arena: Arena) -> str | None:
    """Have nodes keep and hand on a manifest whose names hold escapes and bidi characters."""
    text = "a\x1b[2J\x07\u202egpj.\x9b"
    signed = list[bytes]()

    def prepare(stranger: Stranger, number: int) -> None:
        value = own_run(arena, stranger.key)
        file = plain(SourceFile(name="a", size=1, sha256=Digest(bytes(32)), rows=1), name=text)
        source = plain(
            value.source, kind="files", revision=text, text_field=text, documents=1, window=1,
            files=[file],
        )  # fmt: skip
        body = cbor(plain(value, source=source))
        signed.append(envelope(body, stranger.key, "Manifest"))
        stranger.hold("manifest", sha256(body), signed[-1])

    await offer_to_all(arena, prepare, 2)
    held = set[Digest]()

    async def look(stranger: Stranger, number: int) -> None:
        await stranger.meet(arena.scheduler)
        line = await stranger.line(arena.scheduler, SYNC)
        answer = await line.ask(AskInventory(summary=Digest(bytes(32))), Inventory)
        held.update(item.digest for item in answer.items)

    await arena.crowd(1, look, prefix=None)
    if held & {sha256(each) for each in signed}:
        return "a manifest with escapes in its names is kept"
    return None
