"""Rules of this file: real files, real locks, real processes; nothing is patched."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dipaco.node.storage.files import (
    MAX_SOCKET_PATH,
    DiskFull,
    Home,
    HomeTaken,
    new_folder,
    probe_space,
    read_file,
    replacing,
    set_aside,
    translated,
    write_file,
)
from dipaco.protocol.errors import ConfigError

FULL = Path("/dev/full")


def test_a_file_is_replaced_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "value"
    write_file(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_for_its_owner_alone_from_the_start(tmp_path: Path) -> None:
    with replacing(tmp_path / "key", mode=0o600) as file:
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    write_file(tmp_path / "value", b"12345")
    assert read_file(tmp_path / "value", limit=5) == b"12345"
    with pytest.raises(ConfigError, match="more than 4 bytes"):
        read_file(tmp_path / "value", limit=4)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/gone: No such file or directory"):
        read_file(tmp_path / "gone", limit=1)


@pytest.mark.skipif(not FULL.exists(), reason="the device is Linux's")
def test_a_full_disk_is_its_own_error() -> None:
    refused = pytest.raises(DiskFull, match="no space left")
    with refused, translated(FULL, "write"), FULL.open("wb") as file:
        file.write(b"anything")
        file.flush()


def test_a_used_up_quota_counts_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), translated(tmp_path, "write"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_new_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "deep" / "home")
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert home.blobs.is_dir() and home.cache.is_dir()
    assert Home.at(home.root) == home


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot use the home .*: Not a directory"):
        Home.at(tmp_path / "file" / "home")


def test_a_home_without_permission_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "home"
    root.mkdir(mode=0o500)
    code = (
        "import os, pathlib, sys\n"
        "from dipaco.node.storage.files import Home\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may do anything: be nobody
        "try: Home.at(pathlib.Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    refused = f"ConfigError cannot use the home {root}: Permission denied"
    assert answer.stdout.startswith(refused) and answer.stdout.count("\n") == 1


def test_a_home_too_long_for_its_socket_is_refused_to_a_daemon_alone(tmp_path: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(tmp_path)) - len("//api.sock")
    with Home.at(tmp_path / ("h" * room)).held():
        pass
    long = Home.at(tmp_path / ("h" * (room + 1)))  # a folder of `compare` has no socket
    with pytest.raises(ConfigError, match="choose a shorter --home"), long.held():
        pass


def test_two_daemons_cannot_hold_one_home(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    taken = pytest.raises(HomeTaken, match=rf"process {os.getpid()}")
    with home.held(), taken, Home.at(tmp_path).held():
        pass
    with home.held():
        pass


def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    code = (
        "import pathlib, sys\n"
        "from dipaco.node.storage.files import Home\n"
        "with Home.at(pathlib.Path(sys.argv[1])).held():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(HomeTaken, match=rf"process {other.pid}"), home.held():
            pass
        other.kill()
    with home.held():
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_missing_room_is_a_full_disk(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFull, match="cannot write"), translated(tmp_path, "write"):
        raise OSError(number, os.strerror(number))


def test_a_probe_finds_room_and_leaves_nothing(tmp_path: Path) -> None:
    assert probe_space(tmp_path) == ""
    assert probe_space(tmp_path / "nowhere") == ""
    assert list(tmp_path.iterdir()) == []


DEAD, ALIVE = 1 << 22, os.getppid()  # Linux gives no process the first number
LEFT = f"{DEAD}-0123abcd.temp"


def test_a_start_removes_what_killed_processes_left_in_every_folder(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    folders = (home.root, home.runs, home.results, home.sources, home.scratch)
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / f"value.{LEFT}").write_bytes(b"half")
        (folder / f".folder.{LEFT}").mkdir()
        (folder / f".folder.{LEFT}" / "file").write_bytes(b"half")
        (folder / f"value.{os.getpid()}-0123abcd.temp").write_bytes(b"of an earlier process")
        (folder / f"value.{ALIVE}-0123abcd.temp").write_bytes(b"at work")
        (folder / "value.temp").write_bytes(b"a person's")
    home.clear_temporary()
    for folder in folders:
        left = {each.name for each in folder.iterdir() if "temp" in each.name}
        assert left == {f"value.{ALIVE}-0123abcd.temp", "value.temp"}


def test_the_names_of_temporary_files_are_those_that_a_start_removes(tmp_path: Path) -> None:
    home, seen = Home.at(tmp_path / "home"), []
    with pytest.raises(RuntimeError), replacing(home.root / "value"):
        seen = [each.name for each in home.root.iterdir() if each.suffix == ".temp"]
        raise RuntimeError
    with pytest.raises(RuntimeError), new_folder(home.root / "folder"):
        seen += [each.name for each in home.root.iterdir() if each.suffix == ".temp"]
        raise RuntimeError
    assert len(seen) == 2
    for name in seen:
        (home.root / name).write_bytes(b"half")  # as if this process had been killed there
    home.clear_temporary()
    assert not list(home.root.glob("*.temp"))


@pytest.mark.parametrize("name", ["blobs", "cache"])
def test_a_file_in_place_of_a_folder_of_the_home_is_named(tmp_path: Path, name: str) -> None:
    home = Home.at(tmp_path / "home")
    (home.root / name).rmdir()
    (home.root / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"home: .*/{name} is a file, not a folder: move it"):
        Home.at(tmp_path / "home")


def test_what_is_set_aside_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "value"
    for text in (b"first", b"second"):
        path.write_bytes(text)
        assert set_aside(path) == tmp_path / "value.damaged"
        assert not path.exists()
    assert (tmp_path / "value.damaged").read_bytes() == b"second"
    assert set_aside(path) is None
