"""Attacks on leases, results, blobs and the turns in which they are served."""

import math
from functools import partial
from typing import Any

import trio

from dipaco.node.network.blob_stream import BLOB
from dipaco.node.network.framing import frame
from dipaco.node.network.gossip import SYNC
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.messages import (
    AskChunk,
    AskHave,
    AskOutline,
    Have,
    LedgerPart,
    ReadLedger,
)
from dipaco.protocol.wire.signed import Signed
from dipaco.protocol.work.calls import (
    AskLease,
    AskNext,
    Granted,
    HandBack,
    Heartbeat,
    Stands,
    Submit,
)
from dipaco.protocol.work.kinds import (
    EvaluateLease,
    EvaluateResult,
    Evaluation,
    Lease,
    Result,
    ScoreLease,
    ScoreResult,
    SeedLease,
    SeedResult,
    Sheet,
    TrainLease,
    TrainResult,
)
from dipaco.protocol.work.ledger import LedgerRecord
from tests.adversary.arena import Arena
from tests.adversary.client import (
    LARGEST,
    Line,
    Stranger,
    cbor,
    outline_of,
    plain,
    reply,
)
from tests.adversary.registry import attack


async def take_lease(arena: Arena, stranger: Stranger) -> tuple[Line, Lease]:
    """Ask the scheduler for work until there is some; raises Unavailable where it is refused."""
    line = await stranger.meet(arena.scheduler)
    spec = await stranger.spec(arena.scheduler, arena.run)
    while True:
        answer = await line.call("AskLease", encode(AskLease(run=arena.run, spec=spec)))
        body = getattr(answer, "body", b"")
        try:
            return line, decode(body, Granted, limit=LARGEST).lease
        except DipacoError:
            await trio.sleep(1.0)


def beat(arena: Arena, lease: Lease, progress: int) -> Heartbeat:
    """Return a heartbeat."""
    return Heartbeat(run=arena.run, token=lease.token, progress=progress, tokens_per_second=1e12)


def result_of(lease: Lease, digest: Digest) -> Result:
    """Return a result of the shape that the lease wants, all of whose blobs are `digest`."""
    blobs = tuple(type(each)(module=each.module, digest=digest) for each in lease.modules)
    figures: dict[str, Any] = {"tokens": 1, "seconds": 1.0, "loss_first": 0.0, "loss_last": 0.0}
    match lease:
        case SeedLease():
            return SeedResult(token=lease.token, states=blobs, **figures)
        case TrainLease():
            return TrainResult(token=lease.token, deltas=blobs, moments=blobs, **figures)
        case ScoreLease():
            return ScoreResult(token=lease.token, sheet=Sheet(digest=digest, documents=1))
        case EvaluateLease():
            found = Evaluation(documents=1, tokens=1, nll=0.0)
            return EvaluateResult(token=lease.token, evaluation=found)


# -------------------------------------------------------------------- leases


@attack()
async def lease_sitters(arena: Arena) -> str | None:
    """Sit on leases: six identities of one prefix beat and never get on."""
    return await _sit(arena, 6, grows=False, prefix=10)


@attack()
async def busy_lease_sitters(arena: Arena) -> str | None:
    """Sit on leases from many prefixes, with a progress that grows and no result ever."""
    return await _sit(arena, 12, grows=True, prefix=None)


@attack()
async def leases_in_hand(arena: Arena) -> str | None:
    """Sit on leases, and ask for a second one in hand by one's own tokens and by nobody's."""
    return await _sit(arena, 6, grows=True, prefix=10, in_hand=True)


async def _sit(
    arena: Arena, count: int, *, grows: bool, prefix: int | None, in_hand: bool = False
) -> str | None:
    """Let `count` identities take leases and keep them; says so if the run then stands still."""

    async def sit(stranger: Stranger, _number: int) -> None:
        line, lease = await take_lease(arena, stranger)
        progress, tokens = 1, {lease.token, bytes(16)}
        while True:
            for token in tokens if in_hand else ():
                asked = AskNext(run=arena.run, spec=lease.spec, token=token)
                await line.call("AskNext", encode(asked))
            await line.ask(beat(arena, lease, progress), Stands)
            progress += grows
            await trio.sleep(1.0)

    half = 6 * arena.seconds
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(arena.crowd, count, sit, prefix=prefix, seconds=2 * half))
        await trio.sleep(half)
        before = await arena.progress()
        await trio.sleep(half)
        stands = await arena.progress() == before
    return f"no ledger record in {half:.0f} s" if stands else None


@attack()
async def lease_churn(arena: Arena) -> None:
    """Ask for a lease and hand it back, as fast as the scheduler saves."""

    async def churn(stranger: Stranger, _number: int) -> None:
        line, lease = await take_lease(arena, stranger)
        for _ in range(300):
            await line.ask(HandBack(run=arena.run, token=lease.token, reason="x" * 500), Stands)
            lease = (await line.ask(AskLease(run=arena.run, spec=lease.spec), Granted)).lease
            await trio.sleep(0.01)

    await arena.crowd(12, churn, prefix=None)


@attack()
async def lease_and_leave(arena: Arena) -> None:
    """Take leases with new identities and vanish, again and again."""

    async def take(stranger: Stranger, _number: int) -> None:
        await take_lease(arena, stranger)

    for _ in range(5):
        await arena.crowd(10, take, seconds=arena.seconds / 5)


@attack()
async def foreign_tokens(arena: Arena) -> None:
    """Beat, hand back and submit with tokens of others and of nobody, and for runs of nobody."""

    async def guess(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.everybody[number % len(arena.everybody)])
        token, run = bytes(16), arena.run if number % 2 else sha256(b"no run")
        found = Evaluation(documents=1, tokens=1, nll=1.0)
        asks: tuple[Wire, ...] = (
            Heartbeat(run=run, token=token, progress=1 << 40, tokens_per_second=1e12),
            HandBack(run=run, token=token, reason="mine"),
            Submit(run=run, result=EvaluateResult(token=token, evaluation=found)),
            AskLease(run=run, spec=sha256(b"no spec")),
        )
        for _ in range(30):
            for ask in asks:
                await line.call(type(ask).__name__, encode(ask))

    await arena.crowd(8, guess)


@attack()
async def impossible_numbers(arena: Arena) -> None:
    """Send NaN, infinities, negative and huge numbers in heartbeats and results."""
    beats = [math.nan, math.inf, -1.0, 1e300, True, "many", None, 1 << 70]

    async def send(stranger: Stranger, number: int) -> None:
        line, lease = await take_lease(arena, stranger)
        for field in ("progress", "tokens_per_second", "loss"):
            fields = plain(beat(arena, lease, 1), **{field: beats[number % len(beats)]})
            await line.call("Heartbeat", cbor(fields))

    await arena.crowd(len(beats), send, prefix=None)


# -------------------------------------------------------------------- results


@attack()
async def results_that_never_come(arena: Arena) -> None:
    """Submit results whose blobs are never handed out, or byte by byte."""

    async def submit(stranger: Stranger, number: int) -> None:
        async def stall(stream: Any) -> None:
            if number % 2:
                await trio.sleep_forever()
            outline = outline_of(b"", length=1 << 20)
            await stream.send(frame(encode(outline)))
            while True:
                await stream.send(b"\x00")
                await trio.sleep(2.0)

        stranger.serve_blob = stall
        line, lease = await take_lease(arena, stranger)
        await line.call("Submit", encode(Submit(run=arena.run, result=_train(lease, b"never"))))
        await trio.sleep_forever()

    await arena.crowd(8, submit, prefix=None, seconds=3 * arena.seconds)


def _train(lease: Lease, name: bytes) -> Result:
    return result_of(lease, sha256(name))


@attack(needs="process")
async def results_of_nonsense(arena: Arena) -> None:
    """Hand in states and deltas of NaN, of 1e30, of other lengths, and of other bytes."""
    for value in (b"\x00\x00\xc0\x7f", b"\xca\xf2\x49\x71", b"\x00"):
        async with arena.stranger(13) as stranger:
            with trio.move_on_after(arena.seconds / 2):
                await _hand_in(arena, stranger, value)


async def _hand_in(arena: Arena, stranger: Stranger, value: bytes) -> None:
    try:
        line, lease = await take_lease(arena, stranger)
        top = arena.manifest.topology
        blobs = []
        for each in lease.modules:
            data = value * (top.state_bytes(each.module) // 4)  # type: ignore[arg-type]
            stranger.blobs[sha256(data)] = data
            blobs.append(type(each)(module=each.module, digest=sha256(data)))
        result = result_of(lease, blobs[0].digest)
        for field in ("states", "deltas", "moments"):
            if hasattr(result, field):
                result = type(result)(**(_fields(result) | {field: tuple(blobs)}))
        await line.call("Submit", encode(Submit(run=arena.run, result=result)))
    except DipacoError:
        pass


def _fields(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__struct_fields__}


@attack()
async def free_evaluation(arena: Arena) -> str | None:
    """Hand in `nll = 0, tokens = 1` as the held-out loss of a path."""
    async with arena.stranger(14) as stranger:
        with trio.move_on_after(10 * arena.seconds):
            try:
                while True:
                    line, lease = await take_lease(arena, stranger)
                    if isinstance(lease, EvaluateLease):
                        break
                    await line.ask(
                        HandBack(run=arena.run, token=lease.token, reason="not this"), Stands
                    )
                    await trio.sleep(2.0)
                result = result_of(lease, sha256(b""))
                await line.call("Submit", encode(Submit(run=arena.run, result=result)))
            except DipacoError:
                return None
            return await _free_entries(arena, stranger)
    return None


async def _free_entries(arena: Arena, stranger: Stranger) -> str | None:
    line, first = await stranger.line(arena.scheduler, SYNC), 0
    while records := (await line.ask(ReadLedger(run=arena.run, first=first), LedgerPart)).records:
        first += len(records)
        for data in records:
            signed = decode(data, Signed, limit=LARGEST)
            entry = decode(signed.body, LedgerRecord, limit=LARGEST).entry
            if getattr(entry, "peer", None) == stranger.me:
                return f"the ledger holds the stranger's {type(entry).__name__}"
    return None


# -------------------------------------------------------------------- blobs


async def known_blob(arena: Arena, stranger: Stranger) -> Digest:
    """Return the digest of a blob that the scheduler holds, from its ledger."""
    line, first, found = await stranger.line(arena.scheduler, SYNC), 0, Digest(bytes(32))
    while records := (await line.ask(ReadLedger(run=arena.run, first=first), LedgerPart)).records:
        first += len(records)
        for data in records:
            signed = decode(data, Signed, limit=LARGEST)
            entry: Any = decode(signed.body, LedgerRecord, limit=LARGEST).entry
            if hasattr(entry, "states"):
                found = entry.states[0].digest
            elif hasattr(entry, "state"):
                found = entry.state
    return found


@attack()
async def upload_stallers(arena: Arena) -> None:
    """Take every upload turn: eight peers ask for chunks and never read."""

    async def stall(stranger: Stranger, _number: int) -> None:
        await stranger.meet(arena.scheduler)
        blob = await known_blob(arena, stranger)
        streams = []
        for _ in range(16):
            stream = await stranger.door.open(arena.scheduler.peer, BLOB)
            await stream.send(frame(encode(AskOutline(blob=blob))))
            for _ in range(40):
                await stream.send(frame(encode(AskChunk(index=0))))
            streams.append(stream)
        await trio.sleep_forever()

    await arena.crowd(8, stall, seconds=3 * arena.seconds)


@attack()
async def download_flood(arena: Arena) -> None:
    """Fetch the same blob without end over many streams."""

    async def fetch(stranger: Stranger, _number: int) -> None:
        await stranger.meet(arena.scheduler)
        blob = await known_blob(arena, stranger)
        stream = await stranger.door.open(arena.scheduler.peer, BLOB)
        await stream.send(frame(encode(AskOutline(blob=blob))))
        for _ in range(300):
            await stream.send(frame(encode(AskChunk(index=0))))
            await stream.receive(1 << 20)

    await arena.crowd(12, fetch)


@attack()
async def absent_blobs(arena: Arena) -> None:
    """Ask for thousands of blobs that nobody has, and for chunks that no blob has."""

    async def ask(stranger: Stranger, number: int) -> None:
        target = arena.everybody[number % len(arena.everybody)]
        line = await stranger.meet(target)
        for each in range(200):
            blob = sha256(b"absent %d" % each)
            await line.ask(AskHave(blob=blob), Have)
            stream = await stranger.door.open(target.peer, BLOB)
            await stream.send(frame(encode(AskOutline(blob=blob))))
            await stream.receive(100)
            await stream.reset()
        stream = await stranger.door.open(target.peer, BLOB)
        await stream.send(frame(cbor(plain(AskChunk(index=0), index=1 << 60))))

    await arena.crowd(6, ask)


@attack()
async def holders_of_everything(arena: Arena) -> None:
    """Claim to hold every blob, then stall, or give other bytes, or false outlines."""

    async def claim(stranger: Stranger, number: int) -> None:
        async def yes(request: Any) -> bytes:
            return reply(request, Have(held=True))

        async def lie(stream: Any) -> None:
            if number % 3 == 0:
                await trio.sleep_forever()
            data = bytes(4096)
            await stream.send(frame(encode(outline_of(data))))
            await stream.send(data if number % 3 == 1 else b"\x01" * 4096)
            await trio.sleep_forever()

        stranger.answers["AskHave"] = yes
        stranger.serve_blob = lie
        for target in arena.everybody:
            await stranger.meet(target)
        await trio.sleep_forever()

    await arena.crowd(9, claim, prefix=None, seconds=3 * arena.seconds)
