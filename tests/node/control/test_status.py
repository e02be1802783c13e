"""Rules of this file: no daemon; the document and its table of reasons alone."""

import string

import msgspec
import pytest

from dipaco.node.control.status import REASONS, Status, reason, state_of
from tests.node.control.fake_node import status, task


class AnyValue:
    """Formats under every format."""

    def __format__(self, spec: str) -> str:
        return "1"


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_says_something_in_one_line(code: str) -> None:
    names = {name for _, name, _, _ in string.Formatter().parse(REASONS[code][1]) if name}
    made = reason(code, 5.0, **{name: AnyValue() for name in names})
    assert made.text and "\n" not in made.text and "{" not in made.text
    assert (made.code, made.since) == (code, 5.0)


def test_a_reason_without_its_values_is_a_bug() -> None:
    with pytest.raises(KeyError):
        reason("task", 0.0, path=1)


def test_every_code_belongs_to_a_state() -> None:
    states = {state_of(code) for code in REASONS}
    assert {"training", "waiting", "refused", "serving"} <= states


def test_a_status_survives_its_json() -> None:
    given = status(work=task())
    assert msgspec.json.decode(msgspec.json.encode(given), type=Status) == given
