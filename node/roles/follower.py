"""Following a run from outside: a node with no worker, no lease and no home that stays.

It is no role of `start`: `run follow` makes such a node for as long as it watches.
"""

import logging
from collections.abc import Callable
from contextlib import closing

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.assembly import Node, assemble
from dipaco.node.config import NodeConfig
from dipaco.node.descriptors import connections, raise_limit
from dipaco.node.jobs.pool import Pool
from dipaco.node.jobs.runner import Worker
from dipaco.node.jobs.settings import settings_of
from dipaco.node.network.door import MOST_CONNECTIONS
from dipaco.node.network.host import open_host
from dipaco.node.roles.offers import RunChooser
from dipaco.node.runs.record import RunRecord
from dipaco.node.stay import PEER_SECONDS
from dipaco.node.storage.files import Home
from dipaco.node.storage.journal import Journal
from dipaco.protocol.errors import Unavailable

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at what no value of a peer tells of: a scheduler that left

Told = Callable[[RunRecord, bool], None]
"""Is called with the run, and whether its scheduler is connected."""


async def follow_from_outside(config: NodeConfig, told: Told) -> None:
    """Follow the run that `config` names, with a key of its own, until it is over.

    config   its home is empty, and may be removed afterwards.

    Raises Unavailable if no run is found in `PEER_SECONDS`, Refusal for one that is not the
    invited one.
    """
    home, settings = Home.at(config.home), settings_of(config)
    pool = Pool(Worker(settings, log.info), Worker(settings, log.info))  # neither has a job
    key = Ed25519PrivateKey.generate()
    limit = connections(raise_limit(), MOST_CONNECTIONS)
    with closing(Journal.open(home.journal)) as journal:
        async with open_host(key, listen=config.node.listen, announce=(), most=limit) as transport:
            node = assemble(config, home, key, journal, pool, transport)
            async with trio.open_nursery() as nursery:
                for service in node.services:
                    await nursery.start(service)
                await follow(node, told)
                nursery.cancel_scope.cancel()


async def follow(node: Node, told: Told) -> None:
    """Call `told` when the run's ledger grows, and from time to time, until the run is over."""
    record = None
    with trio.move_on_after(PEER_SECONDS):
        record = await RunChooser(node).next_run()
    if record is None:
        raise Unavailable(f"no run in {PEER_SECONDS:g} s: {node.activity.reason.text}")
    while True:
        told(record, record.scheduler in node.transport.peers())
        if record.over:
            return
        with trio.move_on_after(LOOK_SECONDS):
            await node.run_store.changed.wait()
