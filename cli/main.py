"""The command line: runs a command, and turns its error into one line and an exit code.

A command's module is imported when the command is called. It imports heavy libraries (torch,
libp2p, datasets) inside its functions, so `--help` takes 0.3 s.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

from dipaco.cli.exits import Exit, code_of, expected
from dipaco.cli.options import check_utf8
from dipaco.protocol.wire.text import escaped

COMMANDS: Final = {  # the verb, which is the name of a file in commands/: the function there
    "start": "start",
    "stop": "stop",
    "status": "status",
    "run": "run",
    "doctor": "doctor",
    "verify": "verify",
    "eval": "evaluate",
    "generate": "generate",
    "ckpt": "ckpt",
    "cache": "cache",
    "testnet": "testnet",
    "reference": "reference",
    "compare": "compare",
    "id": "id_",
    "key": "key",
    "version": "version",
}
PROGRAM: Final = "dipaco-node"


class LazyGroup(click.Group):
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def dipaco() -> None:
    """Volunteer node that trains one DiPaCo language model over libp2p."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are printed, not raised."""
    try:
        check_utf8(arguments, os.environ)
        result: Any = dipaco.main(list(arguments), prog_name=PROGRAM, standalone_mode=False)
        return int(result or Exit.OK)
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:  # `dipaco-node status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.ERROR
    except BaseException as error:
        known = expected(error)
        if known is None and isinstance(error, Exception | BaseExceptionGroup):
            return _bug()
        if known is None:
            raise
        _say(f"{PROGRAM}: {known}")
        return code_of(known)


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    hint = f"; see {context.command_path} --help" if context is not None else ""
    _say(f"{PROGRAM}: {error.format_message().rstrip('.')}{hint}")
    return Exit.USAGE


def _bug() -> int:
    traceback.print_exc()
    _say(f"{PROGRAM}: this is a bug; please report it with the lines above")
    return Exit.ERROR


def _say(line: str) -> None:
    click.echo("\n".join(map(escaped, line.split("\n"))), err=True)


def main() -> None:
    """Run the process's own command line, and end the process."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
