"""Each check with what is right and what is wrong; sockets and files are real."""

import socket
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.config import NodeConfig, NodeSection
from dipaco.node.doctor.checks import (
    DAY,
    bootstrap,
    checks,
    clock,
    descriptors,
    device,
    disk,
    home,
    libraries,
    port,
    python,
    ram,
    source,
)
from dipaco.node.jobs.values import Described, Failed
from dipaco.node.storage.files import Home
from dipaco.protocol.run.source import Source, SourceFile
from dipaco.protocol.wire.address import Address
from tests.node.training.small import small_manifest
from tests.values import digest

GB = 10**9
GPU = Described(device="cuda:0", name="Card 9", driver="CUDA 13.0", memory=8 * GB, usable=7 * GB)
CPU = Described(device="cpu", name="Chip, 2 cores", driver="", memory=8 * GB, usable=7 * GB)


def test_what_is_not_ok_comes_with_a_cure(tmp_path: Path) -> None:
    config = NodeConfig(
        home=tmp_path, node=NodeSection(listen=(Address.parse("/ip4/127.0.0.1/tcp/0"),))
    )
    found = list(checks(config, daemon=None))
    linux = ("shm", "home disk", "driver") if sys.platform == "linux" else ()
    assert [c.name for c in found] == [
        *("python", "libraries", "home", "disk", "memory", "cpu", "granted", *linux),
        *("clock", "files", "port", "nat", "peers"),
    ]
    assert all(bool(c.cure) == (c.verdict != "ok") for c in found)
    assert not list(tmp_path.iterdir())


def test_python_and_the_libraries_that_run_this_are_good() -> None:
    assert python((3, 11)).verdict == "ok" and python((3, 10)).verdict == "fail"
    found = libraries()
    assert found.verdict == "ok" and "libp2p 0.8.1" in found.words and "torch " in found.words


def test_a_home_is_usable_now_or_can_be_made(tmp_path: Path) -> None:
    assert home(tmp_path, None).words == str(tmp_path)
    assert home(tmp_path / "a" / "b", None).words.endswith("made at the first start")
    assert "process 7" in home(tmp_path, 7).words
    (tmp_path / "file").write_text("")
    wrong = home(tmp_path / "file" / "home", None)
    assert wrong.verdict == "fail" and str(tmp_path / "file") in wrong.cure


@pytest.mark.parametrize(("free", "verdict"), [(11 * GB, "ok"), (4 * GB, "warn"), (GB - 1, "fail")])
def test_the_disk_is_compared_with_the_configuration(free: int, verdict: str) -> None:
    assert disk(free, GB, 10 * GB).verdict == verdict


def test_few_descriptors_are_a_warning() -> None:
    assert descriptors(4096).verdict == "ok"
    few = descriptors(256)
    assert few.verdict == "warn" and "only 256 files" in few.words and "ulimit -n" in few.cure


def test_little_memory_is_a_warning() -> None:
    assert ram(8 * GB, 4 * GB).verdict == "ok" and ram(8 * GB, GB // 2).verdict == "warn"


def test_a_clock_that_went_back_is_noticed() -> None:
    assert clock(10 * DAY, 9 * DAY, 9 * DAY).verdict == "ok"
    assert clock(10 * DAY, 12 * DAY, 0.0).verdict == "fail"
    behind = clock(10 * DAY, 9 * DAY, 10 * DAY + 300)
    assert behind.verdict == "warn" and "5 min before this home was last written" in behind.words


@pytest.mark.parametrize(("kind", "host"), [("ip4", "127.0.0.1"), ("ip6", "::1")])
def test_a_port_is_tried(kind: str, host: str) -> None:
    family = socket.AF_INET if kind == "ip4" else socket.AF_INET6
    with socket.create_server((host, 0), family=family) as taken:
        address = Address(kind, host, taken.getsockname()[1])
        assert port(address, None).verdict == "fail" and "in use" in port(address, None).words
        assert port(address, 7).verdict == "ok"  # by the daemon, which is this node's own
    assert port(address, None).verdict == "ok"


def test_somebody_must_be_dialled_unless_a_network_is_founded(tmp_path: Path) -> None:
    alone = NodeConfig(home=tmp_path)
    founder = NodeConfig(home=tmp_path, node=NodeSection(rendezvous=True))
    seed = Address.parse("/ip4/127.0.0.1/tcp/1/p2p/12D3KooW" + "A" * 44)
    joins = NodeConfig(home=tmp_path, node=NodeSection(bootstrap=(seed,)))
    verdicts = [bootstrap(each).verdict for each in (alone, founder, joins)]
    assert verdicts == ["warn", "ok", "ok"]


def test_a_source_of_local_files_is_looked_for(tmp_path: Path) -> None:
    name = tmp_path / "a.txt"
    named = SourceFile(name=str(name), size=1, sha256=digest("a"), rows=400)
    files = Source(kind="files", revision="1", files=(named,), documents=400, window=400)
    run = small_manifest(source=files)
    assert "run.local_sources" in source(run, local_sources=False).cure
    assert "first " + str(name) in source(run, local_sources=True).words
    name.write_text("a")
    assert source(run, local_sources=True).verdict == "ok"
    assert source(small_manifest(), local_sources=False).verdict == "ok"


def test_a_source_at_addresses_is_no_source_of_this_machine() -> None:
    named = SourceFile(name="https://example.org/a.txt", size=1, sha256=digest("a"), rows=400)
    files = Source(kind="files", revision="1", files=(named,), documents=400, window=400)
    found = source(small_manifest(source=files), local_sources=False)
    assert (found.verdict, found.words) == ("ok", "1 file at https addresses, not tried here")
    inside = replace(files, files=(replace(named, name="https://10.0.0.1/a.txt"),))
    refused = source(small_manifest(source=inside), local_sources=False)
    assert refused.verdict == "fail" and "own network" in refused.words
    assert source(small_manifest(source=inside), local_sources=True).verdict == "ok"


def test_a_cpu_that_nobody_asked_for_is_a_warning_and_a_missing_device_fails() -> None:
    assert device(GPU, "auto").words == "cuda:0: Card 9, CUDA 13.0, 8.0 GB"
    assert device(GPU, "auto").verdict == device(CPU, "cpu").verdict == "ok"
    assert device(CPU, "auto").verdict == "warn"
    missing = device(Failed(kind="device", reason="device cuda:0: none"), "cuda:0")
    assert (missing.verdict, missing.words) == ("fail", "device cuda:0: none")


def test_the_journal_of_a_home_is_what_the_clock_is_held_against(tmp_path: Path) -> None:
    journal = Home.at(tmp_path / "home").journal
    journal.write_bytes(b"")
    config = NodeConfig(home=tmp_path / "home")
    (found,) = (c for c in checks(config, daemon=1) if c.name == "clock")
    assert found.verdict == "ok"
