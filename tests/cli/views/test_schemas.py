"""Rules of this file: the published schema and its page are those of the types."""

import msgspec
import pytest

from dipaco.cli.views.report import Report
from tests.cli.views.test_report import report
from tests.golden import schemas
from tests.node.api.fake_node import ledger, status, task


def test_schema_and_page_are_those_of_the_types() -> None:
    assert schemas.SCHEMA.read_text() == schemas.schema_text()
    assert schemas.PAGE.read_text() == schemas.page_text()


@pytest.mark.parametrize("name", ["Status", "LedgerView", "Report"])
def test_what_is_written_has_the_fields_of_the_schema(name: str) -> None:
    written = {"Status": status(work=task()), "LedgerView": ledger(), "Report": report()}[name]
    document = msgspec.json.decode(msgspec.json.encode(written))
    schema = schemas.components()[name]
    assert document.keys() == schema["properties"].keys() and set(schema["required"]) <= set(
        document
    )


def test_a_report_in_which_nothing_was_scored_can_be_read_again() -> None:
    empty = msgspec.structs.replace(report().losses[0], tokens=0, nll=0.0, perplexity=None)
    given = msgspec.structs.replace(report(), losses=(empty,))
    assert msgspec.json.decode(msgspec.json.encode(given), type=Report) == given
