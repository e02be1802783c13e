"""A file of known peers that is damaged: real files."""

import logging
from pathlib import Path

import pytest

from dipaco.node.storage.roster import Roster
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.messages import AskHave
from dipaco.protocol.wire.signed import Signed, sign
from tests.values import digest, key

RECORD: Signed = sign(AskHave(blob=digest("blob")), key("anna"))


@pytest.mark.parametrize("damage", ["empty", "cut", "other-version", "garbage", "folder"])
def test_a_damaged_file_is_set_aside_with_a_line_in_the_log_and_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "peers.cbor"
    Roster(path).save((RECORD,))
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[: len(data) // 2],
                "other-version": encode(AskHave(blob=digest("blob"))),
                "garbage": b"\xff" * 100,
            }[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert Roster(path).load() == ()
    (line,) = caplog.messages
    assert "peers.cbor is damaged, or of another version" in line
    assert "set aside as peers.cbor.damaged" in line and "\n" not in line
    Roster(path).save((RECORD,))
    assert Roster(path).load() == (RECORD,)
    assert {each.name for each in tmp_path.iterdir()} == {"peers.cbor", "peers.cbor.damaged"}


def test_a_home_without_the_file_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Roster(tmp_path / "peers.cbor").load() == ()
    assert caplog.messages == []
