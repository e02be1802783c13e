"""`update --check`: homes whose journals hold the receipts of peers."""

import json
from contextlib import closing
from pathlib import Path

import cbor2
import pytest

from dipaco.cli.exits import Exit
from dipaco.node.runs.files import keep_run, sign_manifest
from dipaco.node.runs.versions import numbers
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.routing.verdict import Outcome, Receipt, Verdict
from dipaco.protocol.run.manifest import FORMAT, run_id
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.signed import sign
from tests.cli.shell import Shell
from tests.values import key, manifest


@pytest.fixture
def sh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def heard(sh: Shell, **software: str) -> None:
    """Put a receipt of each named peer into the journal."""
    home = Home.at(sh.folder / "h")
    verdict = Verdict(outcome=Outcome.VERIFIED, stage="spec", reason="equal")
    run = run_id(manifest())
    with closing(Journal.open(home.journal)) as journal:
        for name, words in software.items():
            receipt = Receipt(manifest=run, spec=run, verdict=verdict, software=words)
            data = encode(sign(receipt, key(name)))
            journal.save_signed("receipt", run, sha256(data), data)


def check(sh: Shell, *arguments: str) -> tuple[int, str, str]:
    return sh("update", "--check", *arguments, "--home", str(sh.folder / "h"))


def test_without_a_home_it_tells_the_own_version_alone(sh: Shell) -> None:
    code, out, _ = check(sh)
    assert code == 0 and out.startswith("this version: ") and out.count("\n") == 1
    assert not (sh.folder / "h").exists()


def test_the_newest_version_that_peers_report_is_told(sh: Shell) -> None:
    heard(sh, anna="dipaco-node 9.1.0", bert="dipaco-node 10.0", cara="other 99.0", dora="x" * 64)
    code, out, _ = check(sh)
    assert code == 0 and "newest that peers report: 10.0 (1 of them)" in out
    told = json.loads(check(sh, "--json")[1])
    assert (told["newest_reported"], told["peers"], told["newer_runs"]) == ("10.0", 1, [])


def test_peers_that_are_not_newer_are_no_news(sh: Shell) -> None:
    heard(sh, anna="dipaco-node 0.0.1")
    assert "peers report" not in check(sh)[1]


def test_a_run_of_a_newer_format_needs_an_update(sh: Shell) -> None:
    run = sign_manifest(manifest(), key("owner"))
    keep_run(sh.folder / "h", run)
    assert check(sh)[0] == 0
    body = cbor2.loads(run.signed.body) | {"format": FORMAT + 1}
    newer = cbor2.loads(encode(run.signed)) | {"body": cbor2.dumps(body, canonical=True)}
    file = sh.write("new.run", cbor2.dumps(newer, canonical=True))
    code, out, _ = check(sh, file)
    assert code == Exit.UPDATE and f"{file}: needs a newer version" in out
    Path(file).rename(sh.folder / "h" / "runs" / "new.run")
    assert check(sh)[0] == Exit.UPDATE
    assert json.loads(check(sh, "--json")[1])["newer_runs"][0].endswith("new.run")


def test_it_does_nothing_but_check(sh: Shell) -> None:
    assert "--check" in sh.fails(Exit.USAGE, "update")


def test_only_this_programs_versions_are_numbers() -> None:
    assert numbers("dipaco-node 0.1.0") == (0, 1, 0)
    assert numbers("dipaco-node 0.1.0 ") == numbers("dipaco-node source") == ()
