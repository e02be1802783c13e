"""Rules of this file: virtual time, and a link that nobody answers."""

import logging
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from dipaco.node.volunteer.heartbeat import Heartbeats
from dipaco.node.volunteer.scheduler_link import SchedulerLink
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.work.calls import Heartbeat
from tests.node.training.small import seed_lease


class NoAnswer:
    """A link to a scheduler that is away."""

    async def heartbeat(self, _message: Heartbeat) -> None:
        raise Unavailable("the scheduler is away")


async def test_an_hour_without_an_answer_is_told_more_and_more_rarely(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    link = cast(SchedulerLink, NoAnswer())
    with trio.move_on_after(3600):
        await Heartbeats(seed_lease(), link, 3.0).run(trio.CancelScope())
    assert 3 < caplog.text.count("heartbeat not answered: the scheduler is away") < 16
