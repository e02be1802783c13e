"""The role of a keeper: store a run for everybody, and vote on its ledger where the manifest says.

Any node may store (`start --keep`). Only the keepers that a manifest names vote; a node that is
told to (`start --keeper`) and is not named refuses. A rendezvous node into whose home the operator
put the run needs no flag: as a keeper it votes, and as a scheduler that stands by it has at hand
what it would go on from.
"""

import logging
from functools import partial

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.config import NodeConfig
from dipaco.node.keeper.blobs import StoredRun
from dipaco.node.keeper.recovery import recover
from dipaco.node.keeper.service import KeptRun
from dipaco.node.roles import volunteer
from dipaco.node.roles.role import Role
from dipaco.node.runs.record import RunRecord
from dipaco.protocol.errors import Refusal
from dipaco.protocol.wire.digest import Digest

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks for a run that is to be kept


async def keep_all(node: Node, reporter: StatusReporter) -> None:
    """Keep every run of the operator; raises Refusal for one whose manifest does not name us."""
    store, begun = node.run_store, set[Digest]()
    _begin_voting(node)
    async with trio.open_nursery() as nursery:
        while True:
            for run, record in list(store.runs.items()):
                if _is_wanted(node, record) and run not in begun:
                    begun.add(run)
                    store.keep_own(run)
                    _check_named(node, record)
                    if record not in reporter.runs:
                        reporter.runs.append(record)
                    nursery.start_soon(_store, node, record)
            if node.config.node.keeps and not begun:
                node.activity.say("no-run-kept", peers=len(node.transport.peers()))
            with trio.move_on_after(LOOK_SECONDS):
                await store.changed.wait()


def _is_wanted(node: Node, record: RunRecord) -> bool:
    """Return whether the operator wants the run kept here."""
    config = node.config
    if not config.node.keeps:
        schedule = record.manifest.schedule
        keepers = schedule.named_keepers
        named = {*keepers, *schedule.schedulers} if keepers else ()
        return record.run in node.run_store.own and node.me in named
    return record.run in node.run_store.own or record.run.hex() in config.run.id


def _check_named(node: Node, record: RunRecord) -> None:
    if node.config.node.keeper and node.me not in record.manifest.schedule.named_keepers:
        raise Refusal(
            f"--keeper: run {record.manifest.name} does not name this node ({node.me}) among its "
            "schedule.keepers: start it with --keep to store without a vote"
        )


def _begin_voting(node: Node) -> None:
    for record in node.run_store.runs.values():
        if record.run in node.run_store.own and node.me in record.keepers:
            node.keeper.keep(record)


async def _store(node: Node, record: RunRecord) -> None:
    votes = node.me in record.keepers
    stored = StoredRun(
        record=record,
        run_store=node.run_store,
        blobs=node.blobs,
        claims=node.claims,
        exchange=node.exchange,
        alive=node.transport.peers,
        # Who may have to schedule goes on from what is at hand.
        me=None if node.me in record.manifest.schedule.schedulers or not votes else node.me,
        kept=node.keeper.keep(record) if votes else None,
    )
    log.info("keeping run %s%s", record.manifest.name, "" if votes else ", without a vote")
    stored.claim()
    if not volunteer.ROLE.wanted(node.config):  # its claim of an earlier start, nobody else's
        node.claims.claim(record.run, ())
    say = partial(_say, node, record, stored)
    async with trio.open_nursery() as nursery:
        if stored.kept is not None:
            nursery.start_soon(_recover, node, stored.kept)
        while True:
            await node.guard.attempt("keeping a run", None, stored.run, say)
            await trio.sleep(LOOK_SECONDS)


async def _recover(node: Node, kept: KeptRun) -> None:
    while kept.forgot:
        await node.guard.run("learning as a keeper", None, recover, kept, node.rpc, node.gossip.rpc)
        await trio.sleep(LOOK_SECONDS)


def _say(node: Node, record: RunRecord, stored: StoredRun) -> None:
    """Tell what is kept, where this node does nothing else for the run."""
    if node.config.node.keeps and not node.request_router.scheduling(record.run):
        votes = "votes" if stored.kept is not None else "stores"
        waits = f", {stored.kept.waits}" if stored.kept and stored.kept.waits else ""
        lacking = f", lacks {stored.lacking} blobs" if stored.lacking else ""
        node.activity.of(record.run).say(
            "keeping", votes=votes, records=record.length, term=record.term, lacking=waits + lacking
        )


def _wanted(config: NodeConfig) -> bool:
    return config.node.keeps or config.node.rendezvous


ROLE = Role(wanted=_wanted, run=keep_all)
