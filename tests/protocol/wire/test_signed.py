"""Rules of this file: what was signed, by whom and for what; forgeries differ in one thing."""

import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.messages import Absent, Ping, Pong
from dipaco.protocol.wire.signed import MAX_ENVELOPE, Signed, decode_signed, open_signed, sign
from tests.values import key, manifest, peer

SIGNED = sign(manifest(), key("owner"))


def test_what_was_signed_comes_back_with_its_signer() -> None:
    signed, value = decode_signed(encode(SIGNED), Manifest)
    assert signed == SIGNED and value == manifest()
    assert signed.signer == peer("owner")
    assert signed.body_digest == sha256(signed.body) == run_id(manifest())


def test_the_same_value_and_key_give_the_same_envelope() -> None:
    assert encode(sign(manifest(), key("owner"))) == encode(SIGNED)


def test_every_bit_of_an_envelope_counts() -> None:
    for field in ("body", "public_key", "signature"):
        given = getattr(SIGNED, field)
        for place in range(0, len(given), max(1, len(given) // 64)):
            for bit in range(8):
                changed = bytearray(given)
                changed[place] ^= 1 << bit
                with pytest.raises(RemoteProtocolError, match="signature of this Manifest"):
                    open_signed(replace(SIGNED, **{field: bytes(changed)}), Manifest)


def test_a_signature_is_good_for_one_type_alone() -> None:
    """Ping and Pong differ in their names only; so must what is signed."""
    signed = sign(Ping(), key("a"))
    with pytest.raises(RemoteProtocolError, match="signature of this Pong"):
        open_signed(signed, Pong)
    with pytest.raises(RemoteProtocolError, match="signature of this Pong"):
        open_signed(replace(signed, body=encode(Pong())), Pong)


def test_another_persons_signature_does_not_pass_for_ones_own() -> None:
    other = sign(manifest(), key("stranger"))
    with pytest.raises(RemoteProtocolError):
        open_signed(replace(SIGNED, public_key=other.public_key), Manifest)
    assert open_signed(other, Manifest) == manifest()  # whose it is, the caller asks
    assert other.signer != manifest().owner


def test_a_key_that_is_no_point_of_the_curve_is_refused() -> None:
    for bad in (bytes(32), b"\xff" * 32, b"\1" + bytes(31)):
        with pytest.raises(RemoteProtocolError):
            open_signed(replace(SIGNED, public_key=bad), Manifest)


def test_the_body_is_decoded_only_under_a_good_signature() -> None:
    """Who sends garbage signed by himself is told from who garbles another's value."""
    garbage = replace(SIGNED, body=b"\xff")
    with pytest.raises(RemoteProtocolError, match="signature"):
        open_signed(garbage, Manifest)


@pytest.mark.parametrize(
    "changes", [{"public_key": bytes(31)}, {"signature": bytes(65)}, {"signature": b""}]
)
def test_keys_and_signatures_of_other_lengths_are_no_envelope(changes: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"bytes is not a value of exactly \d+ bytes"):
        replace(SIGNED, **changes)


def test_an_envelope_above_the_limit_is_not_read() -> None:
    with pytest.raises(RemoteProtocolError, match="are allowed"):
        decode_signed(bytes(MAX_ENVELOPE + 1), Manifest)


def test_an_envelope_inside_an_envelope_is_not_the_value() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_signed(encode(sign(SIGNED, key("owner"))), Manifest)
    assert isinstance(open_signed(sign(SIGNED, key("owner")), Signed), Signed)


def test_values_without_fields_can_be_signed() -> None:
    assert open_signed(sign(Absent(), key("a")), Absent) == Absent()
