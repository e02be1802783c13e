"""Attacks by addresses: records, registrations, listings, and whoever dials because of them."""

from typing import Any

import trio

from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import peer_id
from dipaco.protocol.wire.messages import Listing, PeerRecord, Register, Registered
from dipaco.protocol.wire.signed import Signed, sign
from tests.adversary.arena import Arena, attempt
from tests.adversary.client import Stranger, cbor, envelope, plain, reply
from tests.adversary.registry import attack

KNOCKS = 40  # that four nodes may do at an address which nobody of theirs named, in a few minutes
NAMES = (
    "/dns4/a..b/tcp/1",
    f"/dns4/{'a' * 64}/tcp/1",
    "/dns6/xn--zzzzzzzz/tcp/1",
    "/dns4/\u00e4\u00df.example/tcp/1",
    "/dns/localhost/tcp/1",
    f"/dns4/{'.'.join(['a'] * 126)}/tcp/1",
    "/dns4/nobody.invalid/tcp/4410",
    "/ip6/::ffff:127.0.0.1/tcp/1",
    "/ip6/fe80::1/tcp/1",
    "/ip4/255.255.255.255/tcp/1",
    "/ip4/224.0.0.1/tcp/1",
    "/ip4/0.0.0.0/tcp/1",
)


def record(stranger: Stranger, addresses: tuple[str, ...], sequence: int = 1) -> Signed:
    """Return the stranger's own record, with addresses that no check of ours has seen."""
    from dipaco.protocol.wire.canonical import decode

    honest = PeerRecord(peer=stranger.me, addresses=(), roles=("volunteer",), runs=(), sequence=1)
    body = cbor(plain(honest, addresses=list(addresses), sequence=sequence))
    return decode(envelope(body, stranger.key, "PeerRecord"), Signed, limit=1 << 20)


@attack()
async def names_in_listings(arena: Arena) -> None:
    """End whoever resolves a name that no resolver takes: list records with such names."""

    async def list_it(stranger: Stranger, number: int) -> None:
        stranger.listing = (record(stranger, (NAMES[number % len(NAMES)],)),)
        for target in arena.everybody:
            await stranger.meet(target)
        await trio.sleep_forever()

    await arena.crowd(len(NAMES), list_it, prefix=None, seconds=max(arena.seconds, 100.0))


@attack()
async def names_in_registrations(arena: Arena) -> None:
    """Register such names with the rendezvous node, which hands them to every newcomer."""

    async def register(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.scheduler)
        ask = Register(records=(record(stranger, (NAMES[number % len(NAMES)],)),))
        await line.call("Register", encode(ask))
        await trio.sleep_forever()

    await arena.crowd(len(NAMES), register, prefix=None, seconds=max(arena.seconds, 100.0))


@attack()
async def false_records(arena: Arena) -> None:
    """List and register records of others, unsigned, of the far future, and with broken fields."""

    async def send(stranger: Stranger, number: int) -> None:
        mine = PeerRecord(peer=stranger.me, addresses=(), roles=(), runs=(), sequence=(1 << 53) - 1)
        bodies = (
            cbor(plain(mine, peer=arena.scheduler.peer)),
            cbor(plain(mine, sequence=1 << 60)),
            cbor(plain(mine, addresses=["/ip4/1.2.3.4/tcp/1"] * 500)),
            cbor(plain(mine, roles=["\x1b[2J"])),
            cbor(plain(mine, runs=[b"short"])),
            b"\xa0",
        )
        raw = envelope(bodies[number % len(bodies)], stranger.key, "PeerRecord")
        field = b"\x67records\x81" + raw

        async def listing(request: Any) -> bytes:
            return reply(request, b"\xa2\x64type\x67Listing" + field)

        stranger.answers["ListPeers"] = listing
        for target in arena.everybody:
            line = await stranger.meet(target)
            await line.call("Register", b"\xa2\x64type\x68Register" + field)

    await arena.crowd(12, send, prefix=None)


@attack()
async def full_directory(arena: Arena) -> str | None:
    """Fill the directory from one prefix, so that nobody else can register."""

    async def register(stranger: Stranger, number: int) -> None:
        line = await stranger.meet(arena.scheduler)
        places = (f"/ip4/{arena.ip(10, 1)}/tcp/{number + 1}",)
        await line.ask(Register(records=(record(stranger, places),)), Registered)
        await trio.sleep_forever()

    told: list[str] = []

    async def newcomer() -> None:
        await trio.sleep(arena.seconds / 2)
        async with arena.stranger(200) as honest:
            line = await honest.meet(arena.scheduler)
            places = (f"/ip4/{arena.ip(200, 1)}/tcp/1",)
            await line.ask(Register(records=(record(honest, places),)), Registered)
            told.append("registered")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, newcomer())
        await arena.crowd(80, register)
    return None if told else "a newcomer of another prefix cannot register"


@attack()
async def knocks_by_registration(arena: Arena) -> str | None:
    """Have the network knock at a third party: thirty identities register its address."""
    async with arena.third_party(60) as victim:

        async def register(stranger: Stranger, number: int) -> None:
            line = await stranger.meet(arena.scheduler)
            await line.ask(
                Register(records=(record(stranger, _ports(victim.address)),)), Registered
            )
            await trio.sleep_forever()

        await arena.crowd(30, register, prefix=None, seconds=_long(arena))
        return _too_many(victim.knocks)


@attack()
async def knocks_by_listing(arena: Arena) -> str | None:
    """Have the network knock at a third party: strangers list fifty records of its address."""
    async with arena.third_party(61) as victim:

        async def list_it(stranger: Stranger, number: int) -> None:
            made = []
            for _ in range(50):
                key = arena.new_key()
                other = Stranger(key, stranger.door, trio.lowlevel.current_task().parent_nursery)  # type: ignore[arg-type]
                made.append(record(other, _ports(victim.address)))
            stranger.listing = tuple(made)
            for target in arena.everybody:
                await stranger.meet(target)
            await trio.sleep_forever()

        await arena.crowd(4, list_it, prefix=None, seconds=_long(arena))
        return _too_many(victim.knocks)


def _long(arena: Arena) -> float:
    return 15 * arena.seconds


def _ports(place: Address) -> tuple[str, ...]:
    return (f"/{place.kind}/{place.host}/tcp/{place.port}",)


def _too_many(knocks: int) -> str | None:
    return f"{knocks} knocks at a third party" if knocks > KNOCKS else None


@attack()
async def hopeless_candidates(arena: Arena) -> None:
    """Fill the table of candidates with peers that nobody reaches, so that honest ones are lost."""

    async def list_it(stranger: Stranger, number: int) -> None:
        def listing() -> Listing:
            records = []
            for each in range(50):
                key = arena.new_key()
                places = (f"/ip4/{arena.ip(100 + each, number + 1)}/tcp/9",)
                made = PeerRecord(
                    peer=peer_id(key), addresses=places, roles=(), runs=(), sequence=each
                )
                records.append(sign(made, key))
            return Listing(records=tuple(records))

        async def answer(request: Any) -> bytes:
            return reply(request, listing())

        stranger.answers["ListPeers"] = answer
        for target in arena.everybody:
            await stranger.meet(target)
        await trio.sleep_forever()

    await arena.crowd(12, list_it, prefix=None, seconds=max(arena.seconds, 100.0))
