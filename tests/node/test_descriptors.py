"""Rules of this file: the limit of this process is set, and put back."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from dipaco.node.api.clients import MAX_CLIENTS
from dipaco.node.descriptors import (
    FEWEST,
    LEAST,
    WANTED,
    clients,
    connections,
    raise_limit,
    shortage,
)
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.network.host import ENDING, open_host
from dipaco.node.storage.journal import Journal
from dipaco.protocol.wire.address import Address
from tests.values import key

LOW = 256  # the limit of macOS, where nothing raises it
OWN = 32  # for the journal and its log, blobs, pipes of two workers, sockets that listen
CROWD = 300  # connections of strangers


@pytest.fixture(autouse=True)
def limit_as_it_was() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_is_raised_and_a_high_one_is_kept() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_limit() == WANTED == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED + 1, hard))
    assert raise_limit() == WANTED + 1


def test_a_limit_below_what_a_node_needs_is_told_with_its_cure() -> None:
    assert shortage(LEAST) is None
    assert "only 511 files may be open" in str(shortage(LEAST - 1))
    assert "ulimit -n" in str(shortage(LEAST - 1))


@pytest.mark.parametrize("limit", [LOW, 300, LEAST - 1, LEAST, 1024, WANTED])
def test_a_full_node_has_files_left_for_its_own_work(limit: int) -> None:
    most = connections(limit, MOST_CONNECTIONS)
    assert most + ENDING + 2 * clients(limit, MAX_CLIENTS) + OWN <= limit


def test_a_limit_that_is_enough_costs_no_connection() -> None:
    assert connections(LEAST, MOST_CONNECTIONS) == MOST_CONNECTIONS
    assert connections(32, MOST_CONNECTIONS) == FEWEST


def test_a_hundred_clients_need_no_more_than_the_usual_limit() -> None:
    assert clients(WANTED, MAX_CLIENTS) == MAX_CLIENTS >= 100
    assert clients(32, MAX_CLIENTS) == FEWEST


async def test_a_crowd_of_strangers_leaves_the_journal_and_a_worker_their_files(
    tmp_path: Path,
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    listen = (Address("ip4", "127.0.0.1", 0),)
    with ExitStack() as strangers:
        crowd = [strangers.enter_context(trio.socket.socket()) for _ in range(CROWD)]
        last = crowd[-1].fileno()  # the files below it are of this test
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + LOW, hard))
        most = connections(LOW, MOST_CONNECTIONS)
        async with open_host(key("full"), listen=listen, most=most) as node:
            (place,) = [each for each in node.addresses if each.host == "127.0.0.1"]
            for each in crowd:
                await each.connect(("127.0.0.1", place.port))
            await trio.testing.wait_all_tasks_blocked(0.05)
            journal = Journal.open(tmp_path / "journal.sqlite")
            journal.close()
            worker = await trio.run_process([sys.executable, "-S", "-c", ""], capture_stdout=True)
            assert worker.returncode == 0
            with ExitStack() as own:
                for _ in range(OWN):
                    own.callback(os.close, os.dup(0))
