"""Rules of this file: real run files in a folder; no network."""

from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.cli.testnet.local_run import local_run
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.files import (
    RunFile,
    choose_run,
    find_run,
    keep_run,
    kept_runs,
    open_run,
    peer_named,
    read_manifest,
    read_run,
    sign_manifest,
    write_manifest,
    write_run,
)
from dipaco.node.runs.known import known_runs, named_run, record_of
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import ConfigError, Refusal
from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256, short
from dipaco.protocol.wire.identity import peer_id


def a_run(seed: int = 0) -> RunFile:
    """The demo's run, of another owner for every seed."""
    return local_run(None, seed=seed, rounds=2).run


def test_a_run_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_run(tmp_path / "a.run", a_run())
    again = read_run(tmp_path / "a.run")
    assert again == a_run() and again.id == a_run().id


def test_an_unsigned_manifest_is_no_run_file_and_the_other_way_round(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m", a_run().manifest)
    write_run(tmp_path / "r", a_run())
    assert read_manifest(tmp_path / "m") == a_run().manifest
    with pytest.raises(Refusal, match="not a run file"):
        read_run(tmp_path / "m")
    with pytest.raises(Refusal, match="not an unsigned manifest"):
        read_manifest(tmp_path / "r")


@pytest.mark.parametrize("format_", [1, 3])
def test_a_run_file_of_another_day_is_refused_by_its_name(format_: int, tmp_path: Path) -> None:
    """Its fields are none of this version's, and it is signed for another one's domain."""
    body = cbor2.dumps({"type": "Manifest", "format": format_, "name": "old"}, canonical=True)
    envelope = {"type": "Signed", "body": body, "public_key": bytes(32), "signature": bytes(64)}
    path = tmp_path / "old.run"
    path.write_bytes(cbor2.dumps(envelope, canonical=True))
    words = rf"old\.run: made by another version .*format {format_}, this one reads 2.*run create"
    with pytest.raises(Refusal, match=words):
        read_run(path)
    path.write_bytes(body)
    with pytest.raises(Refusal, match=words):
        read_manifest(path)


def test_only_its_owner_can_sign_a_manifest() -> None:
    with pytest.raises(ConfigError, match="owner"):
        sign_manifest(a_run().manifest, Ed25519PrivateKey.generate())


def test_every_flipped_byte_of_a_run_file_is_noticed() -> None:
    data = encode(a_run().signed)
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(Refusal):
            open_run(bytes(broken), "broken")


def test_a_home_offers_the_runs_that_were_put_there(tmp_path: Path) -> None:
    assert kept_runs(tmp_path) == ()
    keep_run(tmp_path, a_run(1))
    keep_run(tmp_path, a_run(1))
    keep_run(tmp_path, a_run(2))
    assert {run.id for run in kept_runs(tmp_path)} == {a_run(1).id, a_run(2).id}


def test_a_torn_file_hides_no_other_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep_run(tmp_path, a_run(1))
    (tmp_path / "runs" / "torn.run").write_bytes(b"half a file")
    (tmp_path / "runs" / "folder.run").mkdir()
    assert [run.id for run in kept_runs(tmp_path)] == [a_run(1).id]
    assert "torn.run: not a run file" in caplog.text and "folder.run" in caplog.text


def test_a_run_is_found_by_name_id_or_the_beginning_of_its_id() -> None:
    one, other = a_run(1), a_run(2)
    assert find_run([one], "") == find_run([one], "demo") == one
    assert find_run([one, other], other.id.hex()) == other
    assert find_run([one, other], other.id.hex()[:12]) == other
    with pytest.raises(ConfigError, match=r"demo\? here: demo"):
        find_run([one, other], "demo")
    with pytest.raises(ConfigError, match="did you mean demo"):
        find_run([one], "dem0")
    with pytest.raises(ConfigError, match="here: none"):
        find_run([], "")


def test_offers_are_what_a_person_may_choose_from() -> None:
    demo, again, other = (sha256(bytes([n])) for n in range(3))
    names = {demo: "demo", again: "demo", other: "other"}
    assert choose_run("demo", names).found == (demo, again)
    assert choose_run("demo", names).offers == f"demo ({short(demo)}), demo ({short(again)})"
    assert choose_run("", names).found == tuple(names)
    none = choose_run("x", names)
    assert none.found == () and none.offers.endswith(f"other ({short(other)})")
    assert choose_run("", {}).offers == "none"
    many = {sha256(bytes([n])): "demo" for n in range(11)}
    assert choose_run("demo", many).offers.endswith("), 3 more")


def test_a_name_goes_before_the_beginning_of_an_id() -> None:
    one, other = sha256(b"one"), sha256(b"other")
    beginning = one.hex()[:4]
    assert choose_run(beginning, {one: "demo", other: "x"}).found == (one,)
    assert choose_run(beginning, {one: "demo", other: beginning}).found == (other,)


def test_runs_pulled_from_others_are_known_beside_the_own_ones(tmp_path: Path) -> None:
    assert known_runs(tmp_path) == ()
    home, own, pulled = Home.at(tmp_path), a_run(1), a_run(2)
    keep_run(home.root, own)
    data = encode(pulled.signed)
    journal = Journal.open(home.journal)
    journal.save_signed("manifest", pulled.id, sha256(data), data)
    journal.close()
    assert {run.id for run in known_runs(tmp_path)} == {own.id, pulled.id}
    assert named_run(pulled.id.hex(), tmp_path) == pulled
    record = record_of(pulled.id, tmp_path)
    assert record is not None and record.manifest == pulled.manifest
    assert record_of(own.id, tmp_path) is None


def test_a_peer_id_is_checked_where_it_is_typed() -> None:
    peer = peer_id(Ed25519PrivateKey.generate())
    assert peer_named(peer, "--owner") == peer
    with pytest.raises(ConfigError, match="--owner: 'me' is no PeerID"):
        peer_named("me", "--owner")


def test_the_owner_schedules_unless_somebody_else_is_named(tmp_path: Path) -> None:
    owner = peer_id(Ed25519PrivateKey.generate())
    other = peer_id(Ed25519PrivateKey.generate())
    text = (Path(__file__).parents[3] / "node/data/demo/demo.toml").read_text()
    (tmp_path / "a.toml").write_text(text)
    assert create_manifest(tmp_path / "a.toml", owner=owner).manifest.schedule.schedulers == (
        owner,
    )
    given = create_manifest(tmp_path / "a.toml", owner=owner, schedulers=(other,), rounds=3)
    assert given.manifest.schedule.schedulers == (other,)
    assert given.manifest.training.rounds == 3
