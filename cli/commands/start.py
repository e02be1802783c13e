"""`dipaco-node start`: runs the daemon."""

import re
import signal
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

import click

from dipaco.cli.exits import on_interrupt
from dipaco.cli.inputs import home_for
from dipaco.cli.options import config_option, home_option, parameter_of, sources_of
from dipaco.cli.views.layout import is_drawable
from dipaco.node.config import KEYS, NodeConfig
from dipaco.node.home_folder import expanded
from dipaco.node.hours import next_clock
from dipaco.node.settings import Sources, check_together
from dipaco.protocol.errors import ConfigError

if TYPE_CHECKING:
    from dipaco.node.runs.files import RunFile

WHOLE_ID: Final = re.compile("[0-9a-f]{64}")
Until = Literal["finish"] | float
NO_PEER: Final = (
    "no peer to dial: give --bootstrap ADDR (a running node prints the line to paste), or found "
    "the run's network with --rendezvous"
)
NOTHING: Final = """\
no network to join yet, and no public one exists; do one of these three:
  dipaco-node join CODE          join a run, by the code of one of its members
  dipaco-node run init my.toml   found a run, of your own text or the packaged
  dipaco-node testnet            try a whole network on this machine, in minutes"""
"""The answer to `start` without a peer to dial."""


class Ending(TypedDict):
    """How a daemon begins and ends: the fields of `node.stay.Stay`, which imports trio."""

    tasks: int | None
    until: Until | None
    dry_run: bool
    paused: bool


class End(click.ParamType[Until]):
    """The end of a daemon: `finish`, or the next HH:MM as Unix time."""

    name = "end"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Until:
        """Return the end; raises BadParameter."""
        if value == "finish":
            return "finish"
        try:
            return next_clock(value, datetime.now()).timestamp()
        except ValueError as error:
            self.fail(f"{error}, nor finish", param, ctx)


@click.command()
@click.option("--bootstrap", multiple=True, metavar="ADDR", help="A peer to dial first.")
@click.option("--rendezvous", is_flag=True, default=None, help="Keep the directory and schedule.")
@click.option("--keeper", is_flag=True, default=None, help="Store the run, vote on its ledger.")
@click.option("--keep", is_flag=True, default=None, help="Store the run, without a vote.")
@click.option("--train", is_flag=True, default=None, help="Train, too, beside --keep or --keeper.")
@click.option("--run", metavar="RUN", help="Run file, run id or name [the only one on offer].")
@click.option("--signer", multiple=True, metavar="PEERID", help="Train runs of this owner alone.")
@home_option
@config_option
@click.option("--name", metavar="NAME", help="For your own status and board; no peer is told.")
@click.option("--listen", multiple=True, metavar="MADDR", help="[/ip4/0.0.0.0/tcp/4410]")
@click.option("--announce", multiple=True, metavar="MADDR", help="An address for other nodes.")
@click.option(
    "--exempt-prefixes", multiple=True, metavar="NET", help="A network not counted as strangers'."
)
@click.option("--low-conns", metavar="N", help="Connections below which it dials more [16].")
@click.option("--high-conns", metavar="N", help="Connections above which it closes some [48].")
@click.option("--device", metavar="D", help="auto, cpu, cuda:N or mps [auto].")
@click.option("--max-batch", type=int, metavar="N", help="Sequences of a micro-batch [all].")
@click.option("--checkpointing", metavar="C", help="auto, on or off: less memory, slower [auto].")
@click.option("--compile", is_flag=True, default=None, help="Compile the model with torch.")
@click.option("--moment-bits", metavar="N", help="Bits of the inner moments, 32 or 8 [32].")
@click.option("--threads", metavar="N", help="Threads of torch on the CPU [cores - 1].")
@click.option("--nice", metavar="N", help="Niceness of the worker process, 0 to 19 [10].")
@click.option("--max-ram", metavar="M", help="Memory of the worker, as 6 GB or 75% [75%].")
@click.option("--duty", metavar="PERCENT", help="Share of the time in which it computes [100].")
@click.option("--max-temp-c", metavar="C", help="No work above this temperature [83].")
@click.option("--hours", multiple=True, metavar="H", help="As 'mon-fri 18:00-08:00' [always].")
@click.option("--idle-only", is_flag=True, default=None, help="Work while nobody uses it.")
@click.option("--idle-minutes", metavar="N", help="Without use it is idle after these [3].")
@click.option("--on-battery", is_flag=True, default=None, help="Work on battery, too.")
@click.option("--exclusive-apps", multiple=True, metavar="APP", help="No work while it runs.")
@click.option("--max-up", metavar="RATE", help="Most that it sends, as '4 Mbit/s' [no bound].")
@click.option("--max-down", metavar="RATE", help="Most that it receives [no bound].")
@click.option("--limit-lan", is_flag=True, default=None, help="The bounds hold on the LAN, too.")
@click.option("--daily-quota", metavar="SIZE", help="Most traffic of one day [no bound].")
@click.option("--metered", metavar="M", help="On a metered connection: pause or ignore [pause].")
@click.option("--max-shards", type=int, metavar="N", help="Shards kept open [4].")
@click.option("--cache-max", metavar="SIZE", help="Most bytes of the shard cache [10 GB].")
@click.option(
    "--min-free", metavar="SIZE", help="With less free on the disk no work runs [500 MB]."
)
@click.option(
    "--verify", metavar="P", help="If it is unverifiable: require, warn or receipts:Q [require]."
)
@click.option("--local-sources", is_flag=True, default=None, help="A run may name local files.")
@click.option("--whole-files", is_flag=True, default=None, help="Fetch the hub's files whole.")
@click.option("--heartbeat-s", metavar="S", help="Seconds between heartbeats [3].")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
@click.option("--log-file", metavar="FILE", help="Write the log there [stderr].")
@click.option("--log-max-size", metavar="SIZE", help="Begin a new file after so much [10 MB].")
@click.option("--log-keep", metavar="N", help="Older files to keep [5].")
@click.option("--ui-listen", metavar="HOST:PORT", help="The page for a browser; '' for none.")
@click.option("--metrics-listen", metavar="HOST:PORT", help="Metrics for Prometheus [none].")
@click.option("--tasks", type=click.IntRange(1), metavar="N", help="Leave after N tasks.")
@click.option(
    "--until", type=End(), metavar="END", help="Leave at the run's end (finish), or at HH:MM."
)
@click.option("--tui", is_flag=True, help="Show the terminal view; the log goes to a file.")
@click.option("--paused", is_flag=True, help="Begin paused, until `dipaco-node resume`.")
@click.option("--dry-run", is_flag=True, help="Verify, say what fits, lease nothing, and leave.")
def start(
    home: str | None,
    run: str | None,
    tasks: int | None,
    until: Until | None,
    dry_run: bool,
    paused: bool,
    tui: bool,
    **flags: Any,
) -> int:
    """Join a network and train; with --rendezvous, found one."""
    file = _run_file(run)
    sources = sources_of(home, _keyed(flags) | {"run.id": file.id.hex() if file else run})
    config = sources.settings().config
    check_together(config)
    if not config.seeds and not config.node.rendezvous:
        raise ConfigError(NOTHING if run is None else NO_PEER)
    ids = config.run.id
    if config.node.keeps and not (ids and all(map(WHOLE_ID.fullmatch, ids))):  # a name is anybody's
        raise ConfigError("--keep, --keeper: name the run with --run, by its file or its whole id")
    if dry_run and (config.node.rendezvous or config.node.keeps):
        raise ConfigError("--dry-run: only a node that trains leases anything to try")
    if file is not None and config.node.rendezvous:
        _check_scheduler(file, config, str(run))
    if file is not None and config.node.keeper:
        _check_keeper(file, config, str(run))
    with home_for(config.home):
        if file is not None:
            _keep(file, config)
        ending = Ending(tasks=tasks, until=until, dry_run=dry_run, paused=paused)
        if tui and not is_drawable():
            click.echo("--tui: this is no terminal that can show it", err=True)
        return _run(sources, ending, tui=tui and is_drawable())


def _keyed(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags by key of the configuration; an empty list counts as not given."""
    keyed = {key: flags[name] for key in KEYS if (name := parameter_of(key)) in flags}
    return {key: None if value == () else value for key, value in keyed.items()}


def _run_file(run: str | None) -> "RunFile | None":
    """Return the run file that --run names; None for an id or name."""
    if run is None or not (run.endswith(".run") or "/" in run or Path(run).is_file()):
        return None
    from dipaco.node.runs.files import read_run

    return read_run(Path(run))


def _keep(file: "RunFile", config: NodeConfig) -> None:
    """Add a run file to those that the home offers."""
    from dipaco.node.runs.files import keep_run

    keep_run(config.home, file)


def _check_scheduler(file: "RunFile", config: NodeConfig, name: str) -> None:
    """Raise ConfigError for a run that another node than this one schedules."""
    from dipaco.node.network.keys import own_peer
    from dipaco.node.runs.files import check_scheduled_by

    check_scheduled_by(file, own_peer(config.home), name)


def _check_keeper(file: "RunFile", config: NodeConfig, name: str) -> None:
    """Raise ConfigError for a run that does not name this node as a keeper."""
    from dipaco.node.network.keys import own_peer
    from dipaco.node.runs.files import check_kept_by

    check_kept_by(file, own_peer(config.home), name)


def _run(sources: Sources, ending: Ending, *, tui: bool) -> int:
    # Until the daemon heeds signals, Ctrl-C ends the process at once: nothing is held yet, and an
    # interrupt in the middle of a library's import would show as its traceback.
    on_interrupt(signal.SIG_DFL)
    import trio

    from dipaco.cli.terminal.beside import LOG_NAME, ViewBeside
    from dipaco.node.daemon import run_daemon
    from dipaco.node.live_config import LiveConfig
    from dipaco.node.logs import logging_to
    from dipaco.node.stay import Stay

    live = LiveConfig(sources)
    config = live.config
    name = config.log.file or (LOG_NAME if tui else "")
    file = config.home / expanded(Path(name)) if name else None
    view = ViewBeside(config.home, file)
    with logging_to(config.log, file, stderr=view.write) as say, closing(view):
        daemon = partial(run_daemon, live, say, Stay(**ending), opened=view.open if tui else None)
        return trio.run(daemon)
