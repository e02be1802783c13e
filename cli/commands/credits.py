"""`dipaco-node credits`: prints each peer's work in a run, from its signed ledger alone."""

import click

from dipaco.cli.options import config_of, home_of, home_option, json_option, json_text


@click.command(name="credits")
@click.argument("name", metavar="[RUN]", required=False, default="")
@home_option
@json_option
def credits_(name: str, home: str | None, as_json: bool) -> None:
    """Print each peer's work in a run, from its signed ledger alone.

    RUN is an id or name known to this node, a run file, or a ledger file [the only one here].
    """
    from dipaco.cli.views.credits import board_text, credit_board
    from dipaco.cli.views.layout import terminal_width
    from dipaco.node.network.keys import own_peer
    from dipaco.node.runs.ledger_file import checked, told_of

    root = home_of(home)
    told = told_of(name, root)
    records = checked(told.run, told.records, told.run.manifest.name)
    board = credit_board(told.run, records, told.head)
    if as_json:
        click.echo(json_text(board))
    else:
        name = config_of(home, {}).node.name or "this node"
        click.echo(board_text(board, own_peer(root) or "", name, terminal_width()))
