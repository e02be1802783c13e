"""The parts of libp2p that are left out: they cost nothing, and nobody can use one unnoticed."""

import sys
from importlib import import_module

import pytest

import dipaco.node.network.host  # noqa: F401  it imports libp2p
from dipaco.node.network.left_out import PARTS, leave_out


@pytest.mark.parametrize("part", PARTS)
def test_nothing_of_a_part_is_loaded_beside_placeholders(part: str) -> None:
    loaded = [name for name in sys.modules if f"{name}.".startswith(f"{part}.")]
    assert all(getattr(sys.modules[name], "__file__", None) is None for name in loaded)


def test_whoever_uses_a_placeholder_is_told_which() -> None:
    quic = import_module("libp2p.transport.quic.transport")
    with pytest.raises(ImportError, match=r"libp2p.transport.quic.transport.QUICTransport is left"):
        quic.QUICTransport(None)
    with pytest.raises(ImportError, match=r"aioquic.h3.Anything.of.it is left out"):
        import_module("aioquic.h3").Anything.of.it()
    assert not isinstance(object(), quic.QUICTransport)


def test_an_error_of_a_left_out_part_can_stand_after_except() -> None:
    quic = import_module("libp2p.transport.quic.exceptions")
    with pytest.raises(OSError, match="another"):
        try:
            raise OSError("another")
        except quic.QUICStreamResetError:
            pytest.fail("it is no error of QUIC's")


def test_a_second_call_changes_nothing() -> None:
    before = list(sys.meta_path)
    leave_out()
    assert sys.meta_path == before
