"""Rules of this file: no daemon; the document and its table of reasons alone."""

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import dipaco.node.daemon
from dipaco.node.status.document import REASONS, Status, reason, state_of
from tests.node.api.fake_node import status, task

NODE = Path(dipaco.node.daemon.__file__).parent


def said() -> Iterator[tuple[str, set[str]]]:
    """Every reason that the node's code enters: its code, and the names of its values."""
    for path in NODE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if getattr(getattr(call.func, "value", None), "attr", "") == "_paced":
                continue  # a line of the log, and no state
            first = call.args[0]
            if name in ("say", "_say", "say_beside", "reason") and isinstance(first, ast.Constant):
                yield str(first.value), {str(k.arg) for k in call.keywords}


def names_in(code: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(REASONS[code][1]) if name}


class AnyValue(float):
    """Formats under every format."""

    def __format__(self, spec: str) -> str:
        return "1"


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_says_something_in_one_line(code: str) -> None:
    made = reason(code, 5.0, **{name: AnyValue() for name in names_in(code)})
    assert made.text and "\n" not in made.text and "{" not in made.text
    assert (made.code, made.since) == (code, 5.0)


def test_a_reason_without_its_values_is_a_bug() -> None:
    with pytest.raises(KeyError, match=r"^'work'$"):
        reason("task", 0.0, path=1)


def test_the_node_enters_every_reason_of_the_table_with_its_values_and_no_other() -> None:
    found = list(said())
    assert {code for code, _ in found} == REASONS.keys()
    for code, given in found:
        assert given == names_in(code), code


def test_every_code_belongs_to_a_state() -> None:
    states = {state_of(code) for code in REASONS}
    assert {"training", "waiting", "refused", "serving"} <= states


def test_a_status_survives_its_json() -> None:
    given = status(work=task())
    assert msgspec.json.decode(msgspec.json.encode(given), type=Status) == given
