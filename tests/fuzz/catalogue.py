"""All targets, and the saved inputs that each must go on refusing or taking."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import addresses, api, blobs, files, invitations, ledgers, streams, wire

CORPUS = Path(__file__).parent / "corpus"
"""One folder a target, named as it with a dot for the slash; one file an input."""


@cache
def targets() -> dict[str, Target]:
    """Return all targets by name."""
    found = [
        each
        for module in (wire, addresses, invitations, blobs, files, ledgers, streams, api)
        for each in module.targets()
    ]
    return {target.name: target for target in found}


def chosen(words: str) -> tuple[Target, ...]:
    """Return the targets of a group or a name, all for an empty text; raises ValueError."""
    found = tuple(t for t in targets().values() if words in ("", t.name, t.group))
    if not found:
        raise ValueError(f"no target or group is called {words}: {', '.join(targets())}")
    return found


def saved_inputs() -> Iterator[tuple[Target, Path]]:
    """Yield the inputs of the corpus, each with its target."""
    for path in sorted(CORPUS.glob("*/*")):
        yield targets()[path.parent.name.replace(".", "/", 1)], path
