"""Rules of this file: `report` as a person types it; a ledger file, no network."""

from dipaco.cli.exits import Exit
from dipaco.node.runs.ledger_file import write_ledger
from tests.cli.shell import Shell
from tests.two_rounds import told, whole_run


def test_the_report_of_a_ledger_file_is_one_html_file(shell: Shell) -> None:
    write_ledger(shell.folder / "a.ledger", told(whole_run()))
    assert shell("report", "a.ledger") == (Exit.OK, "shelf.html\n", "")
    text = (shell.folder / "shelf.html").read_text()
    assert text.startswith("<!doctype html>") and "shelf" in text
    assert "--force" in shell.fails(Exit.USAGE, "report", "a.ledger")
    assert shell("report", "a.ledger", "--force")[0] == Exit.OK
    assert shell("report", "a.ledger", "--out", "b.html")[1] == "b.html\n"
    assert (shell.folder / "b.html").read_text() == text


def test_there_is_no_report_of_a_ledger_that_is_wrong(shell: Shell) -> None:
    whole = told(whole_run())
    broken = whole.records[:3] + whole.records[4:]
    write_ledger(shell.folder / "a.ledger", type(whole)(whole.run, broken))
    assert "record 3" in shell.fails(Exit.REFUSED, "report", "a.ledger")
    assert not (shell.folder / "shelf.html").exists()
