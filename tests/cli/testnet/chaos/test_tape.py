"""Rules of this file: tapes are drawn and read, never played."""

import pytest

from dipaco.cli.testnet.chaos.grammar import parse_order
from dipaco.cli.testnet.chaos.tape import Fault, NodeNames, plan
from dipaco.protocol.errors import ConfigError

CAST = NodeNames(
    volunteers=("node-1", "node-2", "node-3", "node-4"),
    schedulers=("rendezvous", "scheduler-2"),
    keepers=("keeper-1", "keeper-2", "keeper-3"),
)


def tape(*orders: tuple[str, str], seed: int = 0, every: float | None = 10.0) -> tuple[Fault, ...]:
    read = [parse_order(kind, value) for kind, value in orders]  # type: ignore[arg-type]
    return plan(read, CAST, seed=seed, every=every, faults=40)


def test_one_seed_gives_one_tape_and_another_seed_another() -> None:
    orders = [("restart", "1:3s"), ("freeze", "1:20s"), ("partition", "30s")]
    assert tape(*orders) == tape(*orders)
    assert tape(*orders) != tape(*orders, seed=1)


def test_a_fault_falls_into_each_stretch_of_time_and_every_order_has_its_turn() -> None:
    found = tape(("restart", "node-1:1s"), ("freeze", "node-2:1s"))
    assert [int((fault.at or 0) / 10) for fault in found] == list(range(40))
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert {first.kind, second.kind} == {"restart", "freeze"}


def test_killed_volunteers_are_met_once_and_one_lives() -> None:
    killed = [name for fault in tape(("kill", "1")) for name in fault.targets]
    assert len(killed) == len(set(killed)) == len(CAST.volunteers) - 1


def test_a_node_that_is_away_is_not_met_again_and_one_volunteer_stays_up() -> None:
    away: dict[str, float] = {}
    found = tape(("freeze", "3:35s"), ("restart", "1:25s"), every=5.0)
    assert found
    for fault in found:
        assert fault.at is not None and fault.seconds is not None
        assert all(away.get(name, 0.0) <= fault.at for name in fault.targets)
        away |= dict.fromkeys(fault.targets, fault.at + fault.seconds)
        up = [name for name in CAST.volunteers if away.get(name, 0.0) <= fault.at]
        assert up


def test_a_partition_cuts_half_of_all_nodes_off() -> None:
    sides = {fault.targets for fault in tape(("partition", "5s"))}
    assert len(sides) > 10 and {len(side) for side in sides} == {len(CAST.all) // 2}


def test_newcomers_have_new_names_and_are_met_afterwards() -> None:
    found = tape(("join", "1"), ("kill", "1"))
    joined = [name for fault in found if fault.kind == "join" for name in fault.targets]
    killed = {name for fault in found if fault.kind == "kill" for name in fault.targets}
    assert joined[:2] == ["node-5", "node-6"] and len(set(joined)) == 20
    assert killed & set(joined)


def test_without_a_time_the_faults_come_one_a_round() -> None:
    found = tape(("kill", "2"), ("restart", "scheduler"), every=None)
    assert [fault.round for fault in found] == [1, 2, 3]
    assert sorted((fault.kind, fault.targets) for fault in found) == [
        ("kill", ()),
        ("kill", ()),
        ("restart", ("scheduler",)),
    ]


def test_a_keeper_is_drawn_from_the_keepers() -> None:
    met = {name for fault in tape(("restart", "keeper:1s")) for name in fault.targets}
    assert met == set(CAST.keepers)


def test_a_tape_that_leaves_no_volunteer_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one of 4 volunteers must live"):
        tape(("kill", "3"), ("leave", "1"), every=None)


def test_a_fault_is_printed_with_its_time_its_nodes_and_its_length() -> None:
    [fault, *_] = tape(("partition", "node-2:5s:in"))
    assert (
        str(fault).split() == f"1 {fault.at:.1f} s partition node-2 for 5 s, inward alone".split()
    )
