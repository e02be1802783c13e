"""Rules of this file: arithmetic on times; no clock, no socket."""

import random

from dipaco.cli.testnet.chaos.line import RESEND_SECONDS, SEGMENT, Losses, Pipe, parse_line


def test_a_line_is_read_with_its_units() -> None:
    line = parse_line("1Mbit/s/8MB/s,40ms,2.5%")
    assert (line.up, line.down, line.delay, line.loss, line.nodes) == (
        125e3,
        8e6,
        0.04,
        0.025,
        None,
    )
    assert parse_line("3:1MB/s/1MB/s,1s").nodes == 3


def test_bytes_leave_one_after_another_at_the_rate() -> None:
    pipe = Pipe(rate=1000.0)
    assert pipe.leave(5.0, 500) == 5.5
    assert pipe.leave(5.1, 500) == 6.0
    assert pipe.leave(9.0, 1000) == 10.0


def test_a_lost_segment_costs_the_time_until_it_is_sent_again() -> None:
    losses = Losses(0.5, random.Random(0))
    pauses = [losses.pause(SEGMENT, 0.01) for _ in range(1000)]
    assert set(pauses) == {0.0, RESEND_SECONDS}
    assert 400 < pauses.count(RESEND_SECONDS) < 600
    assert Losses(1.0, random.Random(0)).pause(1, 0.3) == 0.6
    assert Losses(0.0, random.Random(0)).pause(1 << 20, 0.3) == 0.0
