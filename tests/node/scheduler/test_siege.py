"""256 identities of one prefix against four honest volunteers: six minutes of each attack."""

import pytest

from tests.node.scheduler.siege import ATTACKS, EVIL, NEAR, Attack, Siege

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
