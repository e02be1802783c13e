"""Rules of this file: `credits` as a person types it; a ledger file, no network."""

import json

from dipaco.cli.exits import Exit
from dipaco.node.runs.ledger_file import write_ledger
from tests.cli.shell import Shell
from tests.two_rounds import told, whole_run
from tests.values import peer

RUN = whole_run()


def test_the_board_follows_from_a_ledger_file_alone(shell: Shell, published: list[str]) -> None:
    path = shell.folder / "shelf.ledger"
    write_ledger(path, told(RUN))
    code, out, err = shell("credits", str(path))
    assert (code, err) == (Exit.OK, "")
    assert f"{peer('anna')[:8]}...{peer('anna')[-4:]}" in out and "9.000" in out
    board = json.loads(shell("credits", str(path), "--json")[1])
    assert [(row["peer"], row["steps"]) for row in board["rows"]] == [
        (peer("anna"), 14),
        (peer("bert"), 4),
    ]
    assert board["head"] == told(RUN).head.hex() and board["records"] == len(told(RUN).records)
    assert published == ["credits"] and not (shell.folder / "home").exists()


def test_a_ledger_that_somebody_changed_makes_no_board(shell: Shell) -> None:
    path, whole = shell.folder / "shelf.ledger", told(RUN)
    write_ledger(path, type(whole)(whole.run, whole.records[:3] + whole.records[4:]))
    assert "record 3" in shell.fails(Exit.REFUSED, "credits", str(path))


def test_a_run_without_a_ledger_is_told(shell: Shell) -> None:
    assert "has no ledger" in shell.fails(Exit.USAGE, "credits")
    assert "has no ledger" in shell.fails(Exit.USAGE, "credits", "shelf")
