"""What a role is: one kind of work that a node does for as long as it runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dipaco.node.api.reporter import StatusReporter
from dipaco.node.assembly import Node
from dipaco.node.config import NodeConfig


@dataclass(frozen=True)
class Role:
    """One kind of work, and which nodes do it."""

    wanted: Callable[[NodeConfig], bool]
    """Whether a node of this configuration has the role."""
    run: Callable[[Node, StatusReporter], Awaitable[None]]
    """Works until cancelled; an error on the guard's list ends the node. Limits that forbid work
    for now are the role's own matter: it asks a gate."""
