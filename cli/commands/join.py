"""`dipaco-node join`: takes up an invitation, then runs the daemon as `start` does."""

from typing import Any, Final

import click

from dipaco.cli.commands.start import start
from dipaco.cli.inputs import home_for
from dipaco.cli.options import sources_of
from dipaco.node.config_file import save_checked, with_value
from dipaco.node.settings import Settings
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.invitation import Invitation

KEY: Final = "run.invitation"
OTHERS: Final = frozenset({"bootstrap", "rendezvous", "keeper", "keep", "train", "run"})
"""The flags of `start` that say what a code says, or are of nodes that no code invites."""


@click.command()
@click.argument("code")
@click.option("--force", is_flag=True, help="Leave the run that an earlier code invited to.")
@click.pass_context
def join(context: click.Context, /, code: str, force: bool, **flags: Any) -> Any:
    """Join the run of an invitation and train; the next `start` in this home goes on with it.

    The daemon leaves when the run is over, unless --until says otherwise.
    """
    try:
        invited = Invitation.parse(code)
    except ValueError as error:
        raise ConfigError(f"CODE: {error}") from None
    sources = sources_of(flags["home"], {})
    _check_free(sources.settings(), invited, force=force)
    with home_for(sources.home):
        save_checked(sources, with_value(sources, KEY, code))
        flags["until"] = flags["until"] or "finish"
        return context.invoke(start, **flags)


join.params += [each for each in start.params if each.name not in OTHERS]


def _check_free(settings: Settings, invited: Invitation, *, force: bool) -> None:
    """Raise ConfigError for a home that is to train another run."""
    named = settings.config.run.id
    if named:
        raise ConfigError(
            f"run.id ({settings.origin('run.id')}) names {', '.join(named)}, and the code another "
            "run: remove that line, or give another --home"
        )
    before = settings.config.run.invited
    if before is None or force:
        return
    if (before.run, before.signer) != (invited.run, invited.signer):
        raise ConfigError(
            f"CODE: this home was invited to run {before.run.hex()}, and this code is for run "
            f"{invited.run.hex()}: give another --home for a second node, or --force to leave the "
            "first run"
        )
