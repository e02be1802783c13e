"""Small pieces of text."""

from dipaco.cli.views.text import MAX_NAMED, clock, label, listed


def test_times_of_a_clock() -> None:
    found = [clock(seconds) for seconds in (0.2, 59.6, 125.0, 3599.0, 3725.0)]
    assert found == ["0:00", "1:00", "2:05", "59:59", "1:02:05"]


def test_a_path_is_named_by_its_experts() -> None:
    assert label((0, 1)) == "(0,1)" and label((3,)) == "(3)"


def test_a_long_list_names_the_first_and_counts_the_others() -> None:
    names = [f"m{number}" for number in range(MAX_NAMED + 2)]
    assert listed(names[:2]) == "m0, m1"
    assert listed(names) == "m0, m1, m2, m3, m4, m5, m6, m7, 2 more"
