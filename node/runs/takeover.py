"""The owner's word that a scheduler goes on with a run without keepers, made in a home.

For a scheduler that is gone for good, with its disk; and for a run of whose keepers so many are
gone for good that no quorum is left. As long as there is one, the keepers say who goes on.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.runs.files import RunFile
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.identity import PeerId, peer_id, short_peer
from dipaco.protocol.wire.signed import sign
from dipaco.protocol.work.authority import scheduler_of_term
from dipaco.protocol.work.candidate import next_own_term
from dipaco.protocol.work.terms import OwnersGrant


def grant_term(
    run: RunFile,
    home: Path,
    key: Ed25519PrivateKey,
    *,
    term: int | None,
    me: PeerId | None,
    keepers_gone: bool = False,
) -> tuple[OwnersGrant, PeerId]:
    """Have the term begin that follows the ledger of `home`; returns it, and its scheduler.

    term           None: the next one of this node, `me`.
    keepers_gone   a quorum of the run's keepers is gone for good, and never comes back.

    The node of the home tells it to all others when it is started. Raises ConfigError, HomeTaken.
    """
    manifest = run.manifest
    if peer_id(key) != manifest.owner:
        raise ConfigError(f"--key: it is of {peer_id(key)}, the run's owner is {manifest.owner}")
    if manifest.schedule.named_keepers and not keepers_gone:
        raise ConfigError(
            f"run {manifest.name} has keepers: start another of its schedulers, which takes over "
            "as soon as a quorum of them answers; give --keepers-gone if there never will be one "
            "again: the run then goes on without keepers, and what only they knew is given up"
        )
    with Home(home).held():
        journal = Journal.open(Home(home).journal)
        try:
            return _granted(run, RunStore(journal, me), key, term, me)
        finally:
            journal.close()


def _granted(
    run: RunFile, store: RunStore, key: Ed25519PrivateKey, term: int | None, me: PeerId | None
) -> tuple[OwnersGrant, PeerId]:
    schedulers, record = run.manifest.schedule.schedulers, store.runs.get(run.id)
    if record is None:
        raise ConfigError(
            f"the node of this home does not know run {run.manifest.name}: start it once with "
            "--run, so that it has the ledger to go on from"
        )
    if term is None:
        if me not in schedulers:
            choices = ", ".join(
                f"--term {next_own_term(schedulers, each, record.term)} for {short_peer(each)}"
                for each in schedulers
            )
            raise ConfigError(
                f"--term: this node is no scheduler of the run; say which one goes on: {choices}"
            )
        assert me is not None
        term = next_own_term(schedulers, me, record.term)
    if term <= record.term:
        raise ConfigError(f"--term: {term}, the ledger here is of term {record.term} already")
    grant = OwnersGrant(run=run.id, term=term, head=record.chain_head)
    store.publish("grant", sign(grant, key))
    return grant, scheduler_of_term(schedulers, term)


def granted_text(grant: OwnersGrant, scheduler: PeerId) -> str:
    """Say what was granted, and what to do now."""
    return (
        f"term {grant.term} is granted to {short_peer(scheduler)}, from record "
        f"{grant.head.length} on: start the node of this home, and that scheduler's"
    )
