"""Rules of this file: `run follow` with no peer to dial; what it prints is test_following.py's."""

import json

from msgspec.json import encode

from dipaco.cli.exits import Exit
from dipaco.cli.views.following import Follower
from dipaco.node.runs.record import RunRecord
from tests.cli.published import DEFS, VERBS
from tests.cli.shell import Shell
from tests.golden.validate import faults
from tests.protocol.run.test_invitation import GOLDEN
from tests.two_rounds import told, whole_run


def test_without_a_peer_to_dial_it_says_what_to_give(shell: Shell) -> None:
    said = shell.fails(Exit.USAGE, "run", "follow", "demo", "--json")
    assert "give --bootstrap ADDR" in said
    wrong = GOLDEN[:-1] + "b"
    assert "run.id" in shell.fails(Exit.USAGE, "run", "follow", wrong)  # no name either
    assert not (shell.folder / "home").exists()


def test_a_line_is_of_the_published_form() -> None:
    run = whole_run()
    seen = Follower().news(RunRecord(told(run).run.id, run), 0.0, connected=False)
    assert seen is not None
    assert not faults(json.loads(encode(seen)), VERBS["run follow"], DEFS)
