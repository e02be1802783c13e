"""`dipaco-node testnet`: runs a network of real processes on this machine to its last round."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import SEED_HELP, OutFile
from dipaco.cli.testnet.chaos.grammar import Order, parse_order, parse_span
from dipaco.protocol.errors import ConfigError

if TYPE_CHECKING:
    from dipaco.cli.testnet.chaos.line import Line
    from dipaco.cli.testnet.network import Plan

FILE = click.Path(path_type=Path, dir_okay=False)
FAULTS = 60
"""Default of `--faults`."""


class FaultFlag(click.ParamType[Order]):
    """The value of a flag that orders faults."""

    name = "fault"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Order:
        """Return the order; raises BadParameter."""
        assert param is not None and param.name is not None
        return parse_order(param.name, value)  # type: ignore[arg-type]


class Span(click.ParamType[float]):
    """A time with its unit, as seconds."""

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds; raises ConfigError."""
        return value if isinstance(value, float) else parse_span(value, f"--{param and param.name}")


class LineFlag(click.ParamType["Line"]):
    """The value of `--slow-link`."""

    name = "line"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "Line":
        """Return the line; raises ConfigError."""
        from dipaco.cli.testnet.chaos.line import parse_line

        return parse_line(value)


F = TypeVar("F", bound=Callable[..., Any])


def fault_option(name: str, form: str, text: str) -> Callable[[F], F]:
    """Return the option that orders faults of one kind; it may be given several times."""
    return click.option(f"--{name}", multiple=True, type=FaultFlag(), metavar=form, help=text)


@click.command()
@click.argument("file", required=False, type=FILE)
@click.option("--nodes", default=4, type=click.IntRange(1, 64), help="Volunteers [4].")
@click.option("--keepers", default=0, type=click.IntRange(0, 15), help="Keepers of the run [0].")
@click.option(
    "--schedulers", default=1, type=click.IntRange(1, 16), help="The first, and standbys [1]."
)
@click.option("--rounds", type=click.IntRange(1), help="Replaces the run's.")
@fault_option("kill", "WHO", "SIGKILL for good. WHO: a number of volunteers, a role or a name.")
@fault_option("restart", "WHO[:SPAN]", "SIGKILL, and start again in the same home after SPAN [5s].")
@fault_option("freeze", "WHO[:SPAN]", "SIGSTOP for SPAN [20s].")
@fault_option("leave", "WHO[:SPAN]", "SIGTERM, and come back after SPAN [for good].")
@fault_option("join", "N", "Newcomers with empty homes.")
@fault_option("partition", "[WHO:]SPAN[:in|:out]", "Cut WHO [a half] off, or one way alone.")
@click.option("--every", type=Span(), metavar="SPAN", help="From fault to fault [one a round].")
@click.option(
    "--faults",
    type=click.IntRange(1, 10_000),
    help=f"Length of the tape with --every [{FAULTS}, or as --soak lasts].",
)
@click.option(
    "--slow-link",
    type=LineFlag(),
    metavar="[N:]UP/DOWN,DELAY[,LOSS%]",
    help="The line of all volunteers, or of the first N.",
)
@click.option("--netns", is_flag=True, help="Lines and cuts by network namespaces, as root.")
@click.option("--soak", type=click.IntRange(1, 1440), metavar="MINUTES", help="Judge growth.")
@click.option("--seed", default=0, type=click.IntRange(0, (1 << 63) - 1), help=SEED_HELP)
@click.option("--home", type=click.Path(path_type=Path), help="Keep all homes here [temporary].")
@click.option("--report", type=OutFile(), help="Write a report here, as JSON.")
@click.option("--reference", type=FILE, help="Check against this report of reference [train it].")
@click.option("--no-check", is_flag=True, help="Do not check the digests after faults.")
def testnet(
    file: Path | None,
    home: Path | None,
    report: Path | None,
    reference: Path | None,
    no_check: bool,
    **options: Any,
) -> int:
    """Run one rendezvous node and volunteers to the end of a run [the packaged demo].

    Every node is a process on this machine. --kill, --restart, --freeze, --leave, --join and
    --partition order faults, as often as they are given: one in every round or, with --every, one
    in each such time. Their tape follows from --seed and is printed. The run must end with the
    digests that one process computes.
    """
    from dipaco.cli.testnet.chaos.check import checked_alone, named_run
    from dipaco.cli.testnet.network import run_network
    from dipaco.cli.views.report import checked, print_report, read_report, write_report

    single = read_report(reference) if reference else None
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dipaco-")))
        plan = _plan(file, folder.absolute(), options)
        for fault in plan.tape:
            click.echo(str(fault), err=True)
        result = run_network(plan)
        if result.chaos is not None and result.completed and not no_check:
            named = named_run(file, options["rounds"], options["seed"])
            result = checked(result, single) if single else checked_alone(result, plan, named)
    print_report(result)
    if report is not None:
        write_report(report, result)
    return Exit.OK if result.completed else Exit.ERROR


def _plan(file: Path | None, folder: Path, options: dict[str, Any]) -> "Plan":
    """Return the plan of the network; raises ConfigError."""
    from dipaco.cli.inputs import home_for
    from dipaco.cli.testnet.local_run import local_run
    from dipaco.cli.testnet.network import RENDEZVOUS, Plan
    from dipaco.cli.testnet.settings import node_settings
    from dipaco.node.storage.blobs import BlobStore

    if options["schedulers"] > 1 and not options["keepers"]:
        raise ConfigError("--schedulers: without --keepers no other scheduler takes over")
    names, tape = _tape(options)
    settings = node_settings(os.environ, folder / RENDEZVOUS)
    with home_for(folder / RENDEZVOUS) as first:
        local = local_run(
            file,
            seed=options["seed"],
            rounds=options["rounds"],
            blobs=BlobStore(first.blobs),
            schedulers=names.schedulers,
            keepers=names.keepers,
        )
    by_round = [fault for fault in tape if fault.round is not None]
    if len(by_round) > (rounds := local.run.manifest.training.rounds):
        raise ConfigError(
            f"{len(by_round)} faults, one a round, but the run has {rounds}: give --every or more "
            "--rounds"
        )
    if options["netns"] and any(fault.way != "both" for fault in tape):
        raise ConfigError("--netns: a cut in one direction alone needs the forwarder")
    line, soak = options["slow_link"], options["soak"]
    slow = names.volunteers[: line.nodes] if line else ()
    return Plan(
        local=local,
        seed=options["seed"],
        names=names,
        tape=tape,
        home=folder,
        settings=settings,
        lines=dict.fromkeys(slow, line),
        netns=options["netns"],
        soak=None if soak is None else 60.0 * soak,
    )


def _tape(options: dict[str, Any]) -> Any:
    """Return (nodes by role, fault tape)."""
    from dipaco.cli.testnet.chaos.tape import MOST_FAULTS, NodeNames, plan
    from dipaco.cli.testnet.network import FIRST

    every, faults, soak = options["every"], options["faults"], options["soak"]
    orders = [o for name in KINDS for o in options[name]]
    if every is None and (faults or (soak and orders)):
        raise ConfigError("--faults and --soak with faults need --every")
    if every is not None and not orders:
        raise ConfigError("--every: no fault is ordered: give --kill, --freeze, ...")
    if every is not None and faults is None:
        faults = min(MOST_FAULTS, int(60 * soak / every)) if soak else FAULTS
    volunteers = tuple(f"node-{number}" for number in range(1, options["nodes"] + 1))
    standbys = (f"scheduler-{number}" for number in range(2, options["schedulers"] + 1))
    keepers = tuple(f"keeper-{number}" for number in range(1, options["keepers"] + 1))
    names = NodeNames(volunteers=volunteers, schedulers=(FIRST, *standbys), keepers=keepers)
    return names, plan(orders, names, seed=options["seed"], every=every, faults=faults or 0)


KINDS = ("kill", "restart", "freeze", "leave", "join", "partition")
