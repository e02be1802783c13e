"""256 identities of one prefix against four honest volunteers: six minutes of each attack.

Of a new run 32 are there before anybody else, and it is trained to its end.
"""

import pytest

from dipaco.node.scheduler.sharing import BESIDE_TTLS
from tests.node.scheduler.shell import TTL
from tests.node.scheduler.siege import ATTACKS, EVIL, HOUR, NEAR, Attack, Siege

HOURS = 0.1


@pytest.fixture(scope="module")
def undisturbed() -> float:
    return Siege().rounds_per_hour(HOURS)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", [EVIL, NEAR], ids=["other prefix", "same prefix"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_run_keeps_four_fifths_of_its_speed(
    attack: Attack, prefix: str, undisturbed: float
) -> None:
    assert Siege(attack, prefix=prefix).rounds_per_hour(HOURS) >= 0.8 * undisturbed


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_a_new_run_ends_though_strangers_hold_its_first_leases(attack: Attack) -> None:
    alone = Siege(fresh=True, rounds=10).seconds_to_end(HOUR)
    siege = Siege(attack, identities=32, fresh=True, rounds=10)
    waits = 2 * BESIDE_TTLS * TTL  # for the seed model, and for the first round
    assert siege.seconds_to_end(HOUR) <= 1.5 * alone + waits
