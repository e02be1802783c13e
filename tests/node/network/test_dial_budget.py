"""Rules of this file: pure values, times by hand; a script of dials instead of a network."""

import ipaddress
import itertools

import pytest

from dipaco.node.network import dial_budget
from dipaco.node.network.dial_budget import (
    HOUR,
    PER_IP,
    PER_MINUTE,
    PER_PREFIX,
    DialBudget,
)
from dipaco.protocol.wire.address import Address
from tests.node.network.peers import PEERS

ME, OTHER = PEERS[0], PEERS[1]
PLACE = Address("ip4", "8.8.4.4", 4410)


def at(host: str, port: int = 4410) -> Address:
    return Address("ip6" if ":" in host else "ip4", host, port)


def failures(
    budget: DialBudget, places: list[Address], *, hours: float, known: bool = False
) -> list[float]:
    """Try all places every 20 s under ever new identities; return the times of the dials."""
    names, times = itertools.cycle(PEERS), list[float]()
    for second in range(0, int(hours * HOUR), 20):
        for place in places:
            peer = next(names)
            if budget.wait(peer, place, second, known=known) == 0:
                budget.begin(peer, place, second, known=known)
                times.append(second)
    return times


def test_an_address_is_dialled_ever_more_seldom_whoever_names_it() -> None:
    times = failures(DialBudget(), [PLACE], hours=4)
    assert times[:4] == [0, 60, 300, 1260]
    assert len([time for time in times if time < HOUR]) == 4
    assert len(times) == 7


def test_an_ip_address_is_dialled_a_few_times_an_hour_whatever_its_ports() -> None:
    ports = [at("8.8.4.4", port) for port in range(1, 40)]
    times = failures(DialBudget(), ports, hours=2)
    assert len([time for time in times if time < HOUR]) == 2 * PER_IP - 1
    assert len(times) == 3 * PER_IP - 1


@pytest.mark.parametrize("hosts", ["8.8.4.{}", "2600:1:2:3{:02x}::1"])
def test_a_prefix_is_dialled_a_few_times_an_hour_whatever_its_addresses(hosts: str) -> None:
    places = [at(hosts.format(number)) for number in range(1, 60)]
    times = failures(DialBudget(), places, hours=1)
    assert len(times) == 2 * PER_PREFIX - 1


def test_all_dials_have_their_number_a_minute_and_known_peers_have_their_own() -> None:
    places = [at(f"8.{a}.{b}.1") for a in range(8) for b in range(8)]
    budget = DialBudget()
    assert len(failures(budget, places, hours=1 / 60)) == PER_MINUTE * 5 // 3  # 20, then 6 twice
    assert budget.wait(ME, at("9.9.9.9"), 40) > 0
    assert budget.wait(ME, at("9.9.9.9"), 40, known=True) == 0


def test_a_dial_that_reaches_its_peer_costs_nothing_and_its_address_is_good() -> None:
    budget = DialBudget()
    for number in range(100):
        budget.reached(budget.begin(ME, at("8.8.4.4", 1 + number), 60.0 * number), 60.0 * number)
    place, since = at("8.8.4.4", 100), 6000
    for second in range(since, since + int(HOUR)):
        assert budget.wait(ME, place, second) == 0
        budget.begin(ME, place, second)
    assert budget.wait(OTHER, at("8.8.4.4", 101), since + HOUR) == 0
    budget.begin(ME, place, since + HOUR)  # it has been away for an hour
    assert budget.wait(ME, place, since + HOUR) == 60
    assert budget.wait(ME, place, since + HOUR, known=True) == 0


def test_an_address_is_good_for_the_peer_that_was_reached_alone() -> None:
    budget = DialBudget()
    budget.reached(budget.begin(ME, PLACE, 0), 0)
    budget.begin(OTHER, PLACE, 0)
    assert budget.wait(OTHER, PLACE, 0) == 60
    assert budget.wait(ME, PLACE, 0) == 0


def test_a_third_party_that_answers_is_left_alone() -> None:
    budget = DialBudget()
    budget.missed(budget.begin(ME, PLACE, 0), 0)
    assert budget.wait(OTHER, PLACE, 0) == HOUR
    assert budget.wait(OTHER, at("8.8.4.4", 1), 0) == HOUR / PER_IP
    assert budget.wait(OTHER, at("8.8.4.5"), 0) == 0
    budget.missed(budget.begin(ME, at("8.8.4.5"), 0), 0)
    assert budget.wait(OTHER, at("8.8.4.6"), 0) == HOUR / PER_PREFIX


def test_an_address_at_which_somebody_else_lives_now_is_good_no_more() -> None:
    budget = DialBudget()
    budget.reached(budget.begin(ME, PLACE, 0), 0)
    budget.missed(budget.begin(ME, PLACE, 1), 1)
    assert budget.wait(ME, PLACE, 1) == HOUR


def test_a_peer_that_came_from_an_ip_address_may_name_many_ports_there() -> None:
    budget = DialBudget()
    budget.seen(ME, "8.8.4.4")
    for port in range(1, 9):
        assert budget.wait(ME, at("8.8.4.4", port), 0) == 0
        budget.begin(ME, at("8.8.4.4", port), 0)
    assert budget.wait(ME, at("8.8.4.4", 1), 0) == 60
    assert budget.wait(OTHER, at("8.8.4.4", 9), 0) == 0  # that cost the address nothing


def test_exempt_networks_are_counted_by_address_and_port_alone() -> None:
    budget = DialBudget((ipaddress.ip_network("127.0.0.0/8"),))
    times = failures(budget, [at("127.0.0.1", port) for port in range(1, 11)], hours=1 / 60)
    assert times == [0] * 10


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_budget, "MAX_PLACES", 5)
    monkeypatch.setattr(dial_budget, "MAX_GOOD", 5)
    budget = DialBudget()
    for number in range(20):
        budget.reached(budget.begin(ME, at(f"8.9.{number}.1"), 0), 0)
        budget.seen(PEERS[number], "9.9.9.9")
    for number in range(20):
        budget.begin(ME, at(f"8.8.{number}.1"), 0)
    assert [len(table) for table in (budget._pauses, budget._reached, budget._seen)] == [5, 5, 5]
