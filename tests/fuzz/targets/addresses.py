"""Addresses: the text that a person or a peer gives, and the records that are admitted by it."""

import itertools
from collections.abc import Iterator

from dipaco.node.network.addresses import addresses_of, record_scope
from dipaco.node.network.seats import prefix_of
from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.messages import PeerRecord
from tests.fuzz.mutate import Text
from tests.fuzz.target import Target, hold
from tests.values import peer

WORDS: tuple[str | bytes, ...] = (
    *"""
    /ip4/ /ip6/ /dns/ /dns4/ /dns6/ /tcp/ /udp/ /p2p/ /p2p-circuit /ws /quic-v1 /ip6zone/
    127.0.0.1 0.0.0.0 255.255.255.255 127.1 0x7f.1 017.0.0.1 1.2.3.4.5 ::1 ::
    fe80::1%25eth0 ::ffff:127.0.0.1 2001:db8::1 64:ff9b::1.2.3.4 localhost example.org
    a..b xn--a -a a- _a 0 1 65535 65536 99999999999 -1 +1 1e3 0x10 \u0661\u0662 4410
    """.split(),
    *(
        "." * 64,
        "a" * 64,
        "a." * 130,
        "\u00e9",
        "\u3002",
        "\uff0f",
        "\u0130",
        "\0",
        " ",
        "\n",
        ",",
        "%",
    ),
    peer("a"),
    peer("a")[:-1],
    "1" * 52,
)
SEEDS = (
    "/ip4/203.0.113.7/tcp/4410",
    "/ip6/2001:db8::7/tcp/4410",
    "/dns4/node.example.org/tcp/4410",
    "/dns/localhost/tcp/0",
    f"/ip4/127.0.0.1/tcp/4410/p2p/{peer('a')}",
    f"/dns6/a_b.example/tcp/1/p2p/{peer('a')}/p2p-circuit/p2p/{peer('b')}",
    f"/ip4/10.0.0.1/tcp/1/p2p/{peer('a')}/p2p-circuit",
)


def seeds() -> tuple[bytes, ...]:
    return tuple(text.encode() for text in SEEDS)


def parse(data: bytes) -> None:
    """Read an address and ask all that is asked of one."""
    address = Address.parse(data.decode("utf-8", "surrogateescape"))
    hold(Address.parse(str(address)) == address, "its text is of another address")
    for each in (address, address.without_peer, address.with_peer(peer("b"))):
        str(each), each.host_and_port, each.scope
        each.listen_fault(), each.dial_fault(), each.announce_fault(), each.seed_fault()
    if address.is_name:
        address.host.encode("idna")  # as the look-up of a name does
        str(address.at_ip("192.0.2.1"))
    else:
        prefix_of(address.host)


def record(data: bytes) -> None:
    """Admit a record with up to three addresses, one in each line."""
    lines = data.decode("latin-1").split("\n")[:3]
    try:
        made = PeerRecord(peer=peer("a"), addresses=tuple(lines), roles=(), runs=(), sequence=1)
    except ValueError as error:  # such a value is refused by the decoder already
        raise RemoteProtocolError(str(error)) from None
    for address in addresses_of(made):
        if address.is_name:
            address.host.encode("idna")
        hold(address.dial_fault() is None, "it cannot be dialled")
    record_scope(made)


def pairs() -> tuple[bytes, ...]:
    return tuple(f"{a}\n{b}".encode() for a, b in itertools.pairwise(SEEDS))


def words() -> Text:
    return Text(WORDS)


def targets() -> Iterator[Target]:
    """Yield the text of an address, and records."""
    yield Target("address/text", seeds, (ValueError,), words, call=parse, limit=1 << 14)
    yield Target("address/record", pairs, (RemoteProtocolError,), words, call=record, limit=1 << 14)
