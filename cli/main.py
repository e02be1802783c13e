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

COMMANDS: Final = {  # the verb, which is the name of a file in commands/: the function there
    "start": "start",
    "stop": "stop",
    "status": "status",
    "peers": "peers",
    "tasks": "tasks",
    "log": "log",
    "events": "events",
    "why": "why",
    "pause": "pause",
    "resume": "resume",
    "finish": "finish",
    "run": "run",
    "doctor": "doctor",
    "verify": "verify",
    "proof": "proof",
    "eval": "evaluate",
    "generate": "generate",
    "ckpt": "ckpt",
    "cache": "cache",
    "repair": "repair",
    "testnet": "testnet",
    "reference": "reference",
    "compare": "compare",
    "config": "config",
    "service": "service",
    "update": "update",
    "id": "id_",
    "key": "key",
    "completion": "completion",
    "version": "version",
}
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
        command = getattr(module, COMMANDS[cmd_name])
        assert isinstance(command, click.Command)
        return command


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
