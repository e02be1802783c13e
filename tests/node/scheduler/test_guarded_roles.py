"""What goes wrong in one run ends at most that run's role: bugs, and every error on the list.

Rules of this file: whole nodes over the transport in memory, virtual time, fake work.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from dipaco.node.roles import scheduler as scheduler_role
from dipaco.node.roles.offers import RunChooser
from dipaco.node.runs.record import RunRecord
from dipaco.node.scheduler.service import Scheduler
from dipaco.node.verification.verifier import Verifier
from dipaco.node.volunteer import loop
from dipaco.node.volunteer.heartbeat import Heartbeats
from dipaco.node.volunteer.scheduler_link import SchedulerLink
from dipaco.node.volunteer.work import LeaseWork
from dipaco.protocol.errors import (
    ConfigError,
    LeaseLost,
    LocalProtocolError,
    NoDevice,
    RemoteProtocolError,
    Unavailable,
    Unverifiable,
)
from dipaco.protocol.routing.spec import RouterSpec
from tests.node.scheduler.swarm import SCHEDULER, Swarm, found, until
from tests.values import manifest

AA = manifest(name="aa")
SHORT = replace(AA, training=replace(AA.training, rounds=1))
LATER = manifest(name="later")
BUGS = (LocalProtocolError, ZeroDivisionError)
ERRORS = (
    *BUGS,
    RemoteProtocolError,
    ConfigError,
    Unavailable,
    LeaseLost,
    Unverifiable,
    NoDevice,
)
ONCE: tuple[tuple[Any, str], ...] = (
    (scheduler_role, "_say_what_is_scheduled"),
    (Scheduler, "_take_step"),
    (Scheduler, "_end_leases"),
    (Scheduler, "ask"),
    (Scheduler, "heartbeat"),
    (Scheduler, "submit"),
    (RunChooser, "_offer"),
    (RunChooser, "_heard"),
    (Verifier, "_judged"),
    (loop, "check_lease"),
    (Heartbeats, "_message"),
    (SchedulerLink, "holders"),
    (LeaseWork, "_fetch"),
)
"""Functions that see what the other side of a run sent; each is broken once."""


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
async def test_an_error_of_one_run_ends_neither_its_rendezvous_node_nor_another_run(
    error: type[Exception],
    swarm: Swarm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fed_bugs: list[logging.LogRecord],
    autojump_clock: MockClock,
) -> None:
    derived_spec = Verifier.derived_spec

    async def failing(verifier: Verifier, record: RunRecord, epoch: int = 0) -> RouterSpec:
        if record.manifest.name == "later":
            raise error("it cannot be")
        return await derived_spec(verifier, record, epoch)

    monkeypatch.setattr(Verifier, "derived_spec", failing)
    found(tmp_path, LATER)
    scheduler = await swarm.start(SCHEDULER)  # its only run
    await until(lambda: scheduler.parts.activity.reason.code == "not-scheduled")
    await swarm.kill(scheduler)
    found(tmp_path, SHORT)
    again = await swarm.start(SCHEDULER)
    anna = await swarm.start("anna", run=("aa",))
    await until(lambda: anna.parts.activity.reason.code == "run-over")
    assert not again.ended.is_set()
    blocks = {each.name: each for each in again.reporter.status().runs}
    assert blocks["later"].reason.code == "not-scheduled"
    wanted = "a bug of this node" if error in BUGS else "it cannot be"
    assert wanted in blocks["later"].reason.text
    assert len(fed_bugs) == (2 if error in BUGS else 0)  # once in each life of the node


@pytest.mark.parametrize(("owner", "name"), ONCE, ids=lambda part: getattr(part, "__name__", part))
async def test_a_bug_in_a_role_is_reported_and_the_run_goes_on_to_its_end(
    owner: Any,
    name: str,
    swarm: Swarm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fed_bugs: list[logging.LogRecord],
    autojump_clock: MockClock,
) -> None:
    original, raised = getattr(owner, name), list[str]()

    def broken(*arguments: Any, **named: Any) -> Any:
        if not raised:
            raised.append(name)
            raise ZeroDivisionError("a slip of ours")
        return original(*arguments, **named)

    found(tmp_path, SHORT)
    scheduler = await swarm.start(SCHEDULER)
    monkeypatch.setattr(owner, name, broken)
    anna = await swarm.start("anna", run=("aa",))
    await until(lambda: anna.parts.activity.reason.code == "run-over")
    (report,) = fed_bugs
    assert raised and report.exc_info and "ZeroDivisionError: a slip of ours" in report.getMessage()
    assert not scheduler.ended.is_set() and not anna.ended.is_set()
