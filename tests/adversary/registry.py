"""The attacks by name: what each is for, and where it can be run.

An attack is one function of an `Arena`. It returns words for what it achieved beyond what the
arena measures by itself, and nothing where it achieved nothing. Being refused is no failure of it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from tests.adversary.arena import Arena

Needs = Literal["memory", "process", "either"]
Act = Callable[[Arena], Awaitable[str | None]]


@dataclass(frozen=True)
class Attack:
    """One way to misbehave."""

    name: str
    kind: str
    """The file that it stands in: the attacks of one are tried on one network."""
    purpose: str
    act: Act
    needs: Needs
    lines: int
    """Log lines of one node that it may cause."""

    def runs_on(self, place: Literal["memory", "process"]) -> bool:
        """Return whether it can be run there."""
        return self.needs in ("either", place)


async def act_out(attack: Attack, arena: Arena) -> str:
    """Return what an attack achieved by its own words; one that breaks has tried nothing."""
    try:
        return await attack.act(arena) or ""
    except Exception as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        return f"the attack itself broke: {error!r}"


ATTACKS: dict[str, Attack] = {}
LINES = 40  # of one node and attack: a person can still read the rest of the log


def attack(*, needs: Needs = "either", lines: int = LINES) -> Callable[[Act], Act]:
    """Register an attack under its function's name; its docstring is its purpose."""

    def register(act: Act) -> Act:
        name, kind = act.__name__, act.__module__.rpartition(".")[2]
        assert name not in ATTACKS and act.__doc__, name
        purpose = " ".join(act.__doc__.split()).removesuffix(".")
        ATTACKS[name] = Attack(name, kind, purpose, act, needs, lines)
        return act

    return register


def all_attacks() -> tuple[Attack, ...]:
    """Return every attack, file by file."""
    for path in sorted((Path(__file__).parent / "attacks").glob("[a-z]*.py")):
        import_module(f"tests.adversary.attacks.{path.stem}")
    return tuple(sorted(ATTACKS.values(), key=lambda each: each.kind))
