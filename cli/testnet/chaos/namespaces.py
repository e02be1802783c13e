"""Network namespaces instead of forwarders: every node with an interface and a kernel of its own.

They need root. Each node's namespace hangs on one bridge by a pair of virtual interfaces; token
bucket filters (TBF) on both ends give its rates, for all packets, acknowledgements included. A cut
moves nodes to a bridge of their own, so that packets are lost as on a real line. The kernel's delay
and loss (netem) is not everywhere, so a line has its rates alone.
"""

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from subprocess import CalledProcessError
from typing import Final

import trio

from dipaco.cli.testnet.chaos.grammar import Way
from dipaco.cli.testnet.chaos.line import Line
from dipaco.protocol.errors import Unavailable

NETWORK: Final = "10.213"  # the first two bytes of every address
PREFIX: Final = f"{NETWORK}.0.0/16"
PORT: Final = 4410
BURST: Final = "32kb"  # of a filter: two of Linux's largest segments
LATENCY: Final = "400ms"  # that bytes may wait in a filter: the buffer of a home router


class Namespaces:
    """The namespaces of one network; made by `open_namespaces`."""

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self._lines = lines
        self._tag = f"d{os.getpid() % 100_000}"  # names of interfaces have 15 letters at most
        self._numbers: dict[str, int] = {}
        self._cuts: list[tuple[frozenset[str], str]] = []
        self._bridges = 0

    @property
    def bridge(self) -> str:
        """The bridge of all nodes that are not cut off."""
        return f"{self._tag}b0"

    async def add(self, name: str) -> None:
        """Make the namespace of a node, if there is none yet."""
        if name in self._numbers:
            return
        number = self._numbers[name] = len(self._numbers) + 1
        space, ours, theirs = self.space(name), self._end(name), f"{self._tag}w{number}"
        await call("ip", "netns", "add", space)
        await call("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        await call("ip", "link", "set", theirs, "netns", space)
        await call("ip", "link", "set", ours, "master", self.bridge, "up")
        await call("ip", "-n", space, "address", "add", f"{self.host(name)}/16", "dev", theirs)
        await call("ip", "-n", space, "link", "set", theirs, "up")
        await call("ip", "-n", space, "link", "set", "lo", "up")
        if line := self._lines.get(name):
            await call("tc", "-n", space, *_filter(theirs, line.up))
            await call("tc", *_filter(ours, line.down))

    def space(self, name: str) -> str:
        """Return the name of a node's namespace."""
        return f"{self._tag}-{self._numbers[name]}"

    def _end(self, name: str) -> str:
        return f"{self._tag}v{self._numbers[name]}"

    def host(self, name: str) -> str:
        """Return the address of a node."""
        number = self._numbers[name]
        return f"{NETWORK}.{number // 250}.{number % 250 + 2}"

    def command(self, name: str) -> tuple[str, ...]:
        """Return the words before a command that runs in a node's namespace."""
        return ("ip", "netns", "exec", self.space(name))

    async def cut(self, inside: frozenset[str], way: Way) -> None:
        """Move nodes to a bridge of their own; a cut in one direction alone is not possible."""
        assert way == "both"
        self._bridges += 1
        bridge = f"{self._tag}b{self._bridges}"
        await call("ip", "link", "add", bridge, "type", "bridge")
        await call("ip", "link", "set", bridge, "up")
        self._cuts.append((inside, bridge))
        await self._place(inside)

    async def heal(self, inside: frozenset[str], way: Way) -> None:
        """Move them back, or to a later cut that holds them still."""
        cut = next(each for each in self._cuts if each[0] == inside)
        self._cuts.remove(cut)
        await self._place(inside)
        await call("ip", "link", "delete", cut[1])

    async def _place(self, names: Iterable[str]) -> None:
        for name in names:
            bridges = [bridge for inside, bridge in self._cuts if name in inside]
            bridge = bridges[-1] if bridges else self.bridge
            if name in self._numbers:
                await call("ip", "link", "set", self._end(name), "master", bridge)

    async def close(self) -> None:
        """Remove all; what a namespace holds goes with it."""
        for name in self._numbers:
            await call("ip", "netns", "delete", self.space(name))
        for bridge in (self.bridge, *(bridge for _, bridge in self._cuts)):
            await call("ip", "link", "delete", bridge)


def _filter(device: str, rate: float) -> tuple[str, ...]:
    bits = f"{round(rate * 8)}bit"
    words = ("qdisc", "add", "dev", device, "root", "tbf", "rate", bits)
    return (*words, "burst", BURST, "latency", LATENCY)


@asynccontextmanager
async def open_namespaces(lines: Mapping[str, Line]) -> AsyncIterator[Namespaces]:
    """Make the bridge; everything is removed at the end of the block.

    Raises Unavailable with the reason where namespaces are not allowed.
    """
    spaces = Namespaces(lines)
    await call("ip", "link", "add", spaces.bridge, "type", "bridge")
    try:
        await call("ip", "link", "set", spaces.bridge, "up")
        yield spaces
    finally:
        with trio.CancelScope(shield=True):
            await spaces.close()


async def call(*words: str) -> None:
    """Run one command of iproute2; raises Unavailable with its reason."""
    try:
        await trio.run_process(words, capture_stdout=True, capture_stderr=True)
    except FileNotFoundError:
        raise Unavailable(f"{words[0]} is not installed") from None
    except CalledProcessError as error:
        reason = bytes(error.stderr).decode(errors="replace").strip().split("\n")[-1]
        raise Unavailable(f"{' '.join(words)}: {reason}") from None
