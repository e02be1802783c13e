"""Rules of this file: records of the ledger of two rounds, as far as it is known; no network."""

from dipaco.cli.views.following import STALL_SECONDS, Follower, head_text, round_text
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.wire.canonical import decode
from dipaco.protocol.wire.signed import Signed
from tests.two_rounds import told, whole_run

RUN = whole_run()
WHOLE = [decode(each, Signed) for each in told(RUN).records]
SEEDED, ROUND_1 = 2 + 4, 2 + 4 + 5 + 4  # the records of spec, seed model and losses; and a round's


def grown(record: RunRecord, length: int) -> RunRecord:
    for signed in WHOLE[record.length : length]:
        for each in record.check([signed]):
            record.advance(signed, each)
    return record


def test_each_round_is_told_once_and_the_end_says_so() -> None:
    record, follower = RunRecord(told(RUN).run.id, RUN), Follower()
    lines = []
    for length in range(len(WHOLE) + 1):
        seen = follower.news(grown(record, length), 0.0, connected=True)
        lines += [round_text(seen)] if seen else []
    assert lines == [
        "round 0 of 2",
        "round 0 of 2  loss 8.0150 (perplexity 3,026.0)  waits for path 0, 1, 2, 3",
        "round 1 of 2  loss 6.0150 (perplexity 409.5)  2 members  waits for path 0, 1, 2, 3",
        "round 2 of 2  loss 5.0150 (perplexity 150.7)  2 members  over",
    ]
    assert "shelf" in head_text(record) and "4 paths" in head_text(record)


def test_one_who_comes_late_is_told_of_the_newest_round_alone() -> None:
    record = grown(RunRecord(told(RUN).run.id, RUN), ROUND_1 + 1)
    seen = Follower().news(record, 1e9, connected=True)
    assert seen is not None and (seen.round, seen.blocks, seen.records) == (1, "", ROUND_1 + 1)


def test_while_nothing_moves_a_line_says_so_each_minute() -> None:
    record, follower = grown(RunRecord(told(RUN).run.id, RUN), SEEDED), Follower()
    assert follower.news(record, 0.0, connected=True) is not None
    assert follower.news(record, STALL_SECONDS - 1, connected=True) is None
    stalled = follower.news(record, STALL_SECONDS, connected=True)
    assert stalled is not None and stalled.blocks == "no news for 1 min"
    assert follower.news(record, STALL_SECONDS + 1, connected=True) is None
    gone = follower.news(record, 2 * STALL_SECONDS, connected=False)
    assert gone is not None and gone.blocks == "its scheduler is not connected"
