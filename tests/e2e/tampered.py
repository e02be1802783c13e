"""Runs whose router was tampered with, and a node that has them to give away."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.cli.testnet.local_run import local_keys, local_run
from dipaco.cli.testnet.processes import LOG_NAME
from dipaco.node.catalogue import Catalogue
from dipaco.node.keys import save_key
from dipaco.node.network.identity import load_or_create_identity
from dipaco.node.runs import RunFile
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.training.jobs import Derive, DerivedAnswer
from dipaco.node.training.performer import Performer
from dipaco.protocol.identity import PeerId, peer_id
from dipaco.protocol.ledger import SpecAdopted
from dipaco.protocol.signed import sign
from dipaco.protocol.spec import RouterSpec, spec_digest
from dipaco.protocol.verdict import Derived
from tests.e2e.tiny import TINY
from tests.settings import settings


def tiny_run(folder: Path, name: str) -> RunFile:
    """Return a run that differs from the others in nothing but its name."""
    path = folder / f"{name}.toml"
    path.write_text(TINY.replace('"tiny"', f'"{name}"'))
    return local_run(path, seed=0, rounds=None).run


def derived(run: RunFile, folder: Path) -> RouterSpec:
    """Return the router that a run's source gives."""
    performer = Performer(settings(folder))
    answer = performer.perform(Derive(manifest=run.manifest), lambda progress: None)
    assert isinstance(answer, DerivedAnswer) and isinstance(answer.derivation, Derived)
    return answer.derivation.spec


def prepare_home(
    root: Path, specs: list[tuple[RunFile, RouterSpec]], *, owner: Ed25519PrivateKey | None = None
) -> None:
    """Make a home that holds these runs, each with its spec adopted by the runs' scheduler.

    owner   the node's key; by default the scheduler's, so that the node schedules them.
    """
    key = local_keys(0).rendezvous
    home = Home.at(root)
    save_key(home.identity, owner or key)
    journal = Journal.open(home.journal)
    catalogue = Catalogue(journal)
    for run, spec in specs:
        catalogue.publish("manifest", run.signed)
        catalogue.publish("spec", sign(spec, key))
        catalogue.append(run.id, SpecAdopted(epoch=0, spec=spec_digest(spec)), key)
    journal.close()


def said(home: Path) -> list[str]:
    """Return the lines of a node's log."""
    return (home / LOG_NAME).read_text().splitlines()


def peer_of(home: Path) -> PeerId:
    """Return the peer of a home."""
    return peer_id(load_or_create_identity(Home.at(home).identity))
