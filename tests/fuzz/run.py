"""`make fuzz`: runs the targets in turn for so many seconds, and prints figures and findings.

    python -m tests.fuzz --seconds 600 --jobs 2 [--target GROUP or GROUP/NAME] [--seed N]
    python -m tests.fuzz --repeat FILE --target GROUP/NAME      one saved input, alone
    python -m tests.fuzz --batch N --target GROUP/NAME          one batch again, with its state

The inputs follow from seed, target and number of the batch; the clock decides how many batches
there are. Ends with 1 if anything is wrong.
"""

import argparse
import faulthandler
import gc
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count as numbers
from itertools import cycle
from pathlib import Path

from dipaco.protocol.wire.digest import sha256, short
from tests.fuzz.catalogue import chosen
from tests.fuzz.engine import Count, Finding, judge, run_batch
from tests.fuzz.target import Target

HANG_SECONDS = 60  # for one batch: then the process ends with the traceback of what hangs
SHOWN = 20  # findings that are printed
OUT = Path("build/fuzz")

HEAD = f"{'':24} {'inputs':>11} {'valid':>10} {'per s':>8} {'slowest':>10} {'bytes':>9}  wrong"

Counts = dict[str, Count]


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    asked = _arguments()
    if asked.repeat is None and asked.batch is None:
        begun = time.monotonic()
        totals = _run(asked)
        return _report(totals, time.monotonic() - begun)
    faults: list[str] = []
    for target in _targets(asked):
        if asked.repeat is not None:
            faults.append(judge(target, asked.repeat.read_bytes()))
        else:
            faults += [each.reason for each in run_batch(target, asked.seed, asked.batch).findings]
    found = list(filter(None, faults))
    print("\n".join(found) or "nothing wrong")
    return int(bool(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--target", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--most", type=int, default=1 << 30, help="bytes of the largest inputs")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeat", type=Path)
    return parser.parse_args()


def _run(asked: argparse.Namespace) -> Counts:
    """Run so many processes, each with its own batches; returns the figures of all."""
    OUT.mkdir(parents=True, exist_ok=True)
    if asked.jobs == 1:
        return _turns(asked, 0)
    totals: Counts = {}
    with ProcessPoolExecutor(asked.jobs) as pool:  # a process that ends early is an error here
        for counts in pool.map(_turns, [asked] * asked.jobs, range(asked.jobs)):
            for name, count in counts.items():
                totals.setdefault(name, Count()).add(count)
    return totals


def _turns(asked: argparse.Namespace, job: int) -> Counts:
    """Give each target its turns until the time is over; every `jobs`th batch is this job's."""
    logging.disable(logging.CRITICAL)  # of the code under test: it tells what it refuses
    targets, end = _targets(asked), time.monotonic() + asked.seconds
    counts: Counts = {target.name: Count() for target in targets}
    batches = {target.name: numbers(job, asked.jobs) for target in targets}
    gc.freeze()
    for target in cycle(targets):
        # In a short run, too, every target has its turn.
        turn = time.monotonic() + min(target.turn, asked.seconds / len(targets) / 2)
        while time.monotonic() < min(turn, end):
            batch = next(batches[target.name])
            counts[target.name].add(_watched(target, asked.seed, batch, OUT / f"running-{job}"))
        if time.monotonic() >= end:
            break
    return counts


def _watched(target: Target, seed: int, batch: int, note: Path) -> Count:
    """Run a batch; one that hangs ends the process, since no signal stops a library's loop.

    note   the file that then says which one.
    """
    note.write_text(_again(target.name, f"--seed {seed} --batch {batch}"))
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        return run_batch(target, seed, batch)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _targets(asked: argparse.Namespace) -> list[Target]:
    found = chosen(asked.target)
    return [replace(target, limit=min(target.limit, asked.most)) for target in found]


def _again(target: str, what: str) -> str:
    return f"python -m tests.fuzz --target {target} {what}"


def _report(totals: Counts, seconds: float) -> int:
    """Print the figures of each group and of all, save what is worth a look; returns the code."""
    print(HEAD)
    groups: Counts = {}
    for name, count in totals.items():
        groups.setdefault(name.partition("/")[0], Count()).add(count)
    whole = Count()
    for name, count in groups.items():
        print(_row(name, count))
        whole.add(count)
    print(_row("all", whole))
    findings = list(_distinct(whole.findings))
    print(f"{whole.inputs} inputs in {seconds:.0f} s, {whole.inputs / seconds:.0f} a second")
    for name, count in totals.items():
        if count.slowest_input == whole.slowest_input:
            print(f"slowest: {_saved(name, whole.slowest_input)}")
    for finding in findings[:SHOWN]:
        path = _saved(finding.target, finding.data)
        print(f"{finding.target}: {finding.reason}")
        print(f"  {_again(finding.target, f'--repeat {path}')}")
        print(f"  {_again(finding.target, f'--seed {finding.seed} --batch {finding.batch}')}")
    print(f"{len(findings)} wrong")
    return int(bool(findings))


def _row(name: str, count: Count) -> str:
    rate = count.inputs / count.seconds if count.seconds else 0
    return (
        f"{name:24} {count.inputs:11} {count.taken:10} {rate:8.0f} "
        f"{1000 * count.slowest:7.1f} ms {len(count.slowest_input):9}  {len(count.findings)}"
    )


def _distinct(findings: list[Finding]) -> Iterator[Finding]:
    """Yield one finding of each kind: the same target and the same beginning of its reason."""
    seen: set[tuple[str, str]] = set()
    for finding in findings:
        kind = (finding.target, finding.reason.split(" ")[0][:40])
        if kind not in seen:
            seen.add(kind)
            yield finding


def _saved(target: str, data: bytes) -> Path:
    path = OUT / target.replace("/", ".", 1) / short(sha256(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
