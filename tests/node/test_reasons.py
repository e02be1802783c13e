"""Whatever the node says of its state has words, and the values that the words ask for."""

import ast
from pathlib import Path
from string import Formatter

from dipaco.node.status.document import REASONS

NODE = Path(__file__).parent.parent.parent / "node"


def said() -> list[tuple[str, str, set[str]]]:
    """Return every `activity.say(code, name=...)` of the product: where, code, names."""
    found = []
    for path in sorted(NODE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            if call.func.attr == "say" and call.args and isinstance(call.args[0], ast.Constant):
                names = {keyword.arg or "**" for keyword in call.keywords}
                found.append((f"{path.name}:{call.lineno}", str(call.args[0].value), names))
    return found


def asked(code: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(REASONS[code][1]) if name}


def test_every_reason_that_is_given_has_words_with_just_these_values() -> None:
    assert len(said()) > 15
    for where, code, names in said():
        assert names == asked(code), f"{where}: {code}"


def test_every_reason_with_words_is_given_somewhere() -> None:
    assert {code for _, code, _ in said()} | {"starting"} == set(REASONS)
