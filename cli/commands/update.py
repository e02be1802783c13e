"""`dipaco-node update`: says whether there is a newer version; it changes nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.commands.version import own_version
from dipaco.cli.exits import Exit
from dipaco.cli.options import home_of, home_option, json_option, json_text

if TYPE_CHECKING:
    from dipaco.protocol.wire.identity import PeerId


@click.command()
@click.argument(
    "file", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
@click.option("--check", is_flag=True, required=True, help="Needed: it says that nothing changes.")
@home_option
@json_option
def update(file: Path | None, check: bool, home: str | None, as_json: bool) -> int:
    """Compare this version with what the runs of the home, or FILE, need and peers report.

    Ends with 0, or with 10 if a run needs a newer version.
    """
    from dipaco.cli.answers import UpdateAnswer
    from dipaco.node.runs.versions import newer_runs, numbers, run_files
    from dipaco.protocol.run.manifest import FORMAT

    folder = home_of(home)
    others = _reported(folder)
    newest = max(others.values(), default=())
    needing = newer_runs([file] if file else run_files(folder))
    answer = UpdateAnswer(
        own=own_version(),
        format=FORMAT,
        newest_reported=".".join(map(str, newest)),
        peers=sum(version == newest for version in others.values()),
        newer_runs=tuple(map(str, needing)),
    )
    if as_json:
        click.echo(json_text(answer))
        return Exit.UPDATE if needing else Exit.OK
    click.echo(f"this version: {answer.own}, which reads manifests of format {FORMAT}")
    if newest > numbers(f"dipaco-node {answer.own}"):
        click.echo(f"newest that peers report: {answer.newest_reported} ({answer.peers} of them)")
    for path in needing:
        click.echo(f"{path}: needs a newer version: pip install --upgrade dipaco-node")
    return Exit.UPDATE if needing else Exit.OK


def _reported(home: Path) -> "dict[PeerId, tuple[int, ...]]":
    """Return what peers said in the journal of a home; nothing if there is none."""
    from contextlib import closing

    from dipaco.node.runs.versions import reported
    from dipaco.node.storage.files import Home
    from dipaco.node.storage.journal import Journal

    path = Home(home).journal
    if not path.exists():
        return {}
    with closing(Journal.open(path)) as journal:
        return reported(journal)
