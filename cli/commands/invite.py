"""`dipaco-node invite`: prints the line with which others join a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dipaco.cli.answers import InviteAnswer
from dipaco.cli.options import config_of, home_of, home_option, json_option, json_text
from dipaco.node.api.client import ask_status
from dipaco.node.api.values import NoDaemon
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.invitation import RUN_BYTES, Invitation
from dipaco.protocol.wire.address import Address, Scope
from dipaco.protocol.wire.identity import fingerprint, fingerprint_bytes

if TYPE_CHECKING:
    from dipaco.node.runs.files import RunFile
    from dipaco.node.status.document import Status

NARROW = {
    Scope.MACHINE: "of this machine alone",
    Scope.HOUSE: "of this local network alone",
}
"""The addresses that not everybody can dial."""


@click.command()
@click.argument("name", metavar="[RUN]", required=False, default="")
@click.option(
    "--address", multiple=True, metavar="MADDR", help="With its /p2p/PEERID [the node's widest]."
)
@click.option("--qr", is_flag=True, help="Print it as a QR code, too.")
@home_option
@json_option
def invite(name: str, address: tuple[str, ...], qr: bool, home: str | None, as_json: bool) -> None:
    """Print the line that a person types to join a run of this node.

    RUN is an id or name known to this node, or a run file [the run of the daemon here].
    """
    folder = home_of(home)
    status = _status(folder)
    run = _run(name, folder, status)
    made = _invitation(run, _given(address) or _found(folder, status))
    line = f"dipaco-node join {made.code}"
    if as_json:
        click.echo(json_text(_answer(made, line, run)))
        return
    click.echo(line)
    if qr:
        click.echo(_picture(line), nl=False)
    widest = max(each.scope for each in made.addresses)
    if widest in NARROW:
        places = ", ".join(each.host_and_port for each in made.addresses)
        click.echo(
            f"{places}: {NARROW[widest]}; for others give --address, or restart the node with "
            "--announce /ip4/YOUR.ADDRESS/tcp/PORT",
            err=True,
        )


def _status(home: Path) -> "Status | None":
    """Return the status of the daemon in a home; None if there is none."""
    try:
        return ask_status(home)
    except NoDaemon:
        return None


def _run(name: str, home: Path, status: "Status | None") -> "RunFile":
    """Return the run that is named, else the daemon's, else the only one of the home."""
    from dipaco.node.runs.known import known_runs, named_run

    own = status.run.id if status is not None and status.run is not None else ""
    if not (name or own or known_runs(home)):
        raise ConfigError(
            f"no run is in {home} to invite to: found one with `dipaco-node run init my.toml`"
        )
    return named_run(name or own, home)


def _given(texts: tuple[str, ...]) -> tuple[Address, ...]:
    """Return the addresses of --address; raises ConfigError."""
    try:
        return tuple(map(Address.parse, texts))
    except ValueError as error:
        raise ConfigError(f"--address: {error}") from None


def _found(home: Path, status: "Status | None") -> tuple[Address, ...]:
    """Return the address that `address_for` chooses; raises ConfigError if there is none."""
    listening = tuple(map(Address.parse, status.network.listen)) if status is not None else ()
    seeds = config_of(str(home), {}).seeds
    found = address_for(seeds, listening, rendezvous=status is not None and status.rendezvous)
    if found is None:
        raise ConfigError(
            f"no address to invite to: no daemon runs in {home}: start it there, or give --address"
        )
    return (found,)


def address_for(
    seeds: Sequence[Address], listening: Sequence[Address], *, rendezvous: bool
) -> Address | None:
    """Return the address to invite to: of a rendezvous node its own, else that of its seed.

    A volunteer's own is mostly behind a router, where nobody reaches it. Of several it is one of
    the widest scope, and of these one of IPv4, which makes the shortest code.
    """
    candidates = listening if rendezvous else [*seeds] or listening
    return max(candidates, key=lambda each: (each.scope, each.kind == "ip4"), default=None)


def _invitation(run: "RunFile", addresses: tuple[Address, ...]) -> Invitation:
    owner = run.manifest.owner
    try:
        return Invitation(addresses, run.id[:RUN_BYTES], fingerprint_bytes(owner))
    except ValueError as error:
        raise ConfigError(f"--address: {error}") from None


def _answer(made: Invitation, line: str, run: "RunFile") -> InviteAnswer:
    return InviteAnswer(
        code=made.code,
        line=line,
        run=run.id.hex(),
        name=run.manifest.name,
        signer=run.manifest.owner,
        fingerprint=fingerprint(run.manifest.owner),
        addresses=tuple(map(str, made.addresses)),
    )


def _picture(line: str) -> str:
    """Return a line as a QR code of block characters, light on dark."""
    import io

    import segno

    picture = io.StringIO()
    segno.make(line, micro=False).terminal(picture, compact=True)
    return picture.getvalue()
