"""What doctor makes of the words of peers: values of the test."""

import pytest

from dipaco.node.doctor.outside import judged
from dipaco.node.seen import OutsideView, SeenFrom
from dipaco.protocol.wire.messages import PortState
from tests.values import peer

HOME = "203.0.113.7"


def view(*offsets: float, ports: tuple[PortState, ...] = ()) -> OutsideView:
    states = [*ports, *["not-dialled"] * len(offsets)]
    return OutsideView(
        port=4410,
        answers=tuple(
            SeenFrom(
                peer=peer(f"p{number}"),
                offset_s=offset,
                round_trip_s=0.1,
                observed=HOME,
                port=states[number],  # type: ignore[arg-type]
            )
            for number, offset in enumerate(offsets)
        ),
    )


@pytest.mark.parametrize(
    ("offsets", "verdict", "words"),
    [
        ((0.2, -0.3, 4.0), "ok", "this clock agrees with theirs within 5 s, median of 3 peers"),
        ((90.0, 91.0, 0.0), "warn", "this clock is 1 min 30 s behind theirs, median of 3 peers"),
        ((-90.0,), "warn", "this clock is 1 min 30 s ahead of theirs, median of 1 peer"),
        ((0.0, 1.0, 9e12), "ok", "this clock agrees with theirs within 5 s, median of 3 peers"),
        ((), "warn", "no peer told the time"),
    ],
)
def test_the_clock_is_held_against_the_median_of_peers(
    offsets: tuple[float, ...], verdict: str, words: str
) -> None:
    clock, _ = judged(view(*offsets), rendezvous=False)
    assert clock.verdict == verdict and clock.words.startswith(words)
    assert ("theirs may be wrong" in clock.words) == (len(offsets) == 1)
    assert bool(clock.cure) == (verdict != "ok")


@pytest.mark.parametrize(
    ("ports", "of_volunteer", "of_rendezvous", "words"),
    [
        (("closed", "answers"), "ok", "ok", f"a peer reached port 4410 of {HOME}"),
        (("closed", "not-dialled"), "warn", "fail", f"no answer at port 4410 of {HOME}"),
        (("open", "closed"), "warn", "fail", f"another program answers at port 4410 of {HOME}"),
        (("not-dialled",), "ok", "warn", "no peer tried a port"),
    ],
)
def test_a_closed_port_is_a_fault_only_of_a_node_that_others_have_to_reach(
    ports: tuple[PortState, ...], of_volunteer: str, of_rendezvous: str, words: str
) -> None:
    for rendezvous, verdict in ((False, of_volunteer), (True, of_rendezvous)):
        _, reach = judged(view(0.0, 0.0, ports=ports), rendezvous=rendezvous)
        assert reach.verdict == verdict and reach.words.startswith(words)
        assert bool(reach.cure) == (verdict != "ok")
