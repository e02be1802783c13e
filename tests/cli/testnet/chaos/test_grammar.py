"""Rules of this file: pure; every refusal is a line of tests/cli/test_command_lines.py."""

import pytest

from dipaco.cli.testnet.chaos.grammar import Order, parse_order, parse_span
from dipaco.protocol.errors import ConfigError


def test_who_is_a_number_of_volunteers_a_role_or_a_name() -> None:
    kill = parse_order("kill", "3")
    assert (kill.who, kill.count, kill.seconds, kill.for_good) == ("", 3, None, True)
    assert parse_order("kill", "node-7").who == "node-7"
    assert parse_order("kill", "keeper").who == "keeper"


def test_a_fault_that_ends_has_a_length_of_its_own() -> None:
    assert parse_order("freeze", "1").seconds == 20.0
    assert parse_order("freeze", "1:90s").seconds == 90.0
    restart = parse_order("restart", "scheduler:2.5s")
    assert (restart.who, restart.seconds, restart.for_good) == ("scheduler", 2.5, False)
    assert parse_order("restart", "1").seconds == 5.0


def test_a_node_that_leaves_comes_back_only_if_a_time_is_given() -> None:
    assert parse_order("leave", "1").for_good
    assert not parse_order("leave", "1:5s").for_good


def test_a_partition_cuts_a_half_off_or_some_nodes_in_one_direction() -> None:
    def read(value: str) -> tuple[str, int, float | None, str]:
        order: Order = parse_order("partition", value)
        return order.who, order.count, order.seconds, order.way

    assert read("60s") == ("half", 1, 60.0, "both")
    assert read("2:1min") == ("", 2, 60.0, "both")
    assert read("scheduler:5s:in") == ("scheduler", 1, 5.0, "in")
    assert read("5s:out") == ("half", 1, 5.0, "out")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("20s", 20.0), ("1.5 min", 90.0), ("24h", 86400.0)]
)
def test_a_time_has_its_unit(text: str, seconds: float) -> None:
    assert parse_span(text, "--every") == seconds


@pytest.mark.parametrize("text", ["0s", "25h", "-1s", "1e3s", "s", ""])
def test_a_time_of_nothing_or_of_more_than_a_day_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--every"):
        parse_span(text, "--every")
