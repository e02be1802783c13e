"""`dipaco-node repair`: bring a home with damaged or lost files to where its node can go on."""

import click

from dipaco.cli.exits import Exit
from dipaco.cli.options import home_of, home_option


@click.command()
@home_option
def repair(home: str | None) -> int:
    """Save what can be read of a damaged home, and say what is lost.

    The journal is read row by row into a new one; the damaged file stays beside it. Damaged blobs
    are removed, and come back from peers. Ends with 1 if something is left that a person must do,
    and never runs while a daemon holds the home.
    """
    from dipaco.node.network.identity import load_or_new_identity
    from dipaco.node.runs.repair import repair as repaired
    from dipaco.node.storage.files import Home
    from dipaco.protocol.errors import ConfigError

    folder = home_of(home)
    if not folder.is_dir():
        raise ConfigError(f"home: {folder} does not exist")
    place, left = Home.at(folder), False
    with place.held():
        for line in repaired(place):
            click.echo(line)
            left |= line.startswith("not repaired")
        load_or_new_identity(place.identity)  # nobody else has that key: its error says what to do
    if left:
        return Exit.ERROR
    click.echo("the node can be started again")
    return Exit.OK
