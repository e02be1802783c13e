"""What strangers' words may hold: nothing that a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.text import MAX_CHARACTERS, one_line, printable
from dipaco.protocol.work.calls import Fallen


@given(st.text(max_size=2 * MAX_CHARACTERS))
def test_any_text_becomes_words_that_travel(text: str) -> None:
    fallen = Fallen(reason=one_line(text))
    assert decode(encode(fallen), Fallen, limit=4096) == fallen


def test_plain_words_stay_as_they_are_and_the_rest_is_escaped() -> None:
    assert one_line("the file a.txt is gone") == "the file a.txt is gone"
    assert one_line("two\nlines\tand  gaps") == "two lines and gaps"
    assert one_line("caf\u00e9 \x1b[2J") == "caf\\xe9 [2J"
    assert one_line("x" * 1000) == "x" * MAX_CHARACTERS


def test_letters_of_all_alphabets_stay_and_a_terminal_obeys_nothing() -> None:
    assert printable("caf\u00e9 日本") == "caf\u00e9 日本"
    assert printable("a\nb \x1b[2J \x9b \u202e \udce9") == "a b \\x1b[2J \\x9b \\u202e \\udce9"
    assert printable("x" * 1000, 9) == "x" * 9


@pytest.mark.parametrize("reason", ["\x1b[2J", "a\nb", "caf\u00e9", "end\n"])
def test_words_with_anything_else_are_refused(reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        Fallen(reason=reason)
    plain = encode(Fallen(reason="#" * len(reason.encode())))
    with pytest.raises(RemoteProtocolError, match="reason"):
        decode(plain.replace(b"#" * len(reason.encode()), reason.encode()), Fallen, limit=4096)
