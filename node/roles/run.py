"""Which roles a node has, and their common lifetime.

A new role is one module in this folder that defines a `Role`, and one line in `ROLES`.
"""

import trio

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.roles import scheduler, volunteer
from dipaco.node.roles.role import Role
from dipaco.node.runs import kept_runs
from dipaco.node.wiring import Parts

ROLES: tuple[Role, ...] = (
    scheduler.ROLE,
    volunteer.ROLE,
)


async def run_roles(parts: Parts, overview: StatusReporter) -> None:
    """Offer the runs that this home keeps, then work in every role of this node until cancelled.

    An error of one role ends all of them, and is raised.
    """
    for run in kept_runs(parts.home.root):
        parts.catalogue.publish("manifest", run.signed)
    async with trio.open_nursery() as nursery:
        for role in ROLES:
            if role.wanted(parts.config):
                nursery.start_soon(role.run, parts, overview)
