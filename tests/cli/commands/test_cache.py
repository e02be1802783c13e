"""`cache info` and `cache prune`: real homes, without a daemon and beside one."""

import json
from pathlib import Path

import pytest

from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home


def source(home: Home, size: int) -> Path:
    home.sources.mkdir(exist_ok=True)
    path = home.sources / "file"
    path.write_bytes(bytes(size))
    return path


def test_info_tells_what_is_held_by_kind_with_the_bound_and_the_free_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPACO_STORAGE_CACHE_MAX", "3 GB")
    home = Home.at(tmp_path / "home")
    BlobStore(home.blobs).write(bytes(1234))
    source(home, 4000)
    assert run(["cache", "info", "--home", str(home.root), "--json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["held"] == {
        "blobs": 1234,
        "partial": 0,
        "shards": 0,
        "sources": 4000,
        "scratch": 0,
    }
    assert (told["total"], told["max"]) == (5234, 3 * 10**9)
    assert told["free"] > 0
    assert run(["cache", "info", "--home", str(home.root)]) == Exit.OK
    text = capsys.readouterr().out
    assert "blobs        1.2 kB" in text and "5.2 kB  of at most 3.0 GB (cache_max)" in text


def test_info_of_a_home_that_does_not_exist_makes_none(tmp_path: Path) -> None:
    assert run(["cache", "info", "--home", str(tmp_path / "none")]) == Exit.OK
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("daemon", [False, True])
def test_prune_takes_blobs_only_while_no_daemon_runs(
    tmp_path: Path, daemon: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.at(tmp_path / "home")
    blobs = BlobStore(home.blobs)
    digest, path = blobs.write(bytes(1234)), source(home, 4000)
    command = ["cache", "prune", "--max", "0 B", "--home", str(home.root)]
    if daemon:
        with home.held():
            assert run(command) == Exit.OK
    else:
        assert run(command) == Exit.OK
    assert (blobs.has(digest), path.exists()) == (daemon, False)
    told = capsys.readouterr()
    assert told.out == (
        "4.0 kB removed, 1.2 kB left\n" if daemon else "5.2 kB removed, 0 bytes left\n"
    )


def test_prune_tells_programs_what_it_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Home.at(tmp_path / "home")
    source(home, 4000)
    command = ["cache", "prune", "--max", "0 B", "--home", str(home.root), "--json"]
    assert run(command) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told == {"home": str(home.root), "removed": 4000, "left": 0, "max": 0}


@pytest.mark.parametrize("size", ["much", "5", "-1 GB"])
def test_a_size_that_is_none_is_named(
    tmp_path: Path, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cache", "prune", f"--max={size}", "--home", str(tmp_path)]
    assert run(command) == Exit.USAGE
    assert "dipaco-node: --max: " in capsys.readouterr().err
