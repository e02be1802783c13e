"""A status as text."""

from msgspec.structs import replace

from dipaco.cli.views.status import status_text
from dipaco.node.status.document import RunBlock, reason
from tests.node.api.fake_node import block, status, task


def test_status_in_words_says_what_and_why() -> None:
    text = status_text(status(work=task()))
    for words in (
        "training: path 1 round 1: 12 of 25 steps",
        "demo  id abababab  round 1 of 5  router verified",
        "train path 1 round 1: train 12 of 25 steps  1,500 tokens/s  loss 4.250",
        "up 1 h 2 min, version",
        "1 peer, 10 bytes sent, 20 bytes received",
        "(0,1)      1  leased  4.250  this node",
        "held out 2.457 bits per byte after round 3, perplexity 312.0 (vocabulary 4,096)",
        "3 accepted, 1 refused, 38,400 tokens in 26 s",
    ):
        assert words in text


def test_no_progress_is_shown_before_it_is_known() -> None:
    begun = replace(task(), stage="fetch", done=0, total=0, tokens_per_second=0.0, loss=None)
    text = status_text(status(work=begun))
    assert "task     train path 1 round 1: fetch\n" in text and "0 of" not in text


def test_each_of_several_runs_has_a_block() -> None:
    over = reason("run-over", 1.0, round=3, rounds=3, next="no other run is on offer")
    other = RunBlock(
        **{name: getattr(block(), name) for name in RunBlock.__struct_fields__}
        | {"id": "12" * 32, "name": "other", "state": "waiting", "reasons": (over,)}
    )
    text = status_text(replace(status(), runs=(block(), other)))
    assert text.count("\nrun ") == 2 and text.count("(1,1)") == 2
    assert "waiting: round 3 of 3 done" in text


def test_a_scheduler_that_is_away_is_told_beside_the_work() -> None:
    away = reason("scheduler-away", 1_799_999_900.0, problem="silent", wait=3.0)
    text = status_text(replace(status(), reasons=(status().reason, away)))
    assert "12 of 25 steps; silent, next try in 3 s (since " in text
