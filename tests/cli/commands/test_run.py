"""Rules of this file: the verbs `run`, `id` and `key` in this process, real files, no network."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.node.network.keys import read_key
from dipaco.node.runs.files import read_run
from dipaco.protocol.wire.identity import peer_id
from tests.cli.tiny import TINY

Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Return a function that runs a command line, and returns exit code, stdout and stderr."""
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)

    def ask(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return ask


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def fails(shell: Shell, folder: Path, code: Exit, *arguments: str) -> str:
    """Return the one line with which a verb fails that leaves every file as it was."""
    before = files(folder)
    found, out, err = shell(*arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert files(folder) == before
    return err


# ------------------------------------------------------------------ init


def test_the_template_goes_to_stdout_or_to_a_file_that_is_not_there(
    shell: Shell, tmp_path: Path
) -> None:
    text = shell("run", "init", "--grid", "2x3")[1]
    assert 'name = "my-run"' in text and "# 6 paths" in text
    assert shell("run", "init", "mine.toml", "--grid", "2x3")[:2] == (Exit.OK, "")
    assert (tmp_path / "mine.toml").read_text() == text.replace("my-run", "mine")
    said = fails(shell, tmp_path, Exit.USAGE, "run", "init", "mine.toml")
    assert said == "dipaco-node: OUT: mine.toml exists already: name another file\n"
    assert shell("run", "create", "mine.toml", "--out", "mine.run")[0] == Exit.OK


def test_the_template_names_local_files_and_the_field_of_their_text(
    shell: Shell, tmp_path: Path
) -> None:
    rows = [json.dumps({"body": f"{row} " + "words " * 40}) for row in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    arguments = ["--grid", "2", "--data", "rows.jsonl", "--text-field", "body"]
    assert shell("run", "init", "mine.toml", *arguments)[0] == Exit.OK
    code, out, err = shell("run", "create", "mine.toml", "--out", "mine.run", "--json")
    assert code == Exit.OK, err
    assert json.loads(out)["paths"] == 2
    source = read_run(tmp_path / "mine.run").manifest.source
    assert (source.kind, source.text_field, source.documents) == ("files", "body", 20)


# ------------------------------------------------------------------ create


def test_a_run_file_is_overwritten_only_when_told(shell: Shell, tmp_path: Path) -> None:
    create = ("run", "create", "tiny.toml", "--out", "tiny.run")
    assert shell(*create)[0] == Exit.OK
    said = fails(shell, tmp_path, Exit.USAGE, *create)
    assert "--out: tiny.run exists already: name another file, or give --force" in said
    first = (tmp_path / "tiny.run").read_bytes()
    (tmp_path / "tiny.toml").write_text(TINY.replace("seed = 3", "seed = 4"))
    assert shell(*create, "--force")[0] == Exit.OK
    assert (tmp_path / "tiny.run").read_bytes() != first


def test_neither_the_toml_nor_a_folder_nor_a_device_is_overwritten(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    create = ("run", "create", "tiny.toml", "--force", "--out")
    assert "the TOML file itself" in fails(shell, tmp_path, Exit.USAGE, *create, "./tiny.toml")
    for name in ("folder", "folder/", "new/"):
        assert "is a folder" in fails(shell, tmp_path, Exit.USAGE, *create, name)
    assert "not an ordinary file" in fails(shell, tmp_path, Exit.USAGE, *create, "/dev/null")


def test_a_run_that_fails_leaves_an_old_home_as_it_was(shell: Shell, tmp_path: Path) -> None:
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == Exit.OK
    (tmp_path / "home" / "identity.key").unlink()
    (tmp_path / "bad.toml").write_text(TINY.replace("rounds = 1", "rounds = 0"))
    fails(shell, tmp_path, Exit.USAGE, "run", "create", "bad.toml", "--out", "bad.run")


def test_a_full_disk_leaves_neither_key_nor_run_file(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dipaco.node.network.identity.replacing", full)
    said = fails(shell, tmp_path, Exit.FULL, "run", "create", "tiny.toml", "--out", "tiny.run")
    assert "no space left" in said


def test_a_new_key_is_kept_with_the_run_that_it_signed(shell: Shell, tmp_path: Path) -> None:
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == Exit.OK
    own = peer_id(read_key(tmp_path / "home" / "identity.key"))
    assert read_run(tmp_path / "tiny.run").signed.signer == own


# ------------------------------------------------------------------ signed and unsigned


@pytest.fixture
def unsigned(shell: Shell, tmp_path: Path) -> Path:
    owner = shell("key", "new", "owner.key")[1].split()[-1]
    assert shell("run", "create", "tiny.toml", "--out", "m", "--owner", owner)[0] == Exit.OK
    return tmp_path / "m"


def test_an_unsigned_manifest_is_called_that_and_the_verb_that_signs_is_named(
    shell: Shell, tmp_path: Path, unsigned: Path
) -> None:
    words = (
        "m: not a run file but an unsigned manifest: its owner makes one of it with "
        "`dipaco-node run sign m --key OWNER.key`"
    )
    for verb in (
        ["run", "verify"],
        ["run", "show"],
        ["verify"],
        ["start", "--rendezvous", "--run"],
    ):
        assert words in fails(shell, tmp_path, Exit.REFUSED, *verb, "m")


def test_a_signed_run_is_not_signed_again(shell: Shell, tmp_path: Path, unsigned: Path) -> None:
    assert shell("run", "sign", "m", "--key", "owner.key")[0] == Exit.OK
    said = fails(shell, tmp_path, Exit.REFUSED, "run", "sign", "m", "--key", "owner.key")
    assert "m: not an unsigned manifest: it is signed already" in said


def test_another_key_than_the_owners_signs_nothing(
    shell: Shell, tmp_path: Path, unsigned: Path
) -> None:
    shell("key", "new", "other.key")
    said = fails(shell, tmp_path, Exit.USAGE, "run", "sign", "m", "--key", "other.key")
    assert re.search(r"owner: this key is of 12D3KooW\w+, the manifest names 12D3KooW", said)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (TINY.encode(), "it is text; `dipaco-node run create` makes a run file of a TOML file"),
        (b"\xa0", "malformed Signed: "),
        (bytes(range(256)), "malformed Signed: "),
        (cbor2.dumps([1, 2]), "malformed Signed: "),
    ],
)
def test_another_file_than_a_run_file_is_told_as_what_it_is(
    shell: Shell, tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / "x.run").write_bytes(data)
    said = fails(shell, tmp_path, Exit.REFUSED, "run", "verify", "x.run")
    assert f"x.run: not a run file: {words}" in said


def test_a_run_file_cut_off_or_with_more_behind_it_is_told_as_such(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == Exit.OK
    whole = (tmp_path / "tiny.run").read_bytes()
    for data, words in (
        (whole[:-10], "malformed Signed: the bytes end too early"),
        (whole + b"\xff\xff", "malformed Signed: 2 bytes after its end"),
    ):
        (tmp_path / "x.run").write_bytes(data)
        assert words in fails(shell, tmp_path, Exit.REFUSED, "run", "verify", "x.run")


# ------------------------------------------------------------------ start


def test_a_run_of_another_scheduler_is_told_before_anything_is_made(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == Exit.OK
    other = read_run(tmp_path / "tiny.run").signed.signer
    start = ("start", "--rendezvous", "--run", "tiny.run", "--home", "other")
    said = fails(shell, tmp_path, Exit.USAGE, *start)
    assert f"--run: tiny.run names {other} as its scheduler, this node has no key yet" in said
    own = shell("id", "--home", "other")[1].strip()
    said = fails(shell, tmp_path, Exit.USAGE, *start)
    assert f"names {other} as its scheduler, this node is {own}: start it in the home" in said


def test_a_start_that_is_refused_adds_no_run_to_the_home(shell: Shell, tmp_path: Path) -> None:
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == Exit.OK
    for wrong in ((), ("--device", "gpu", "--rendezvous")):
        fails(shell, tmp_path, Exit.USAGE, "start", "--run", "tiny.run", "--home", "new", *wrong)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (Exit.USAGE, "testnet bad.toml --home kept"),
        (Exit.USAGE, "reference bad.toml --home kept"),
        (Exit.USAGE, "compare bad.toml --out kept"),
        (Exit.USAGE, "doctor --fit bad.toml"),
        (Exit.USAGE, "key new nowhere/owner.key"),
        (Exit.USAGE, "start --rendezvous --run nowhere.run"),
        (Exit.REFUSED, "verify bad.toml"),
        (Exit.REFUSED, "run sign bad.toml --key owner.key"),
        (Exit.AWAY, "eval tiny.run"),
        (Exit.AWAY, "generate tiny.run words"),
        (Exit.AWAY, "ckpt list tiny.run"),
        (Exit.AWAY, "ckpt export tiny.run --format safetensors --out kept"),
        (Exit.NO_DAEMON, "status"),
        (Exit.NO_DAEMON, "stop"),
    ],
)
def test_a_verb_that_fails_makes_nothing(
    shell: Shell, tmp_path: Path, code: Exit, arguments: str
) -> None:
    (tmp_path / "bad.toml").write_text(TINY.replace("rounds = 1", "rounds = 0"))
    shell("key", "new", "owner.key")
    created = shell("run", "create", "tiny.toml", "--out", "tiny.run", "--key", "owner.key")
    assert created[0] == Exit.OK
    shutil.rmtree(tmp_path / "home")
    fails(shell, tmp_path, code, *arguments.split())


# ------------------------------------------------------------------ JSON


def test_verbs_print_json_for_programs(shell: Shell, tmp_path: Path) -> None:
    made = json.loads(shell("run", "create", "tiny.toml", "--out", "tiny.run", "--json")[1])
    found = read_run(tmp_path / "tiny.run")
    own = json.loads(shell("id", "--json")[1])
    assert own == {"peer": found.signed.signer, "addresses": []}
    assert made == {
        "file": "tiny.run",
        "id": found.id.hex(),
        "name": "tiny",
        "owner": own["peer"],
        "grid": [2],
        "paths": 2,
        "signed": True,
    }
    shown = json.loads(shell("run", "show", "tiny.run", "--json")[1])
    assert (shown["id"], shown["signer"]) == (made["id"], own["peer"])
    assert shown["manifest"]["tokenizer"]["sha256"] == found.manifest.tokenizer.sha256.hex()
    assert shown["manifest"]["grid"]["levels"][0]["experts"] == 2
    assert json.loads(shell("run", "list", "--json")[1]) == []


def test_a_home_that_cannot_be_used_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for verb in (["id"], ["key", "new"], ["run", "create", "tiny.toml", "--out", "x.run"]):
        said = fails(shell, tmp_path, Exit.USAGE, *verb, "--home", "file/home")
        assert "choose another --home" in said
