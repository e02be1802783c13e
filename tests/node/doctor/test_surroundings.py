"""Disks, drivers and lines as the system shows them, in files of ours; sockets are real."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dipaco.node.doctor.surroundings import (
    driver,
    file_system,
    nat,
    own_addresses,
    seed,
)
from dipaco.node.network.outside import GREETING
from dipaco.protocol.wire.address import Address
from tests.values import peer

MOUNTS = """rootfs / ext4 rw 0 0
server:/home /mnt/my\\040home nfs4 rw 0 0
tmpfs /mnt tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "words", "verdict"),
    [
        ("/mnt/my home/node", "nfs4 on /mnt/my home", "warn"),
        ("/mnt/other", "tmpfs on /mnt", "ok"),
        ("/srv/node", "ext4 on /", "ok"),
    ],
)
def test_a_home_on_the_network_is_told_by_its_longest_mount(
    tmp_path: Path, folder: str, words: str, verdict: str
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    found = file_system(Path(folder), tmp_path / "mounts")
    assert (found.words, found.verdict) == (words, verdict)
    assert file_system(Path(folder), tmp_path / "none").verdict == "ok"


def card(folder: Path, name: str, kind: str, vendor: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "class").write_text(f"{kind}\n")
    (folder / name / "vendor").write_text(f"{vendor}\n")


def test_a_gpu_without_its_driver_is_told(tmp_path: Path) -> None:
    devices, nvidia = tmp_path / "devices", tmp_path / "version"
    assert driver(devices, nvidia, tmp_path / "kfd").words == "no GPU"
    card(devices, "0", "0x020000", "0x10de")  # a network card
    card(devices, "1", "0x030000", "0x8086")  # a display that does not compute here
    assert driver(devices, nvidia, tmp_path / "kfd").words == "no GPU"
    card(devices, "2", "0x030200", "0x10de")
    missing = driver(devices, nvidia, tmp_path / "kfd")
    assert missing.verdict == "warn" and missing.words == "a GPU of NVIDIA without its driver"
    nvidia.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 23\n")
    assert driver(devices, nvidia, tmp_path / "kfd").words == "NVIDIA 570.86.10"


@pytest.mark.parametrize(
    ("addresses", "words", "verdict"),
    [
        (["127.0.0.1", "192.168.0.9", "fe80::1"], "behind a NAT", "ok"),
        (["127.0.0.1", "100.64.3.4", "192.168.0.9"], "the NAT of a provider", "warn"),
        (["127.0.0.1", "8.8.4.4"], "none: 8.8.4.4", "ok"),
        (["127.0.0.1", "::1"], "no network", "warn"),
    ],
)
def test_the_kind_of_nat_follows_from_the_addresses(
    addresses: list[str], words: str, verdict: str
) -> None:
    found = nat(addresses)
    assert words in found.words and found.verdict == verdict
    assert bool(found.cure) == (verdict != "ok")


def test_this_machines_addresses_are_addresses() -> None:
    assert nat(own_addresses()).name == "nat"


@contextmanager
def listening(answer: bytes) -> Iterator[Address]:
    """Listen on loopback, and answer the first client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(len(GREETING))
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield address(server.getsockname()[1])
        thread.join()


def address(port: int) -> Address:
    return Address.parse(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer('seed')}")


def test_a_seed_answers_as_libp2p_does_or_is_another_server() -> None:
    with listening(GREETING) as there:
        found = seed(there)
    assert found.verdict == "ok" and found.words.startswith(f"127.0.0.1:{there.port}, ")
    with listening(b"<!DOCTYPE HTML>") as there:
        found = seed(there)
    assert found.verdict == "fail" and found.words.endswith("no libp2p node answers there")


def test_a_seed_that_refuses_or_is_silent_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = seed(address(server.getsockname()[1]), timeout=0.05)
    assert silent.verdict == "warn" and "timed out" in silent.words
    assert "connection refused" in seed(address(9)).words
