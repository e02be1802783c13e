"""Rules of this file: made-up ledgers; real files."""

from math import exp, log
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from dipaco.cli.testnet.local_run import local_run
from dipaco.cli.views.report import (
    NodeReport,
    Report,
    build,
    differences,
    early_stopped,
    print_report,
    read_report,
    stage_seconds,
    write_report,
)
from dipaco.node.api.values import EvaluationView
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.canonical import decode
from tests.node.api.fake_node import PEER, status

MANIFEST = local_run(None, seed=0, rounds=2).run.manifest


def look(
    version: int, path: int, tokens: int, each: float, bytes_each: int | None = 3
) -> EvaluationView:
    """An evaluation with perplexity `each`, and so many bytes for a token."""
    return EvaluationView(
        path=path,
        version=version,
        documents=2,
        tokens=tokens,
        nll=tokens * log(each),
        bytes=None if bytes_each is None else bytes_each * tokens,
        peer=PEER,
    )


def node(name: str, *, killed: bool = False) -> NodeReport:
    now = status()
    return NodeReport(
        name=name,
        peer=PEER,
        verdict="verified",
        killed=killed,
        sent=1_500_000,
        received=2_500_000,
        memory=now.memory,
        totals=now.totals,
        stages=now.stages,
    )


def report(states: dict[str, dict[int, str]] | None = None) -> Report:
    return build(
        "testnet",
        MANIFEST,
        completed=True,
        seconds=61.0,
        states=states or {"stem": {0: "aa", 1: "bb"}},
        evaluations=[
            *(look(0, path, 100, 100.0) for path in range(4)),
            *(look(1, path, 100, 80.0) for path in range(4)),
            *(look(2, path, tokens, 50.0 if path else 20.0) for path, tokens in PATHS),
        ],
        nodes=[node("rendezvous"), node("node-1", killed=True)],
    )


def made(evaluations: list[EvaluationView]) -> Report:
    return build(
        "reference",
        MANIFEST,
        completed=True,
        seconds=1.0,
        states={},
        evaluations=evaluations,
    )


PATHS = ((0, 300), (1, 100), (2, 100), (3, 100))


def test_routed_perplexity_weighs_paths_by_their_tokens() -> None:
    final = report().losses[-1]
    due = exp((300 * log(20.0) + 300 * log(50.0)) / 600)
    assert (final.version, final.tokens) == (2, 600)
    assert final.perplexity == pytest.approx(due)
    assert [p.perplexity for p in final.paths] == pytest.approx([20.0, 50.0, 50.0, 50.0])


def test_bits_per_byte_weigh_paths_by_their_bytes() -> None:
    evaluations = [look(0, 0, 100, 16.0, 2), look(0, 1, 300, 16.0, 4)]
    found = made(evaluations).losses[0]
    assert [p.bytes for p in found.paths] == [200, 1200] and found.bytes == 1400
    assert [p.bits_per_byte for p in found.paths] == pytest.approx([2.0, 1.0])
    assert found.bits_per_byte == pytest.approx(1600 / 1400)


def test_bytes_that_one_peer_did_not_count_are_not_known_in_all() -> None:
    found = made([look(0, 0, 100, 16.0), look(0, 1, 100, 16.0, None)]).losses[0]
    assert found.paths[0].bits_per_byte == pytest.approx(4 / 3)
    assert (found.paths[1].bytes, found.bytes, found.bits_per_byte) == (None, None, None)
    assert found.perplexity == pytest.approx(16.0)


def test_a_perplexity_names_its_vocabulary_and_stands_beside_bits_per_byte() -> None:
    console = Console(record=True, width=160)
    print_report(report(), console)
    text = console.export_text()
    assert "routed validation perplexity (vocabulary 4,096)" in text
    assert "│  31.62 │     1.661 │" in text
    assert "-> 31.6 (0.316 of the seed model's), 1.661 bits per byte" in text


def test_a_report_without_bytes_or_vocabulary_is_shown_as_it_was() -> None:
    losses = tuple(replace(each, bytes=None, bits_per_byte=None) for each in report().losses)
    console = Console(record=True, width=160)
    print_report(replace(report(), vocabulary=None, losses=losses), console)
    text = console.export_text()
    assert text.rstrip().endswith("perplexity 100.0 -> 31.6 (0.316 of the seed model's)")


@pytest.mark.parametrize(("name", "other"), [("documents", 3), ("tokens", 301), ("bytes", 901)])
def test_what_was_scored_is_compared_exactly_and_the_loss_is_not(name: str, other: int) -> None:
    ours = report()
    for field, value, due in (
        (
            name,
            other,
            [
                f"evaluation 2 of path 0: {getattr(ours.losses[2].paths[0], name)} and "
                f"{other} {name}"
            ],
        ),
        ("nll", 1.0, []),
    ):
        last = ours.losses[2]
        paths = (replace(last.paths[0], **{field: value}), *last.paths[1:])
        theirs = replace(ours, losses=(*ours.losses[:2], replace(last, paths=paths)))
        assert differences(ours, theirs) == due
    paths = (replace(ours.losses[2].paths[0], bytes=None), *ours.losses[2].paths[1:])
    theirs = replace(ours, losses=(*ours.losses[:2], replace(ours.losses[2], paths=paths)))
    assert differences(ours, theirs) == [], "a report of before has no bytes"


def test_the_table_shows_seed_rounds_paths_final_bytes_times_and_memory() -> None:
    console = Console(record=True, width=160)
    print_report(report(), console)
    text = console.export_text()
    for words in ("seed model", "round 1", "final model", "path (1,0)", "100.00", "31.62"):
        assert words in text
    for words in ("node-1 (killed)", "verified", "1.5", "2.5", "120", "130", "400", "derive"):
        assert words in text
    assert "perplexity 100.0 -> 31.6 (0.316 of the seed model's)," in text


def test_early_stopping_adds_a_row_with_the_version_of_every_path() -> None:
    stopping = replace(MANIFEST, training=replace(MANIFEST.training, early_stopping=True))
    assert early_stopped(MANIFEST, []) is None
    found = build(
        "reference",
        stopping,
        completed=True,
        seconds=1.0,
        states={},
        evaluations=[
            look(version, path, 100, 20.0 + abs(version - path))  # path p is best at version p
            for version in range(3)
            for path in range(4)
        ],
    )
    best = found.early_stopped
    assert best is not None
    assert [p.version for p in best.paths] == [0, 1, 2, 2]
    due = exp((3 * log(20.0) + log(21.0)) / 4)
    assert best.perplexity == pytest.approx(due)
    console = Console(record=True, width=160)
    print_report(found, console)
    text = console.export_text()
    assert "early-stopped" in text and "20.00 @1" in text and "21.00 @2" in text


def test_a_report_survives_its_file_and_holds_the_manifest(tmp_path: Path) -> None:
    write_report(tmp_path / "r.json", report())
    again = read_report(tmp_path / "r.json")
    assert again == report()
    assert decode(bytes.fromhex(again.manifest), Manifest, limit=1 << 20) == MANIFEST


def test_a_file_that_is_no_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"schema": 2}')
    with pytest.raises(ConfigError, match=r"r\.json: not a report"):
        read_report(tmp_path / "r.json")


def test_equal_states_have_no_differences() -> None:
    assert differences(report(), report()) == []


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({"stem": {0: "aa", 1: "bc"}}, "module stem version 1: bb and bc"),
        ({"stem": {0: "aa"}}, "module stem version 1: bb and missing"),
        ({"stem": {0: "aa", 1: "bb"}, "p0": {0: "x"}}, "module p0 version 0: missing and x"),
    ],
)
def test_every_differing_digest_is_told(states: dict[str, dict[int, str]], words: str) -> None:
    assert differences(report(), report(states)) == [words]


def test_other_runs_are_not_compared() -> None:
    other = msgspec.structs.replace(report(), run="00")
    assert "different runs" in differences(report(), other)[0]


def test_times_are_summed_by_stage() -> None:
    assert stage_seconds([node("a"), node("b")]) == {"derive": (3.0, 2)}
