"""Rules of this file: nothing is measured; what decides a mark and what is documented is held."""

import re
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.measure import Result, in_new_process, passed, versus

DOC = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@pytest.mark.parametrize(
    ("ratio", "better", "verdict"),
    [(0.9, "higher", True), (0.8, "higher", False), (0.8, "lower", True), (0.9, "lower", False)],
)
def test_a_mark_is_kept_from_its_good_side(ratio: float, better: str, verdict: bool) -> None:
    result: Result = versus("ours against theirs", [ratio], [1.0], "of one")
    assert passed(result) is None
    result["mark"], result["better"] = 0.85, better  # type: ignore[typeddict-item]
    assert passed(result) is verdict


def test_the_middle_of_the_samples_counts() -> None:
    result = versus("ours against theirs", [9.0, 2.0, 3.0], [1.0, 2.0, 100.0], "s")
    assert (result["ours"], result["peer"], result["ratio"]) == (3.0, 2.0, 1.5)


def test_a_call_in_a_new_process_gives_its_value_back() -> None:
    given = in_new_process("measure", "versus", "name", [4.0], [2.0], "s")
    assert given == versus("name", [4.0], [2.0], "s")


def test_every_benchmark_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", DOC.read_text(), re.M))
    assert set(NAMES) <= explained
