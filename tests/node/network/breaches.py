"""What a peer may send that is no call or answer, and the calls that the tests make."""

from dipaco.node.network.framing import frame
from dipaco.protocol.wire.canonical import Wire, encode
from dipaco.protocol.wire.messages import Ping, Reply, Request


class Echo(Wire, frozen=True, kw_only=True):
    """Say this again."""

    text: str
    """What."""


class Other(Wire, frozen=True, kw_only=True):
    """Another answer."""


BREACHES = {
    "garbage": b"\x00\x00\x00\x04\xff\xfe\xfd\xfc",
    "oversized": (1 << 30).to_bytes(4, "big"),
    "not canonical": frame(encode(Reply(id=1, body=b"")) + b"\x00"),
    "another value": frame(encode(Ping())),
    "bad body": frame(encode(Request(id=1, kind="Echo", body=b"\xa1"))),
    "wrong body": frame(encode(Request(id=1, kind="Echo", body=encode(Other())))),
    "offends the handler": frame(
        encode(Request(id=1, kind="Echo", body=encode(Echo(text="offend"))))
    ),
}
