"""sd_notify: a real socket in the place of systemd's."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.node.service_state import ServiceManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def test_states_reach_the_manager_and_children_do_not_learn_its_address(
    manager: socket.socket,
) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "PATH": "/bin"}
    service = ServiceManager(environ)
    assert service.is_there and environ == {"PATH": "/bin"}
    service.ready()
    service.status("paused: outside\nmon-fri 18:00-08:00")
    service.stopping()
    told = [manager.recv(4096).decode() for _ in range(3)]
    assert told == ["READY=1", "STATUS=paused: outside mon-fri 18:00-08:00", "STOPPING=1"]


def test_without_a_manager_nobody_is_told() -> None:
    service = ServiceManager({})
    assert not service.is_there
    service.ready()


def test_a_manager_that_is_gone_or_reads_nothing_stops_no_node(
    manager: socket.socket, tmp_path: Path
) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    for _ in range(2000):  # far more than its queue holds
        service.status("x" * 900)
    (tmp_path / "notify").unlink()
    service.stopping()


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="abstract sockets are Linux's")
def test_an_abstract_socket_is_found() -> None:
    name = f"dipaco-test-{id(object())}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listening.recv(100) == b"READY=1"
