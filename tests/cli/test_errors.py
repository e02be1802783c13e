"""Rules of this file: the command line in this process, real files, real sockets, no daemon.

What a person gets wrong ends in one line on stderr and the exit code of docs/operation.md.
"""

import errno
import json
import os
import re
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.cli.exits import Exit, code_of, expected
from dipaco.node.network.keys import save_key
from dipaco.node.storage.files import DiskFull, Home, HomeTaken
from dipaco.protocol.errors import (
    ConfigError,
    LocalProtocolError,
    Refusal,
    RemoteProtocolError,
    Unavailable,
    Unverifiable,
)
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.identity import peer_id
from dipaco.protocol.wire.signed import Signed
from tests.cli.shell import Shell
from tests.cli.tiny import TINY

RUN = f"\n{TINY}[training.inner]\n[training.outer]\n"


@pytest.fixture
def run_file(shell: Shell) -> Path:
    shell.write("tiny.toml", RUN)
    assert shell("run", "create", "tiny.toml", "--out", "tiny.run")[0] == 0
    return shell.folder / "tiny.run"


# ------------------------------------------------------------------ usage and configuration


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["start", "--fly"], "No such option"),
        (["start", "--max-shards", "many"], "not a valid integer"),
        (["start", "--verify", "never", "--rendezvous"], "run.verify"),
        (
            ["start", "--verify", "receipts:0", "--rendezvous"],
            "not one of require, warn, receipts:Q",
        ),
        (["start", "--bootstrap", "example.org"], "node.bootstrap"),
        (["start", "--device", "gpu", "--rendezvous"], "compute.device"),
        (["join", "x"], "CODE: a character of the code is wrong or missing"),
        (
            ["testnet", "--nodes", "2", "--kill", "2"],
            "--kill 2: at least one of 2 volunteers must live",
        ),
        (["testnet", "nowhere.toml"], "nowhere.toml"),
        (["run", "show", "nowhere.run"], "nowhere.run"),
        (["run", "show", "demo"], "run: demo is not here; here: none"),
        (["reference", "x.run", "--rounds", "2"], "--rounds: a signed run cannot be changed"),
        (["reference", "--compare", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(shell: Shell, arguments: list[str], words: str) -> None:
    assert words in shell.fails(Exit.USAGE, *arguments)


PEER = peer_id(Ed25519PrivateKey.from_private_bytes(bytes(32)))
PLACE = "/ip4/203.0.113.7/tcp/4410"


@pytest.mark.parametrize(
    ("option", "address", "words"),
    [
        ("--bootstrap", f"/ip4/203.0.113.7/tcp/99999/p2p/{PEER}", "port 99999 is not in 0 to"),
        ("--bootstrap", f"/ip4/203.0.113.7/tcp/0/p2p/{PEER}", "port 0 stands for any free port"),
        ("--bootstrap", f"/ip4/300.0.0.1/tcp/4410/p2p/{PEER}", "'300.0.0.1' is no IP address"),
        ("--bootstrap", f"/ip4/0.0.0.0/tcp/4410/p2p/{PEER}", "0.0.0.0 is a wildcard"),
        ("--bootstrap", f"{PLACE}/p2p/{PEER[:-1]}I", "is no PeerID of an Ed25519 key"),
        ("--bootstrap", f"{PLACE}/p2p/{PEER[:-1]}", "here 51 in all"),
        ("--bootstrap", PLACE, "names no peer: /p2p/12D3KooW... is missing at its end"),
        ("--bootstrap", f"{PLACE}/p2p/{PEER}/", "ends in a slash: leave it out"),
        ("--bootstrap", f" {PLACE}/p2p/{PEER}", "has a blank in it"),
        ("--bootstrap", f"{PLACE}/p2p/{PEER},{PLACE}/p2p/{PEER}", "has a comma"),
        ("--bootstrap", f"/ip6/fe80::1%eth0/tcp/1/p2p/{PEER}", "without a zone"),
        ("--bootstrap", f"/ip4/203.0.113.7/udp/4410/quic-v1/p2p/{PEER}", "only tcp is known"),
        ("--bootstrap", f"{PLACE}/ws/p2p/{PEER}", "this version speaks plain TCP alone"),
        ("--bootstrap", f"{PLACE}/tcp/4411/p2p/{PEER}", "where /p2p/PEER is expected"),
        ("--bootstrap", "http://me.example:4410", "write /dns/me.example/tcp/4410"),
        ("--bootstrap", "203.0.113.7:4410", "write /ip4/203.0.113.7/tcp/4410"),
        ("--listen", "/ip4/0.0.0.0/tcp/65536", "port 65536 is not in 0 to 65535"),
        ("--listen", "/dns4/me.example/tcp/4410", "a node listens on an IP address and a port"),
        ("--listen", f"{PLACE}/p2p/{PEER}", "a node listens on an IP address and a port"),
        ("--listen", "0.0.0.0:4410", "write /ip4/0.0.0.0/tcp/4410"),
        ("--listen", "4410", "does not begin with a slash"),
        ("--announce", "/ip4/203.0.113.7/tcp/0", "port 0 stands for any free port"),
        ("--announce", "/ip4/0.0.0.0/tcp/4410", "0.0.0.0 is a wildcard"),
        ("--announce", "/dns/stack_node/tcp/4410", "a name with an underscore is no host name"),
        ("--announce", "me.example:4410", "write /dns/me.example/tcp/4410"),
    ],
)
def test_a_hopeless_address_is_told_by_its_fault_and_code_2(
    shell: Shell, option: str, address: str, words: str
) -> None:
    said = shell.fails(Exit.USAGE, "start", "--rendezvous", option, address)
    assert f"node.{option[2:]} (the command line): " in said
    assert words in said and "('" not in said
    assert not Path("home").exists()


@pytest.mark.parametrize("name", ["bootstrap", "listen", "announce"])
def test_an_address_of_the_environment_or_the_file_is_told_in_the_same_way(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    Path("home").mkdir()
    shell.write("home/config.toml", f'[node]\n{name} = ["{PLACE}/ws"]\n')
    said = shell.fails(Exit.USAGE, "start", "--rendezvous")
    assert f"node.{name} ({shell.folder}/home/config.toml, line 2): '{PLACE}/ws': has" in said
    Path("home/config.toml").unlink()
    monkeypatch.setenv(f"DIPACO_NODE_{name.upper()}", f"{PLACE}/p2p/{PEER},{PLACE}/ws")
    said = shell.fails(Exit.USAGE, "start", "--rendezvous")
    assert f"node.{name} ($DIPACO_NODE_{name.upper()}): " in said


def test_an_unknown_variable_is_one_line_and_code_2(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPACO_RUN_VERIFI", "warn")
    assert "did you mean DIPACO_RUN_VERIFY?" in shell.fails(Exit.USAGE, "start", "--rendezvous")


def test_client_verbs_without_a_daemon_have_a_code_of_their_own(shell: Shell) -> None:
    home = shell.folder / "home"
    for verb in ("status", "stop"):
        said = shell.fails(Exit.NO_DAEMON, verb)
        assert f"no daemon runs in {home} (no such file or directory): " in said
        assert f"dipaco-node start --home {home} starts one" in said


def test_a_socket_that_a_killed_daemon_left_is_no_daemon(shell: Shell) -> None:
    home = Home.at(shell.folder / "home")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home.socket))
    assert "(connection refused): dipaco-node start" in shell.fails(Exit.NO_DAEMON, "status")


def test_a_daemon_of_another_user_is_not_called_absent(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:  # root, who runs tests too, may connect to any socket
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("dipaco.node.api.client._Connection.connect", forbidden)
    said = shell.fails(Exit.NO_DAEMON, "status")
    assert "answers its own user alone" in said and "no daemon" not in said


def test_a_home_that_cannot_be_made_is_named(shell: Shell) -> None:
    in_the_way = shell.write("file", "")
    said = shell.fails(Exit.USAGE, "start", "--rendezvous", "--home", f"{in_the_way}/home")
    assert f"home: {in_the_way} is not a folder" in said


def test_a_taken_port_is_named(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        code, _, err = shell("start", "--rendezvous", "--listen", address)
    greeting, said = err.splitlines()
    assert code == Exit.USAGE and greeting.startswith("dipaco-node 0.")
    assert said.startswith("dipaco-node: ") and address in said
    assert not (shell.folder / "home").exists()  # a start that failed leaves no key
    assert "--listen /ip4/127.0.0.1/tcp/0" in said


def test_a_home_that_another_daemon_holds_has_a_code_of_its_own(shell: Shell) -> None:
    with Home.at(shell.folder / "home").held():
        said = shell.fails(Exit.HOME_TAKEN, "start", "--rendezvous")
    assert str(os.getpid()) in said


# ------------------------------------------------------------------ run files


def test_a_run_file_is_made_checked_shown_and_used(shell: Shell, run_file: Path) -> None:
    assert shell("run", "verify", str(run_file))[0] == 0
    code, out, _ = shell("run", "show", str(run_file))
    assert code == 0 and "2 paths" in out and "synthetic" in out


def test_a_run_that_this_node_may_not_or_cannot_read_cannot_be_told(shell: Shell) -> None:
    rows = [json.dumps({"text": f"document {row} " + "word " * 60}) for row in range(200)]
    text = shell.write("rows.jsonl", "\n".join(rows) + "\n")
    source = f'kind = "files"\nfiles = ["{text}"]'
    shell.write("own.toml", re.sub(r'kind = "synthetic"\ndocuments = \d+', source, RUN))
    code, _, err = shell("run", "create", "own.toml", "--out", "own.run")
    assert code == 0, err
    code, out, _ = shell("verify", "own.run", "--json")
    assert code == Exit.UNVERIFIABLE and "run.local_sources" in json.loads(out)["reason"]
    Path(text).unlink()
    code, out, _ = shell("verify", "own.run", "--local-sources")
    assert code == Exit.UNVERIFIABLE and "no such file" in out


def test_an_owner_signs_elsewhere_what_was_created_here(shell: Shell) -> None:
    shell.write("tiny.toml", RUN)
    made = shell("key", "new", "owner.key")[1]
    owner = made.split()[-1]
    assert shell("run", "create", "tiny.toml", "--out", "m", "--owner", owner)[0] == 0
    assert "not a run file" in shell.fails(Exit.REFUSED, "run", "verify", "m")
    shell("key", "new", "other.key")
    assert "owner" in shell.fails(Exit.USAGE, "run", "sign", "m", "--key", "other.key")
    assert shell("run", "sign", "m", "--key", "owner.key", "--out", "r.run")[0] == 0
    assert shell("run", "verify", "r.run")[0] == 0


def test_a_key_is_never_overwritten(shell: Shell) -> None:
    assert shell("key", "new", "owner.key")[0] == 0
    assert "never overwritten" in shell.fails(Exit.USAGE, "key", "new", "owner.key")


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xa0", bytes(5 << 20)])
def test_a_malformed_run_file_is_refused(shell: Shell, data: bytes) -> None:
    name = shell.write("bad.run", data)
    code = Exit.USAGE if len(data) > 4 << 20 else Exit.REFUSED
    assert name in shell.fails(code, "run", "verify", name)


def test_a_run_file_with_one_bit_flipped_is_refused(shell: Shell, run_file: Path) -> None:
    data = bytearray(run_file.read_bytes())
    data[data.index(b"tiny")] ^= 1
    name = shell.write("bad.run", bytes(data))
    assert "signature" in shell.fails(Exit.REFUSED, "run", "verify", name)
    assert "signature" in shell.fails(Exit.REFUSED, "start", "--rendezvous", "--run", name)
    assert "signature" in shell.fails(Exit.REFUSED, "verify", name)


def test_a_run_signed_by_another_than_its_owner_is_refused(shell: Shell, run_file: Path) -> None:
    from dipaco.node.runs.files import read_run
    from dipaco.protocol.wire.signed import sign

    forged: Signed = sign(read_run(run_file).manifest, Ed25519PrivateKey.generate())
    name = shell.write("forged.run", encode(forged))
    assert "not by its owner" in shell.fails(Exit.REFUSED, "run", "verify", name)


def test_a_spec_that_is_none_is_refused(shell: Shell, run_file: Path) -> None:
    shell.write("bad.spec", b"garbage")
    said = shell.fails(Exit.REFUSED, "verify", str(run_file), "--spec", "bad.spec")
    assert "not a router spec" in said


# ------------------------------------------------------------------ founding a run


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "synthetic"', 'kind = "cloud"', "source.kind"),
        ('kind = "synthetic"', 'kind = "hub"', "source.dataset: is missing"),
        ("documents = 64", "documents = 1", "source.documents: 1 for 2 paths"),
        ("documents = 64", "", "source.documents: is missing"),
        ("sample = 32", "sample = 65", "routing.sample: 65 of 64 documents"),
        ("sample = 32", "sample = 1", "routing.sample"),
        ("context = 40", "context = 30", "model.context"),
        ("heads = 2\nkv", "heads = 3\nkv", "model.heads"),
        ("d_model = 16", "d_modle = 16", "model.d_modle: no such field"),
        ("dimension = 16", "dimension = 17", "routing.dimension"),
        ("rounds = 1", "rounds = 0", "training.rounds"),
        ("blocks = 1", "blocks = 0", "grid.levels"),
        ('name = "tiny"', 'name = "Tiny!"', "name"),
        ("[training.outer]", "[training.outer]\nlr = -1.0", "training.outer.lr"),
        ("[training.outer]", "[training.outer]\n[schedule]\nlease_ttl = 1", "schedule.lease_ttl"),
        (
            "[training.outer]",
            '[training.outer]\n[schedule]\nschedulers = ["me"]',
            "schedule.schedulers",
        ),
        ("[model]", "[modell]", "modell: no such table or field; did you mean model?"),
        ("seed = 3", "seed = ", "bad.toml, line 3: no value"),
    ],
)
def test_an_impossible_run_is_refused_by_its_field(
    shell: Shell, old: str, new: str, words: str
) -> None:
    assert old in RUN
    shell.write("bad.toml", RUN.replace(old, new, 1))
    said = shell.fails(Exit.USAGE, "run", "create", "bad.toml", "--out", "bad.run")
    assert words in said
    assert not (shell.folder / "bad.run").exists()


def files_run(extra: str = "") -> str:
    source = f'kind = "files"\nfiles = ["text.parquet"]\n{extra}'
    return RUN.replace('kind = "synthetic"\ndocuments = 64', source)


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def test_a_source_with_fewer_documents_than_paths_is_refused(shell: Shell) -> None:
    write_parquet(shell.folder / "text.parquet", ["one"])
    shell.write("few.toml", files_run())
    said = shell.fails(Exit.USAGE, "run", "create", "few.toml", "--out", "few.run")
    assert "source.documents: 1 for 2 paths" in said


def test_more_documents_than_the_files_hold_are_refused(shell: Shell) -> None:
    write_parquet(shell.folder / "text.parquet", ["one"] * 40)
    shell.write("many.toml", files_run("documents = 41"))
    said = shell.fails(Exit.USAGE, "run", "create", "many.toml", "--out", "many.run")
    assert "source.documents: 41, but the files hold 40" in said


def test_a_truncated_parquet_is_refused_by_name(shell: Shell) -> None:
    path = shell.folder / "text.parquet"
    write_parquet(path, [f"document {i}" * 50 for i in range(100)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shell.write("cut.toml", files_run())
    said = shell.fails(Exit.USAGE, "run", "create", "cut.toml", "--out", "cut.run")
    assert "text.parquet" in said


def test_a_text_field_that_no_row_has_is_refused_by_name(shell: Shell) -> None:
    write_parquet(shell.folder / "text.parquet", ["one"] * 40)
    shell.write("field.toml", files_run('text_field = "body"'))
    said = shell.fails(Exit.USAGE, "run", "create", "field.toml", "--out", "field.run")
    assert "body" in said


def test_a_tokenizer_of_another_digest_is_refused(shell: Shell) -> None:
    from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path

    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    shell.write("tokenizer.json", path.read_bytes())
    table = f'[tokenizer]\nfile = "tokenizer.json"\nsha256 = "{"0" * 64}"\n[model]'
    shell.write("bad.toml", RUN.replace("[model]", table))
    said = shell.fails(Exit.USAGE, "run", "create", "bad.toml", "--out", "bad.run")
    assert "tokenizer.sha256" in said


def test_a_tokenizer_that_is_none_is_refused(shell: Shell) -> None:
    shell.write("tokenizer.json", "{}")
    shell.write("bad.toml", RUN.replace("[model]", '[tokenizer]\nfile = "tokenizer.json"\n[model]'))
    said = shell.fails(Exit.USAGE, "run", "create", "bad.toml", "--out", "bad.run")
    assert "tokenizer.json" in said


# ------------------------------------------------------------------ errors and codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(), Exit.USAGE),
        (HomeTaken(), Exit.HOME_TAKEN),
        (Refusal(), Exit.REFUSED),
        (Unverifiable(), Exit.UNVERIFIABLE),
        (RemoteProtocolError(), Exit.REFUSED),
        (DiskFull(), Exit.FULL),
        (Unavailable(), Exit.AWAY),
    ],
)
def test_every_error_has_its_code(error: Exception, code: Exit) -> None:
    found = expected(ExceptionGroup("nursery", [ExceptionGroup("inner", [error])]))
    assert found is error and code_of(found) == code


@pytest.mark.parametrize("bug", [LocalProtocolError(), ValueError(), KeyError()])
def test_a_bug_is_never_taken_for_something_expected(bug: Exception) -> None:
    assert expected(bug) is None
    assert expected(ExceptionGroup("nursery", [Refusal("x"), bug])) is None


def test_a_bug_shows_its_traceback_and_ends_with_code_1(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("dipaco.cli.commands.version._version", broken)
    code, _, err = shell("version")
    assert code == Exit.ERROR
    assert "Traceback" in err and "ZeroDivisionError: a bug" in err and "report" in err


def test_the_key_of_a_node_is_made_once(shell: Shell) -> None:
    first, again = shell("id")[1], shell("id")[1]
    assert first == again and first.startswith("12D3KooW")
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ConfigError):
        save_key(shell.folder / "home" / "identity.key", key)
