"""`key`: real files; no key is ever overwritten, nor readable by others."""

import json
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from tests.cli.shell import Shell


@pytest.fixture
def sh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def home(sh: Shell, name: str = "h") -> str:
    return str(sh.folder / name)


def test_a_key_comes_back_from_its_backup_after_the_home_was_lost(sh: Shell) -> None:
    sh("key", "new", "--home", home(sh))
    peer = sh("id", "--home", home(sh))[1].strip()
    copy = sh.folder / "node.key"
    code, out, _ = sh("key", "backup", str(copy), "--home", home(sh))
    assert (code, out) == (0, f"{copy}: {peer}\n")
    assert copy.stat().st_mode & 0o777 == 0o600
    code, out, err = sh("key", "restore", str(copy), "--home", home(sh, "new"))
    assert code == 0 and out.endswith(f"identity.key: {peer}\n") and "two nodes" in err
    assert sh("id", "--home", home(sh, "new"))[1].strip() == peer


def test_neither_way_overwrites_a_key(sh: Shell) -> None:
    sh("key", "new", "--home", home(sh))
    other = sh.write("other.key", "x")
    assert "never overwritten" in sh.fails(Exit.USAGE, "key", "backup", other, "--home", home(sh))
    sh("key", "backup", str(sh.folder / "node.key"), "--home", home(sh))
    told = sh.fails(Exit.USAGE, "key", "restore", str(sh.folder / "node.key"), "--home", home(sh))
    assert "never overwritten" in told


def test_without_a_key_there_is_nothing_to_copy(sh: Shell) -> None:
    told = sh.fails(Exit.USAGE, "key", "backup", str(sh.folder / "k"), "--home", home(sh))
    assert "no such key file" in told and not (sh.folder / "k").exists()
    missing = str(sh.folder / "missing.key")
    assert "no such key file" in sh.fails(Exit.USAGE, "key", "restore", missing, "--home", home(sh))


def test_rubbish_or_a_key_that_others_can_read_is_not_restored(sh: Shell) -> None:
    rubbish = sh.write("rubbish.key", "no key")
    Path(rubbish).chmod(0o600)
    sh.fails(Exit.USAGE, "key", "restore", rubbish, "--home", home(sh))
    sh("key", "new", str(sh.folder / "open.key"))
    (sh.folder / "open.key").chmod(0o644)
    sh.fails(Exit.USAGE, "key", "restore", str(sh.folder / "open.key"), "--home", home(sh))
    assert not (sh.folder / "h").exists()


def test_programs_get_file_and_peer_as_json(sh: Shell) -> None:
    copy, new = str(sh.folder / "node.key"), ("--home", home(sh, "new"))
    made = json.loads(sh("key", "new", "--home", home(sh), "--json")[1])
    saved = json.loads(sh("key", "backup", copy, "--home", home(sh), "--json")[1])
    back = json.loads(sh("key", "restore", copy, *new, "--json")[1])
    assert saved == {"file": copy, "peer": made["peer"]}
    assert back == {"file": str(sh.folder / "new" / "identity.key"), "peer": made["peer"]}
