"""Rules of this file: nothing is measured; what decides a mark and what is documented is held."""

import re
from pathlib import Path

import pytest

from benchmarks import gpu, lines, loops, round
from benchmarks.__main__ import NAMES
from benchmarks.measure import Result, in_new_process, in_turns, passed, versus

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


def test_samples_are_taken_in_turns_and_each_is_told_before_it_begins(
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = {"ours": ("measure", "versus", "a", [1.0], [1.0], "s"), "peer": ("measure", "peak_rss")}
    found = in_turns("made up", 2, calls)
    assert [each["name"] for each in found["ours"]] == ["a", "a"]
    assert len(found["peer"]) == 2 and min(found["peer"]) > 0
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    assert first == "made up: sample 1 of 4: ours"
    assert re.fullmatch(r"made up: sample 2 of 4: peer, about [0-9. minh]+ (s|min|h) left", second)
    assert third.startswith("made up: sample 3 of 4: ours, about ")
    assert fourth.startswith("made up: sample 4 of 4: peer, about ")


def test_every_benchmark_is_explained() -> None:
    explained = set(re.findall(r"^\| `([a-z_]+)` \|", DOC.read_text(), re.M))
    assert set(NAMES) <= explained


def test_the_gpu_benchmark_runs_on_a_tiny_shape_without_a_gpu() -> None:
    sample = loops.ours("tiny", "cpu", "bf16", {})
    assert sample["rate"] > 0 and sample["peak"] > 0


def test_the_gpu_benchmarks_model_is_the_papers_path() -> None:
    run = loops.run_of(gpu.SHAPE, "bf16")
    assert 140e6 < loops.parameters(run) < 160e6
    attention = 12 * 12 * 896 * 1024
    assert gpu.flops_per_token(gpu.SHAPE) == 6 * loops.parameters(run) + attention
    assert gpu._peak_of("NVIDIA H100 PCIe") < gpu._peak_of("NVIDIA H100 80GB HBM3")
    assert gpu._peak_of("an unknown card") == 0


def test_a_line_that_cannot_carry_a_lease_sets_the_pace_and_others_wait_for_its_results() -> None:
    parts = lines.Parts(step=1.0, tokens=100, work=2.0, up=10, moments=980, down=20)
    assert parts.period(50.0, 10.0) == 99.0  # 990 bytes up
    assert parts.period(50.0, 1000.0) == pytest.approx(52.03)
    assert parts.idle(50.0, 10.0) == pytest.approx(100 * 49 / 99)
    assert parts.bytes_per_token(50.0) == pytest.approx(1010 / 5000)
    for rate in (10.0, 1000.0):
        assert parts.idle(parts.lease_for(5, rate), rate) == pytest.approx(5.0)


def test_a_round_is_cut_from_the_logs_and_its_parts_add_up() -> None:
    volunteer = [
        (10.0, "stage fetch seconds=2.000"),
        (75.0, "stage train seconds=64.500"),
        (76.0, "stage submit seconds=1.000"),
        (76.0, "task 3 train path=0 round=2 seconds=62.0 tokens/s=100 loss=3.000 accepted"),
        (77.0, "stage ahead seconds=0.500"),
        (77.1, "stage fetch seconds=0.100"),
        (79.1, "stage evaluate seconds=2.000"),
        (79.2, "stage submit seconds=0.100"),
        (83.0, "stage fetch seconds=1.000"),
        (150.0, "stage train seconds=65.000"),
        (151.0, "stage submit seconds=1.000"),
        (151.0, "task 5 train path=0 round=3 seconds=62.0 tokens/s=100 loss=3.000 accepted"),
    ]
    scheduler = [
        (76.0, "accepted path=0 round=2 of=abc"),
        (78.0, "accepted path=1 round=2 of=def"),
        (80.0, "stepped module=stem version=2"),
        (81.5, "stepped module=L1.E0 version=2"),
    ]
    (found,) = round._rounds([volunteer], scheduler)
    assert (found.number, found.seconds) == (2, 74.0)
    assert found.stages == pytest.approx(
        {"fetch": 2.0, "around": 2.5, "inner": 62.0, "submit": 1.0}
        | {"others": 2.0, "outer": 3.5, "rest": 0.5}
    )
    assert found.evaluating == pytest.approx(2.1)
    assert sum(found.stages.values()) == pytest.approx(found.seconds, abs=1.0)


def test_what_is_done_for_a_lease_beside_another_is_no_part_of_a_round() -> None:
    volunteer = [
        (10.0, "stage fetch seconds=2.000"),
        (12.0, "stage beside seconds=1.500"),
        (75.0, "stage train seconds=65.000"),
        (78.0, "stage beside seconds=3.000"),
        (78.0, "task 3 train path=0 round=2 seconds=62.0 tokens/s=100 loss=3.000 accepted"),
        (140.0, "stage train seconds=65.000"),
        (142.0, "stage submit seconds=2.000"),
        (142.0, "task 4 train path=1 round=2 seconds=62.0 tokens/s=100 loss=3.000 accepted"),
        (150.0, "stage fetch seconds=5.000"),
        (215.0, "stage train seconds=65.000"),
        (216.0, "task 5 train path=1 round=3 seconds=62.0 tokens/s=100 loss=3.000 accepted"),
    ]
    first, second = round._rounds([volunteer], [(142.0, "accepted path=1 round=2 of=abc")])
    assert (first.seconds, second.seconds) == (67.0, 70.0)
    assert (first.stages["submit"], second.stages["submit"]) == (0.0, 2.0)
    assert first.stages["others"] == 0.0
    assert (first.stages["around"], second.stages["around"]) == (3.0, 3.0)
