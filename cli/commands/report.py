"""`dipaco-node report`: writes what became of a run as one HTML file; no daemon is needed."""

from pathlib import Path

import click

from dipaco.cli.options import home_of, home_option


@click.command()
@click.argument("name", metavar="[RUN]", required=False, default="")
@click.option("--out", metavar="FILE", help="The file to write [NAME.html].")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@home_option
def report(name: str, out: str | None, force: bool, home: str | None) -> None:
    """Write what became of a run as one HTML file, which can be mailed.

    RUN is an id or name known to this node, a run file, or a ledger file [the only one here].
    """
    from dipaco.cli.inputs import output_file
    from dipaco.cli.views.run_facts import facts_of
    from dipaco.cli.views.run_page import page
    from dipaco.node.runs.known import record_of
    from dipaco.node.runs.ledger_file import checked, told_of
    from dipaco.node.storage.files import write_file

    root = home_of(home)
    told = told_of(name, root)
    path = output_file(out or f"{told.run.manifest.name}.html", "--out", force=force)
    records = checked(told.run, told.records, told.run.manifest.name)
    held = record_of(told.run.id, root)
    specs = {digest: each.spec for digest, each in held.specs.items()} if held else {}
    write_file(path, page(facts_of(told.run, records, told.head, specs)).encode("utf-8"))
    click.echo(Path(path))
