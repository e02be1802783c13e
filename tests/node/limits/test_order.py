"""The orders of a person: a real file in a temporary home, the clock is a number of the test."""

import logging
from datetime import UTC
from pathlib import Path

import pytest

from dipaco.node.limits.order import FILE, GpuLimit, OrderLimit, Orders
from dipaco.node.limits.values import Closed, Observed, Order

NOON = 1_795_867_200.0  # 2026-11-28 12:00 UTC


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


def closed(orders: Orders, now: float = NOON) -> Closed | None:
    return OrderLimit(UTC).closed(Observed(order=orders.order), now, before=False)


def test_a_pause_outlives_a_restart_until_it_is_taken_back(tmp_path: Path) -> None:
    orders = Orders(tmp_path, clock=Clock())
    assert closed(orders) is None
    orders.pause()
    again = Orders(tmp_path, clock=Clock())
    found = closed(again, NOON + 5 * 86400)
    assert found and (found.code, found.by, found.since) == ("user", "you", NOON)
    assert str(found) == "paused by you, Sat 12:00; to go on: dipaco-node resume"
    again.resume()
    assert closed(again) is None and closed(Orders(tmp_path)) is None


def test_a_pause_until_a_time_ends_by_itself(tmp_path: Path) -> None:
    orders = Orders(tmp_path, clock=Clock())
    orders.pause(NOON + 3600)
    found = closed(orders, NOON + 3599)
    assert found and (found.code, found.until) == ("user-until", NOON + 3600)
    assert str(found) == "paused by you until 13:00; to go on before: dipaco-node resume"
    assert closed(orders, NOON + 3600) is None


def test_a_gpu_that_is_off_stays_so_over_restarts_and_other_orders_until_resume(
    tmp_path: Path,
) -> None:
    def off(device: str) -> Closed | None:
        seen = Observed(order=Orders(tmp_path, clock=Clock()).order, device=device)
        return GpuLimit().closed(seen, NOON, before=False)

    orders = Orders(tmp_path, clock=Clock())
    orders.switch_gpu(1, on=False)
    found = off("cuda:1")
    assert found and (found.code, found.by) == ("gpu-off", "you")
    assert str(found) == "cuda:1 is off; to go on: dipaco-node resume --gpu 1"
    assert off("cuda:0") is None and off("cuda") is None and off("cpu") is None
    orders.pause()
    orders.finish()
    assert off("cuda:1") is not None and closed(orders) is not None
    orders.switch_gpu(1, on=True)
    assert off("cuda:1") is None and closed(orders) is not None
    orders.switch_gpu(0, on=False)
    assert off("cuda") is not None and closed(orders) is not None
    orders.resume()
    assert off("cuda") is None and closed(orders) is None


def test_finish_lets_the_lease_end_and_then_pauses_for_good(tmp_path: Path) -> None:
    orders, held = Orders(tmp_path, clock=Clock()), ["a lease"]
    orders.holds_lease = lambda: bool(held)
    assert orders.finish().mode == "finishing" and orders.finishing
    assert closed(orders) is None
    held.clear()
    found = closed(orders)
    assert found and found.code == "finished" and not orders.finishing
    assert closed(Orders(tmp_path)) is not None


def test_finish_without_a_lease_pauses_at_once_and_keeps_an_earlier_pause(tmp_path: Path) -> None:
    orders = Orders(tmp_path, clock=Clock())
    assert orders.finish().mode == "finished"
    orders.pause(NOON + 60)
    assert orders.finish() == Order(mode="user", since=NOON, until=NOON + 60)


def test_finish_is_done_when_the_node_was_ended_meanwhile(tmp_path: Path) -> None:
    orders = Orders(tmp_path, clock=Clock())
    orders.holds_lease = lambda: True
    orders.finish()
    assert Orders(tmp_path, clock=Clock()).order.mode == "finished"


def test_a_toggle_pauses_and_resumes_also_after_a_pause_that_has_ended(tmp_path: Path) -> None:
    clock = Clock()
    orders = Orders(tmp_path, clock=clock)
    assert [orders.toggle().mode for _ in range(3)] == ["user", "runs", "user"]
    orders.pause(NOON + 60)
    clock.now = NOON + 61
    assert orders.toggle().mode == "user" and closed(orders, clock.now) is not None


def test_a_start_that_is_paused_says_so(tmp_path: Path) -> None:
    orders = Orders(tmp_path, clock=Clock())
    orders.start_paused()
    found = closed(orders)
    assert found and found.code == "start-paused" and found.why == "started with --paused"


@pytest.mark.parametrize("spoiled", [b"", b"{", b'{"mode":"asleep"}', b"\xff", b"x" * 2000])
def test_an_order_that_cannot_be_read_leaves_the_machine_alone_and_says_so(
    spoiled: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / FILE).write_bytes(spoiled)
    assert closed(Orders(tmp_path, clock=Clock())) is not None
    assert f"{tmp_path / FILE}" in caplog.text and "dipaco-node resume" in caplog.text


def test_an_order_holds_though_the_disk_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "gone"
    orders = Orders(home, clock=Clock())
    orders.pause()
    assert closed(orders) is not None and "is not kept" in caplog.text
