"""Checks the end of a local network against one process, which runs when the network is over."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from dipaco.cli.exits import Exit
from dipaco.cli.testnet.network import FIRST, RUN_FILE, Plan
from dipaco.cli.testnet.processes import COMMAND
from dipaco.cli.views.report import Report, checked, read_report
from dipaco.protocol.errors import Unavailable

REPORT: Final = "reference.json"  # below the homes


def checked_alone(report: Report, plan: Plan, named: Sequence[str]) -> Report:
    """Train the run again in one process, and return the report with the outcome.

    A run that every path contributed to, to its last round, is trained from nothing. One that took
    steps without all paths, and a soak that ended before, are trained as their ledger tells.

    named   the arguments of `reference` that name the run, where it can be made anew from its file.

    Raises Unavailable if `reference` fails.
    """
    manifest = plan.run.manifest
    if plan.soak is not None or manifest.training.quorum is not UNSET:
        return _replayed(report, plan)
    run = [str(plan.home_of(FIRST) / RUN_FILE)] if plan.names.keepers else list(named)
    out = plan.home / REPORT
    _reference([*run, "--report", str(out)], Exit.OK)
    return checked(report, read_report(out))


def _replayed(report: Report, plan: Plan) -> Report:
    """Train what the longest ledger of the network tells."""
    assert report.chaos is not None
    longest = max(report.chaos.heads, key=lambda head: head.records)
    said = _reference(["--ledger", str(plan.home_of(longest.node))], Exit.OK, Exit.ERROR)
    found = () if said.returncode == Exit.OK else (said.stdout.strip().split("\n")[-1],)
    chaos = replace(report.chaos, checked="differs" if found else "same", differences=found)
    return replace(report, chaos=chaos, completed=report.completed and not found)


def _reference(arguments: Sequence[str], *codes: Exit) -> subprocess.CompletedProcess[str]:
    """Run `reference`, whose progress goes to stderr."""
    command = [*COMMAND, "reference", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in codes:
        raise Unavailable(f"reference ended with code {done.returncode}: no digest is checked")
    return done


def named_run(file: Path | None, rounds: int | None, seed: int) -> list[str]:
    """Return the arguments of `reference` for the run that `testnet` makes of a file."""
    name = [] if file is None else [str(file.absolute())]
    return [*name, *([] if rounds is None else ["--rounds", str(rounds)]), "--seed", str(seed)]
