"""The command line: runs a command, and turns its error into one line and an exit code.

A command's module is imported when the command is called. It imports heavy libraries (torch,
libp2p, datasets) inside its functions, so `--help` takes 0.3 s.
"""

import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from dipaco.cli.exits import Exit, OutputLost, code_of, expected, interrupted, on_interrupt
from dipaco.cli.options import Group, check_utf8
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.text import escaped

COMMANDS: Final = {
    "start": ("start", "Join a network and train; with --rendezvous, found one."),
    "join": (
        "join",
        "Join the run of an invitation and train; the next `start` in this home goes on with it.",
    ),
    "invite": ("invite", "Print the line that a person types to join a run of this node."),
    "stop": ("stop", "Ask the daemon to hand back its lease and leave."),
    "status": ("status", "Print the node's state, and the reason if it is not training."),
    "peers": ("peers", "Print the connected peers: address, round trip, bytes, and since when."),
    "tasks": (
        "tasks",
        "Print the latest tasks: path, round, steps, speed, loss, bytes, and how each ended.",
    ),
    "log": (
        "log",
        "Print the latest lines of the daemon's log since its start; with --json one a line.",
    ),
    "events": ("events", "Print the node's events in order: states with their reasons, and tasks."),
    "why": ("why", "Say why the node does what it does, or did at a moment of the last 30 days."),
    "pause": (
        "pause",
        "Stop work, hand back the lease, free the device; a restart does not end the pause.",
    ),
    "resume": ("resume", "Work again after pause, finish or start --paused."),
    "finish": ("finish", "End the lease in hand, then pause; the daemon stays."),
    "run": ("run", "Run files: init, create, sign, verify, show, list; takeover, follow."),
    "doctor": ("doctor", "Check this machine for faults; --fit measures a run before any lease."),
    "verify": (
        "verify",
        "Derive the router again; RUN is a run file, or an id or name known to this node.",
    ),
    "proof": ("proof", "Proofs that a run's scheduler signed two ledgers."),
    "credits": ("credits_", "Print each peer's work in a run, from its signed ledger alone."),
    "report": (
        "report",
        "Write what became of a run as one HTML file, which can be mailed.",
    ),
    "eval": ("evaluate", "Score held-out text by the path that each document is routed to."),
    "generate": (
        "generate",
        "Continue PROMPT on the path that it is routed to; only the new text goes to stdout.",
    ),
    "ckpt": ("ckpt", "Checkpoints: list, export."),
    "cache": ("cache", "The files that a home stores: info, prune."),
    "repair": ("repair", "Save what can be read of a damaged home, and say what is lost."),
    "testnet": (
        "testnet",
        "Run one rendezvous node and volunteers to the end of a run [the packaged demo].",
    ),
    "reference": (
        "reference",
        "Train RUN, a run file or its TOML file [the packaged demo], in one process.",
    ),
    "compare": (
        "compare",
        "Train RUN, a run file or its TOML file [the packaged demo], and its controls.",
    ),
    "ui": (
        "ui",
        "Print the address of the page that the daemon serves on this machine, with its token.",
    ),
    "config": ("config", "The configuration: show, get, set, edit, path, check."),
    "service": ("service", "Run as a service: install, uninstall, status."),
    "update": (
        "update",
        "Compare this version with what the runs of the home, or FILE, need and peers report.",
    ),
    "id": (
        "id_",
        "Print the PeerID and, while the daemon runs, the commands with which others join.",
    ),
    "key": ("key", "Keys of nodes and of owners of runs."),
    "completion": (
        "completion",
        'Print a shell\'s completion script: eval "$(dipaco-node completion bash)".',
    ),
    "version": (
        "version",
        "Print the versions of this program, the manifest format, Python and libraries.",
    ),
}
"""The verb, which is the name of a file in commands/: the function there, and its help in short.

The help of all verbs is printed without importing them, which would take most of its time.
"""
STDERR: Final = 2
PROGRAM: Final = "dipaco-node"


class LazyGroup(Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command `cmd_name`, None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"dipaco.cli.commands.{cmd_name}")
        command = getattr(module, COMMANDS[cmd_name][0])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their help in short."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from dipaco.cli.commands.version import version

        ctx.invoke(version)
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Do the same as the command version.",
)
def dipaco() -> None:
    """Volunteer node that trains one DiPaCo language model over libp2p."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, not raised."""
    try:
        check_utf8(arguments, os.environ)
        result: Any = dipaco.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return int(result or Exit.OK)
    except click.ClickException as error:
        return _usage(error)
    except SystemExit as end:  # click's own: a reader that left, a completion
        return int(end.code or Exit.OK)
    except BaseException as error:
        if interrupted(error):
            return Exit.INTERRUPTED
        known = expected(error)
        if known is None and isinstance(error, Exception | BaseExceptionGroup):
            return _bug()
        if known is None:
            raise
        return _fault(known)


def _fault(error: DipacoError) -> int:
    if isinstance(error, OutputLost):
        _drop_output()
        if error.reader_left:  # `dipaco-node status | head`
            return Exit.ERROR
    _say(f"{PROGRAM}: {error}")
    return code_of(error)


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    message = " ".join(error.format_message().split())  # choices stand on lines of their own
    _say(f"{PROGRAM}: {message.rstrip('.')}{hint}")
    return Exit.USAGE


def _bug() -> int:
    traceback.print_exc()
    _say(f"{PROGRAM}: this is a bug; please report it with the lines above")
    return Exit.ERROR


def _say(line: str) -> None:
    try:
        click.echo("\n".join(map(escaped, line.split("\n"))), err=True)
    except OSError:  # nobody reads it; the exit code tells it too
        _drop_output()


def _drop_output() -> None:
    """Leave nothing that Python would write, and fail at, when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _open_standard_files() -> None:
    """Open stdin, stdout and stderr where they are closed: else a file would take their place.

    A log line would then be written into that file.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)


def main() -> None:
    """Run the process's own command line, and end the process."""
    _open_standard_files()
    on_interrupt(signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may be bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    on_interrupt(signal.SIG_DFL)
    sys.exit(code)


if __name__ == "__main__":
    main()
