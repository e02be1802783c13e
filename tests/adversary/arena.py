"""The honest network that is attacked, and what is measured before and after an attack.

Two arenas stand behind one interface: whole nodes over the transport in memory (`memory.py`), and
real processes over real sockets (`processes.py`).
"""

import hashlib
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.errors import DipacoError
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId, short_peer
from tests.adversary.client import Door, Stranger, Target

MB = 1 << 20
MOST_MB = 20.0  # that a node may hold more than before an attack
MOST_DISK_MB = 32.0  # that its home may grow by in one attack
MOST_DESCRIPTORS = 8  # more than before: connections of honest peers come and go
MOST_LATENCY = 2.0  # s of an honest call
MOST_HOLD = 0.25  # s of CPU for which one step of a task holds the loop
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
LOUD = re.compile(r"^\S+ (warning|error|critical)\b")
STRUCK = re.compile(r"peer=(\S+) (?:banned|hung up)")


class ThirdParty(ABC):
    """An address of somebody who takes no part, and counts who knocks there."""

    @property
    @abstractmethod
    def address(self) -> Address:
        """Where it listens."""

    @property
    @abstractmethod
    def knocks(self) -> int:
        """Connections so far."""


class Arena(ABC):
    """An honest network, and the means to send strangers to it."""

    seconds: float
    """For which an attack that goes on goes on."""
    scheduler: Target
    volunteers: tuple[Target, ...]
    manifest: Manifest

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.strangers: list[PeerId] = []
        self.got_in = 0
        """How many of them a node has let in."""

    @property
    def run(self) -> Digest:
        """The id of the honest run."""
        return run_id(self.manifest)

    @property
    def everybody(self) -> tuple[Target, ...]:
        """All honest nodes, the scheduler first."""
        return (self.scheduler, *self.volunteers)

    @abstractmethod
    def door(self, key: Ed25519PrivateKey, ip: str) -> AbstractAsyncContextManager[Door]:
        """Join the network with a key, from an address."""

    @abstractmethod
    async def progress(self) -> int:
        """Return the length of the honest run's ledger."""

    @abstractmethod
    def third_party(self, prefix: int) -> AbstractAsyncContextManager[ThirdParty]:
        """Listen at an address of that prefix."""

    @staticmethod
    @abstractmethod
    def ip(prefix: int, host: int) -> str:
        """Return an address; those of one `prefix` (10 to 250) share a /24."""

    def new_key(self) -> Ed25519PrivateKey:
        """Return a key that nobody has seen."""
        seed = f"stranger {type(self).__name__} {next(self._numbers)}"
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed.encode()).digest())

    @asynccontextmanager
    async def stranger(self, prefix: int = 10, host: int = 1) -> AsyncIterator[Stranger]:
        """Give a new identity, which leaves with the block."""
        key = self.new_key()
        async with (
            self.door(key, self.ip(prefix, host)) as door,
            trio.open_nursery() as nursery,
        ):
            self.strangers.append(door.me)
            stranger = Stranger(key, door, nursery)
            try:
                yield stranger
            finally:
                self.got_in += stranger.got_in
            nursery.cancel_scope.cancel()

    async def crowd(
        self,
        count: int,
        act: Callable[[Stranger, int], Awaitable[None]],
        *,
        prefix: int | None = 10,
        seconds: float | None = None,
    ) -> None:
        """Let `count` identities act at once; whoever is refused leaves.

        prefix    all are of this one; None: each of its own, from 20 on.
        seconds   after which all leave [`self.seconds`].
        """

        async def one(number: int) -> None:
            place = (20 + number % 200, 1 + number // 200) if prefix is None else (prefix, 1)
            with suppress(DipacoError):
                async with self.stranger(*place) as stranger:
                    await attempt(act(stranger, number))

        with trio.move_on_after(self.seconds if seconds is None else seconds):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)


async def attempt(doing: Awaitable[None]) -> None:
    """Do what may be refused."""
    with suppress(DipacoError):
        await doing


@dataclass
class Calls:
    """What an honest peer's calls took while the attack went on."""

    slowest: float = 0.0
    """Seconds; infinite where one was not answered."""
    what: str = ""
    count: int = 0

    def note(self, what: str, seconds: float) -> None:
        """Take in one call."""
        self.count += 1
        if seconds > self.slowest:
            self.slowest, self.what = seconds, what


@dataclass(frozen=True)
class Measure:
    """The state of the honest network at one moment."""

    megabytes: Mapping[str, float]
    """Resident, by node."""
    descriptors: Mapping[str, int]
    disk: Mapping[str, float]
    """Megabytes of each home."""
    dead: tuple[str, ...] = ()
    """Nodes that ended by themselves, and how."""


@dataclass
class Outcome:
    """What one attack did."""

    attack: str
    purpose: str
    said: str = ""
    """What it achieved by its own words."""
    seconds: float = 0.0
    strangers: int = 0
    got_in: int = 0
    """How many of the strangers a node has let in."""
    calls: Calls = field(default_factory=Calls)
    hold: float = 0.0
    """CPU seconds of the longest step of an honest task, where it can be seen."""
    megabytes: float = 0.0
    most_megabytes: float = MOST_MB
    descriptors: int = 0
    disk: float = 0.0
    lines: int = 0
    """Of the node that logged most."""
    most_lines: int = 40
    bad_lines: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    digests: str = ""
    """How the run's states differ from the reference's; empty: not at all."""

    def compare(self, before: Measure, after: Measure) -> None:
        """Note the growth of the node that grew most."""
        self.megabytes = _growth(before.megabytes, after.megabytes)
        self.descriptors = int(_growth(before.descriptors, after.descriptors))
        self.disk = _growth(before.disk, after.disk)
        self.dead = [each for each in after.dead if each not in before.dead]

    def read_log(
        self, lines: Mapping[str, list[str]], strangers: list[PeerId], honest: Mapping[str, str]
    ) -> None:
        """Judge what each node logged.

        honest   by short PeerID the name of every honest node.
        """
        known = set(map(short_peer, strangers))
        for said in lines.values():
            loud = [s for s in said if LOUD.match(s) or any(name in s for name in known)]
            self.lines = max(self.lines, len(loud))
            self.bad_lines += [ascii(s)[:120] for s in said if CONTROL_CHARACTERS.search(s)]
            self.bad_lines += [s[:120] for s in said if s.startswith("Traceback ")]
            for line in said:
                if (found := STRUCK.search(line)) and found[1] in honest:
                    self.struck.append(f"{honest[found[1]]}: {line[:160]}")

    def faults(self) -> list[str]:
        """Return what the attack achieved."""
        found = [self.said] if self.said else []
        if self.strangers and not self.got_in:
            found.append("nobody was let in, so nothing was tried")
        found += [f"ended: {each}" for each in self.dead]
        if self.calls.slowest > MOST_LATENCY:
            took = "unanswered" if math.isinf(self.calls.slowest) else f"{self.calls.slowest:.1f} s"
            found.append(f"honest {self.calls.what}: {took}")
        if self.hold > MOST_HOLD:
            found.append(f"held a loop for {self.hold:.1f} CPU s")
        if self.megabytes > self.most_megabytes:
            found.append(f"+{self.megabytes:.0f} MB")
        if self.disk > MOST_DISK_MB:
            found.append(f"+{self.disk:.0f} MB on disk")
        if self.descriptors > MOST_DESCRIPTORS:
            found.append(f"+{self.descriptors} descriptors")
        if self.lines > self.most_lines:
            found.append(f"{self.lines} log lines")
        found += [f"log: {line}" for line in self.bad_lines[:2]]
        found += [f"struck {who}" for who in self.struck[:2]]
        if self.digests:
            found.append(self.digests)
        return found


def _growth(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    return max((after[name] - before[name] for name in after if name in before), default=0.0)
