"""`dipaco-node start`: runs the daemon."""

import signal
from functools import partial
from pathlib import Path
from typing import Any

import click

from dipaco.cli.exits import on_interrupt
from dipaco.cli.options import config_of, home_option
from dipaco.node.config import NodeConfig
from dipaco.protocol.errors import ConfigError


@click.command()
@click.option("--bootstrap", multiple=True, metavar="ADDR", help="A peer to dial first.")
@click.option("--rendezvous", is_flag=True, default=None, help="Keep the directory and schedule.")
@click.option("--run", metavar="RUN", help="Run file, run id or name [the only one on offer].")
@home_option
@click.option("--listen", multiple=True, metavar="MADDR", help="[/ip4/0.0.0.0/tcp/4410]")
@click.option("--announce", multiple=True, metavar="MADDR", help="An address for other nodes.")
@click.option("--device", metavar="D", help="auto, cpu, cuda:N or mps [auto].")
@click.option("--max-shards", type=int, metavar="N", help="Shards kept open [4].")
@click.option("--max-batch", type=int, metavar="N", help="Sequences of a micro-batch [all].")
@click.option(
    "--verify", metavar="P", help="If it is unverifiable: require, warn or receipts:Q [require]."
)
@click.option("--local-sources", is_flag=True, default=None, help="A run may name local files.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option("--log-format", type=click.Choice(["text", "json"]))
def start(home: str | None, run: str | None, **flags: Any) -> int:
    """Join a network and train; with --rendezvous, found one."""
    config = config_of(home, _keyed(flags) | {"run.id": _run_name(home, run)})
    if not config.node.bootstrap and not config.node.rendezvous:
        raise ConfigError(
            "no bootstrap peer: give --bootstrap ADDR (a running node prints the line to paste), "
            "or found a network with --rendezvous; no public network exists yet"
        )
    return _run(config)


def _keyed(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags by key of the configuration; an empty list counts as not given."""
    sections = {
        "node": ("bootstrap", "rendezvous", "listen", "announce"),
        "run": ("verify", "local_sources"),
        "compute": ("device", "max_batch"),
        "storage": ("max_shards",),
    }
    keyed = {f"{s}.{name}": flags[name] for s, names in sections.items() for name in names}
    keyed |= {"log.level": flags["log_level"], "log.format": flags["log_format"]}
    return {key: None if value == () else value for key, value in keyed.items()}


def _run_name(home: str | None, run: str | None) -> str | None:
    """Return the id or name of a run; a run file is added to the home first."""
    if run is None or not (run.endswith(".run") or "/" in run or Path(run).is_file()):
        return run
    from dipaco.cli.options import home_of
    from dipaco.node.runs.files import keep_run, read_run

    return keep_run(home_of(home), read_run(Path(run))).id.hex()


def _run(config: NodeConfig) -> int:
    # Until the daemon heeds signals, Ctrl-C ends the process at once: nothing is held yet, and an
    # interrupt in the middle of a library's import would show as its traceback.
    on_interrupt(signal.SIG_DFL)
    import trio

    from dipaco.node.daemon import run_daemon
    from dipaco.node.logs import logging_to_stderr

    with logging_to_stderr(config.log) as say:
        return trio.run(partial(run_daemon, config, say))
