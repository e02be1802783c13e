"""`dipaco-node proof`: proofs that a scheduler signed two ledgers, written to files and checked."""

from pathlib import Path

import click

from dipaco.cli.inputs import output_file
from dipaco.cli.options import Group, home_of, home_option


@click.group(cls=Group)
def proof() -> None:
    """Proofs that a run's scheduler signed two ledgers."""


@proof.command()
@click.argument("name", metavar="RUN")
@click.option("--out", required=True, metavar="FILE", help="The file to write.")
@home_option
def export(name: str, out: str, home: str | None) -> None:
    """Write a proof that this node keeps to a file; RUN is a run file, or an id or name."""
    from dipaco.node.runs.known import named_run, proofs_of
    from dipaco.node.verification.proofs import proof_of, write_proof
    from dipaco.protocol.errors import ConfigError

    path, folder = output_file(out, "--out"), home_of(home)
    run = named_run(name, folder)
    saved = proofs_of(run.id, folder)
    if not saved:
        raise ConfigError(f"{folder}: keeps no proof about {run.manifest.name}")
    write_proof(path, proof_of(next((each for each in saved if each.one), saved[0]), run))
    click.echo(f"{path}: {saved[0].reason}")


@proof.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--run", "name", metavar="RUN", help="The run file that it must be about [any run].")
def check(file: Path, name: str | None) -> None:
    """Check a proof without a network: the file holds the manifest and both records.

    Ends with 0 if it holds, with 4 if it proves nothing.
    """
    from dipaco.node.runs.files import read_run
    from dipaco.node.verification.proofs import read_proof

    found = read_proof(file, read_run(Path(name)) if name else None)
    one, other = found.one, found.other
    which = (
        f"two records of number {one.seq}"
        if one.seq == other.seq
        else f"record {one.seq}, and a record {other.seq} that follows another one"
    )
    click.echo(
        f"{found.run.manifest.name} (run {found.run.id.hex()}): {found.scheduler}, the scheduler "
        f"of term {one.term}, signed {which}: two ledgers"
    )
