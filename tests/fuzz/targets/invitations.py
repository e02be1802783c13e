"""Invitations: a code that a person types or scans, from anybody."""

from collections.abc import Iterator

import base58

from dipaco.protocol.run.invitation import CHECKSUM_BYTES, TAG, Invitation
from dipaco.protocol.wire.digest import tagged
from tests.fuzz.mutate import Raw, Text
from tests.fuzz.target import Target, hold
from tests.protocol.run.test_invitation import OTHERS, PLAIN

CODES = tuple(each.code for each in (PLAIN, *OTHERS))


def code(data: bytes) -> None:
    """Read a code as it was typed."""
    text = data.decode("utf-8", "surrogateescape")
    hold(Invitation.parse(text).code == text, "it is the code of another invitation")


def content(data: bytes) -> None:
    """Read the code of any bytes, with a checksum that is right."""
    code(base58.b58encode(data + tagged(TAG, data)[:CHECKSUM_BYTES]))


def targets() -> Iterator[Target]:
    """Yield the text of a code, and the bytes in it."""
    yield Target(
        "invitation/code",
        lambda: [each.encode() for each in CODES],
        (ValueError,),
        lambda: Text(("0", "1", "z", "I", "l", " ", "\u0661", *CODES)),
        call=code,
        limit=1 << 11,
    )
    yield Target(
        "invitation/content",
        lambda: [base58.b58decode(each)[:-CHECKSUM_BYTES] for each in CODES],
        (ValueError,),
        Raw,
        call=content,
        limit=1 << 10,
    )
