"""Runs whose router was tampered with, and a node that has them to give away."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.cli.testnet.local_run import local_keys, local_run
from dipaco.cli.testnet.processes import LOG_NAME
from dipaco.node.jobs.values import Derive, DerivedAnswer
from dipaco.node.network.identity import load_or_create_identity
from dipaco.node.network.keys import save_key
from dipaco.node.runs.files import RunFile, keep_run
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.node.worker.performer import Performer
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.routing.verdict import Derived
from dipaco.protocol.wire.identity import PeerId, peer_id
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.ledger import SpecAdopted
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
    run_store = RunStore(journal)
    for run, spec in specs:
        if owner is None:
            keep_run(home.root, run)
        run_store.publish("manifest", run.signed)
        run_store.publish("spec", sign(spec, key))
        run_store.append(run.id, SpecAdopted(epoch=0, spec=spec_digest(spec)), key)
    journal.close()


def said(home: Path) -> list[str]:
    """Return the lines of a node's log."""
    return (home / LOG_NAME).read_text().splitlines()


def peer_of(home: Path) -> PeerId:
    """Return the peer of a home."""
    return peer_id(load_or_create_identity(Home.at(home).identity))
