"""Holds what verbs print with --json in any test against docs/json.schema.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from dipaco.cli import main
from tests.golden.validate import faults

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json.schema.json").read_text())
VERBS, DEFS = SCHEMA["verbs"], SCHEMA["$defs"]


def verb_of(arguments: Sequence[str]) -> str:
    """Return the verb of a command line that prints JSON."""
    words = " ".join(arguments)
    found = max((verb for verb in VERBS if words.startswith(verb.split(" --")[0])), key=len)
    return "verify --history" if found == "verify" and "--history" in arguments else found


def hold_to_schema(patch: pytest.MonkeyPatch) -> list[str]:
    """Hold every document to its schema from now on; return the verbs whose were, as they come."""
    held: list[str] = []
    echo, run = click.echo, main.dipaco.main
    verbs: list[str] = []

    def noted(message: Any = None, *more: Any, **how: Any) -> None:
        if verbs and not (more or how):
            wrong = faults(json.loads(message), VERBS[verbs[-1]], DEFS)
            assert not wrong, "\n".join(wrong)
            held.append(verbs[-1])
        echo(message, *more, **how)

    def called(arguments: list[str], *more: Any, **how: Any) -> Any:
        if "--json" not in arguments or "--help" in arguments:
            return run(arguments, *more, **how)
        verbs.append(verb_of(arguments))
        try:
            return run(arguments, *more, **how)
        finally:
            verbs.pop()

    patch.setattr(click, "echo", noted)
    patch.setattr(main.dipaco, "main", called)
    return held
