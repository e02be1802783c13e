"""The tamper matrix: what a verifier says of a router spec of which one field was changed alone.

`write` puts the table into docs/data.md; a test holds the page against it. The fields are found by
reflection, so one that is added to the spec is in the table, or the test fails.
"""

from pathlib import Path
from typing import Final

from dipaco.protocol.routing.verdict import Derived, judge
from dipaco.protocol.run.exactness import BAG_SIGN, IDF_SVD
from tests.protocol.routing.doubles import ToySource, fitted, recipe
from tests.protocol.routing.mutations import mutations

PAGE: Final = Path(__file__).parents[2] / "docs" / "data.md"
HEAD: Final = "| field changed | verdicts, with their stages |\n|---|---|\n"


def matrix() -> dict[str, set[tuple[str, str]]]:
    """Return per field the outcomes and stages of all its changes, for pinned files.

    Every field is that of a spec of either featurizer: only one of the two has a basis.
    """
    found: dict[str, set[tuple[str, str]]] = {}
    for featurizer, in_tokens in ((IDF_SVD, False), (BAG_SIGN, True)):
        asked = recipe(capacity=(11, 10), capacity_in_tokens=in_tokens, featurizer=featurizer)
        honest, fallback = fitted(asked, ToySource())[0], fitted(asked, ToySource(alike=True))[0]
        ours = Derived(spec=honest, authenticated=True)
        for field, changed in mutations(honest, fallback):
            verdict = judge(asked, changed, ours)
            found.setdefault(field, set()).add((verdict.outcome.upper(), verdict.stage))
    return found


def table() -> str:
    """Return the matrix as Markdown, in the order of the fields."""
    rows = []
    for field, found in matrix().items():
        words = ", ".join(f"{outcome} `{stage}`" for outcome, stage in sorted(found))
        rows.append(f"| `{field}` | {words} |\n")
    return HEAD + "".join(rows)


def written() -> str:
    """Return the table that the page has."""
    _, _, rest = PAGE.read_text("utf-8").partition(HEAD)
    return HEAD + rest.partition("\n\n")[0] + "\n"


def write() -> None:
    """Put the table into the page, where the old one stands."""
    PAGE.write_text(PAGE.read_text("utf-8").replace(written(), table()), "utf-8")
