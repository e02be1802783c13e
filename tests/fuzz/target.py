"""A target of the fuzzer: code that reads bytes of others, and the errors that it may raise."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from tests.fuzz.mutate import Mutator

Call = Callable[[bytes], object]


class Broken(Exception):
    """Something that must always hold did not: never declared."""


def hold(truth: bool, words: str) -> None:
    """Raise Broken with `words` unless `truth` holds."""
    if not truth:
        raise Broken(words)


@dataclass(frozen=True)
class Target:
    """Code under test; `call` returns for an input that is taken, and raises for one refused."""

    name: str
    """`GROUP/NAME`: figures are printed by group."""
    seeds: Callable[[], Sequence[bytes]]
    """Makes valid inputs."""
    declared: tuple[type[Exception], ...]
    """The errors that an input may lead to."""
    mutator: Callable[[], Mutator]
    call: Call | None = None
    opened: Callable[[], AbstractContextManager[Call]] | None = None
    """For code with a state: yields the call. A batch begins with a new one."""
    limit: int = 1 << 16
    """Bytes of the largest input that can arrive there."""
    seconds: float = 0.05
    """Of the processor, at most, for one input: a node's loop may stand still no longer."""
    turn: float = 0.5
    """Seconds that it runs before the next target's turn."""
    batch: int = 500
    """Inputs that share one state."""

    @property
    def group(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    def open(self) -> AbstractContextManager[Call]:
        """Return a context that yields the call."""
        if self.opened is not None:
            return self.opened()
        assert self.call is not None
        return nullcontext(self.call)

    @cached_property
    def material(self) -> tuple[tuple[bytes, ...], Mutator]:
        """The seeds and the mutator, made once."""
        return tuple(self.seeds()), self.mutator()
