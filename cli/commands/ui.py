"""`dipaco-node ui`: prints the address of the page with its token; imports no network."""

import webbrowser
from html import escape
from pathlib import Path
from typing import Final

import click

from dipaco.cli.options import home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_page
from dipaco.node.storage.files import PRIVATE, Home, write_file

OPENER: Final = "ui-open.html"
"""In the home, mode 0600: it leads a browser to the page."""


@click.command()
@click.option("--open", "opens", is_flag=True, help="Open it in this machine's browser.")
@home_option
@json_option
def ui(opens: bool, home: str | None, as_json: bool) -> None:
    """Print the address of the page that the daemon serves on this machine, with its token."""
    folder = home_of(home)
    page = ask_page(folder)
    click.echo(json_text(page) if as_json else page.url)
    if opens and not webbrowser.open(_opener(folder, page.url).as_uri()):
        click.echo("no browser can be opened here: open the address by hand", err=True)


def _opener(home: Path, url: str) -> Path:
    """Write a file that leads to `url`: every user of the machine sees a browser's arguments."""
    path = Home(home).root / OPENER
    target = escape(url, quote=True)
    text = (
        '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">the page</a>\n'
    )
    write_file(path, text.encode(), mode=PRIVATE)
    return path.resolve()
