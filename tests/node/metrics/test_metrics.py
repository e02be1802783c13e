"""Rules of this file: what Prometheus reads is parsed by its own client, over streams in memory."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from urllib.request import urlopen

import pytest
import trio
from msgspec.structs import force_setattr, replace
from prometheus_client.parser import text_string_to_metric_families

from dipaco.node.api.access import Access
from dipaco.node.api.clients import Clients
from dipaco.node.metrics.exposition import CONTENT_TYPE, exposition
from dipaco.node.metrics.families import MAX_RUNS, METRICS, RUN_DIGITS
from dipaco.node.metrics.server import SEATS, route_of, serve_metrics
from dipaco.node.status.document import BlobKind, DeviceStatus, Status
from tests.node.api.fake_node import RUN, FakeNode, status, task
from tests.node.api.talk import Port

UNITS = ("bytes", "seconds", "nats", "celsius", "per_second", "tokens", "info")
COUNTS = {"dipaco_peers", "dipaco_tasks", "dipaco_state", "dipaco_reason"}
"""Figures without a unit, besides those of a run."""


def full() -> Status:
    """Return a status of which every metric has something to tell."""
    plain = status(work=task())
    blobs = replace(plain.network.blobs, kinds=(BlobKind(kind="state", received=7),))
    net = replace(plain.network, blobs=blobs, max_up=500_000, today=30, daily_quota=5 * 10**9)
    device = DeviceStatus(text="a card", celsius=71.0, max_celsius=83)
    return replace(plain, network=net, device=device)


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels."""
    families = text_string_to_metric_families(text.decode())
    found = [sample for family in families for sample in family.samples]
    values = {(each.name, frozenset(each.labels.items())): each.value for each in found}
    assert len(values) == len(found)
    return values


def value(text: bytes, name: str, labels: Mapping[str, str] | None = None) -> float:
    return read(text)[name, frozenset((labels or {}).items())]


def test_each_metric_tells_what_the_status_has() -> None:
    text = exposition(full())
    assert {name for name, _ in read(text)} == {metric.sample for metric in METRICS}
    assert value(text, "dipaco_state", {"state": "training"}) == 1
    assert value(text, "dipaco_state", {"state": "paused"}) == 0
    assert value(text, "dipaco_tasks_total", {"outcome": "accepted"}) == 3
    assert value(text, "dipaco_trained_tokens_total") == 38_400
    assert value(text, "dipaco_cap_bytes_per_second", {"direction": "up"}) == 500_000
    assert value(text, "dipaco_run_paths", {"run": RUN[:RUN_DIGITS], "state": "leased"}) == 1
    assert value(text, "dipaco_run_router_verified", {"run": RUN[:RUN_DIGITS]}) == 1
    assert value(text, "dipaco_resident_memory_bytes", {"process": "daemon"}) == 120_000_000


def test_what_is_not_known_is_missing_and_not_nought() -> None:
    unmeasured = replace(status().cache, measured=None)
    names = {name for name, _ in read(exposition(replace(status(), cache=unmeasured, runs=())))}
    missing = {metric.sample for metric in METRICS} - names
    assert missing == {
        "dipaco_blob_received_bytes_total",
        "dipaco_cap_bytes_per_second",
        "dipaco_daily_quota_bytes",
        "dipaco_task_tokens_per_second",
        "dipaco_task_loss_nats",
        "dipaco_device_temperature_celsius",
        "dipaco_cache_bytes",
        *(metric.sample for metric in METRICS if metric.name.startswith("dipaco_run_")),
    }


def test_names_have_their_unit_last_and_help_ends_with_a_full_stop() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("dipaco_") and metric.help.endswith(".")
        if metric.name not in COUNTS and not metric.name.startswith("dipaco_run_"):
            assert metric.name.endswith(UNITS), metric.name


def test_no_text_of_a_peer_becomes_a_label_and_runs_are_bounded() -> None:
    evil = 'x"} 1\ndipaco_evil 1 # \x1b[2J'
    block = status().runs[0]
    runs = [replace(block, id=f"{number:064x}"[::-1]) for number in range(100)]
    for run in runs:
        force_setattr(run, "name", evil)
        force_setattr(run, "stage", evil)
    reason = replace(status().reason, text=evil)
    peers = tuple(replace(status().peers[0], address=evil) for _ in range(9))
    text = exposition(replace(full(), runs=tuple(runs), reasons=(reason,), peers=peers))
    assert b"evil" not in text and b"\x1b" not in text
    seen = {labels for name, labels in read(text) if name == "dipaco_run_round"}
    assert len(seen) == MAX_RUNS


@pytest.fixture
async def port(nursery: trio.Nursery) -> AsyncIterator[Port]:
    port = Port(nursery, clients=Clients(SEATS))
    port.access, port.route = Access(None), route_of
    yield port


async def test_a_scrape_needs_no_token_and_gets_text(port: Port) -> None:
    answer = await port.ask("GET", "/metrics", "Host: localhost:7398")
    assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
    assert value(answer.body, "dipaco_peers") == 1


@pytest.mark.parametrize(
    ("target", "headers", "code"),
    [
        ("/metrics", ("Host: evil.example",), 421),
        ("/metrics", ("Host: localhost", "Origin: http://evil.example"), 403),
        ("/", ("Host: localhost",), 404),
        ("/v1/status", ("Host: localhost",), 404),
        ("/v1/stop", ("Host: localhost",), 404),
    ],
)
async def test_foreign_pages_and_other_targets_are_refused(
    port: Port, target: str, headers: tuple[str, ...], code: int
) -> None:
    assert (await port.ask("GET", target, *headers)).status == code


async def test_nothing_can_be_ordered(port: Port) -> None:
    assert (await port.ask("POST", "/metrics", "Host: localhost")).status == 405
    assert port.node.stops == []


async def test_a_real_port_is_read_and_one_that_is_taken_costs_a_warning(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    url = await nursery.start(partial(serve_metrics, "127.0.0.1:0", FakeNode()))

    def scrape() -> bytes:
        with urlopen(url, timeout=60) as answer:
            body: bytes = answer.read()
        return body

    assert value(await trio.to_thread.run_sync(scrape), "dipaco_uptime_seconds") == 3725
    taken = url.removeprefix("http://").removesuffix("/metrics")
    assert await nursery.start(partial(serve_metrics, taken, FakeNode())) == ""
    assert f"no metrics at {taken}: " in caplog.text and "metrics.listen" in caplog.text
