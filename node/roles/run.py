"""Which roles a node has, and their common lifetime.

A new role is one module in this folder that defines a `Role`, and one line in `ROLES`.
"""

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.config import NodeConfig
from dipaco.node.roles import keeper, scheduler, volunteer
from dipaco.node.roles.role import Role
from dipaco.node.runs.files import kept_runs

PAUSE_SECONDS = 30.0  # before a role that a bug ended begins anew
ROLES: tuple[Role, ...] = (
    keeper.ROLE,
    scheduler.ROLE,
    volunteer.ROLE,
)


def trains(config: NodeConfig) -> bool:
    """Return whether a node of this configuration trains, and so needs a device."""
    return volunteer.ROLE.wanted(config)


async def run_roles(node: Node, reporter: StatusReporter) -> None:
    """Offer the runs of this home's operator, then work in every role of this node until cancelled.

    An error of one role ends all of them, and is raised; a bug is reported, and its role begins
    anew.
    """
    _offer_own_runs(node)
    async with trio.open_nursery() as nursery:
        for role in ROLES:
            if role.wanted(node.config):
                nursery.start_soon(_keep, role, node, reporter)


async def _keep(role: Role, node: Node, reporter: StatusReporter) -> None:
    while True:
        await node.guard.attempt("working in a role", None, role.run, node, reporter)
        await trio.sleep(PAUSE_SECONDS)


def _offer_own_runs(node: Node) -> None:
    """Offer the runs in `runs/`; a founder's also that it knows and whose id it was given.

    A name would not do: a stranger may have given it to a run that names this node.
    """
    store = node.run_store
    for run in kept_runs(node.home.root):
        if run.id in store.runs:
            store.keep_own(run.id)
        else:
            store.publish("manifest", run.signed)
    if node.config.node.rendezvous:
        for known in [run for run in store.runs if run.hex() in node.config.run.id]:
            store.keep_own(known)
        store.follow(())
