"""A forwarder in front of every node: delays, rates and cuts between nodes of this machine.

It needs no privileges. Each node announces the port of its forwarder, which passes connections on
to the port that the node listens on. The kernel's table tells which node's process dialled, so
every connection has two names, and each of its directions is shaped and cut by itself. A cut holds
the bytes back, as a pulled cable does; whoever waits longer than the cut finds them afterwards.
"""

import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psutil
import trio

from dipaco.cli.testnet.chaos.grammar import Way
from dipaco.cli.testnet.chaos.line import Line, Losses, Pipe

LOCALHOST: Final = "127.0.0.1"
CHUNK: Final = 16 << 10  # bytes; at 1 Mbit/s it takes 0.13 s, so that a cut acts soon
# Bytes that the kernel holds of what was passed on: they count as arrived.
SENDING: Final = 16 << 10
CHUNKS: Final = 64  # that a direction holds: 1 MiB, some 50 ms of a line of 20 MB/s
SOMEBODY: Final = ""
"""A connection whose dialler is not known: it has no line, and no cut meets it."""


@dataclass(frozen=True)
class Cut:
    """A cut round some nodes."""

    inside: frozenset[str]
    way: Way

    def holds(self, source: str, target: str) -> bool:
        """Return whether bytes from `source` to `target` cross it."""
        inward = target in self.inside and source not in self.inside and self.way != "out"
        outward = source in self.inside and target not in self.inside and self.way != "in"
        return inward or outward


@dataclass
class Mesh:
    """The lines of all nodes, and the cuts between them."""

    lines: Mapping[str, Line]
    """By node; a node without one has a line that costs nothing."""
    seed: int
    processes: Callable[[], Mapping[str, int]]
    """Gives the process id of every node that runs now."""
    carried: dict[tuple[str, str], int] = field(default_factory=dict)
    """(from, to): bytes that arrived."""

    def __post_init__(self) -> None:
        self._up = {name: Pipe(line.up) for name, line in self.lines.items()}
        self._down = {name: Pipe(line.down) for name, line in self.lines.items()}
        self._cuts: list[Cut] = []
        self._healed = trio.Condition()
        self._links = 0

    async def cut(self, inside: frozenset[str], way: Way) -> None:
        """Hold back the bytes between the nodes `inside` and all others."""
        self._cuts.append(Cut(inside, way))

    async def heal(self, inside: frozenset[str], way: Way) -> None:
        """End a cut."""
        self._cuts.remove(Cut(inside, way))
        async with self._healed:
            self._healed.notify_all()

    def is_cut(self, source: str, target: str) -> bool:
        """Whether bytes from `source` to `target` are held back now."""
        known = SOMEBODY not in (source, target)
        return known and any(cut.holds(source, target) for cut in self._cuts)

    async def passable(self, source: str, target: str) -> None:
        """Return when no cut holds back bytes from `source` to `target`."""
        async with self._healed:
            while self.is_cut(source, target):
                await self._healed.wait()

    def arrival(self, source: str, target: str, size: int, now: float, losses: Losses) -> float:
        """Return when `size` bytes that `source` sends `now` arrive at `target`."""
        when, delay = now, 0.0
        if source in self._up:
            when = self._up[source].leave(when, size)
            delay += self.lines[source].delay
        if target in self._down:
            when = self._down[target].leave(when, size)
            delay += self.lines[target].delay
        return when + delay + losses.pause(size, delay)

    def losses(self, source: str, target: str) -> Losses:
        """Return the losses of one direction of a new connection."""
        self._links += 1
        passed = 1.0
        for name in (source, target):
            passed *= 1 - (self.lines[name].loss if name in self.lines else 0.0)
        return Losses(1 - passed, random.Random(f"{self.seed}/{source}/{target}/{self._links}"))

    def count(self, source: str, target: str, size: int) -> None:
        """Count bytes that arrived."""
        place = (source, target)
        self.carried[place] = self.carried.get(place, 0) + size

    async def dialler(self, port: int, to: int) -> str:
        """Return the node whose process dialled `to` from `port`; SOMEBODY if none is found."""
        return await trio.to_thread.run_sync(_owner, port, to, dict(self.processes()))


def _owner(port: int, to: int, processes: Mapping[str, int]) -> str:
    """Look the dialler up: two may have one port, each for its own target."""
    for name, pid in processes.items():
        try:
            connections = psutil.Process(pid).net_connections("tcp4")
        except (psutil.Error, OSError):  # it has ended
            continue
        ends = {(each.laddr.port, each.raddr.port) for each in connections if each.raddr}
        if (port, to) in ends:
            return name
    return SOMEBODY


async def forward(mesh: Mesh, name: str, listener: trio.SocketListener, port: int) -> None:
    """Pass connections to `listener` on to the node `name`, which listens on `port`; endless."""
    await trio.serve_listeners(partial(_accept, mesh, name, port), [listener])


async def _accept(mesh: Mesh, name: str, port: int, incoming: trio.SocketStream) -> None:
    """Carry one connection to its end."""
    async with incoming:
        try:
            ends = incoming.socket.getpeername()[1], incoming.socket.getsockname()[1]
            dialler = await mesh.dialler(*ends)
            await mesh.passable(dialler, name)
            outgoing = await trio.open_tcp_stream(LOCALHOST, port)
        except OSError:  # the node is down, or the dialler has left
            return
        for stream in (incoming, outgoing):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING)
        async with outgoing, trio.open_nursery() as nursery:
            scope = nursery.cancel_scope
            nursery.start_soon(carry, mesh, (dialler, name), (incoming, outgoing), scope)
            nursery.start_soon(carry, mesh, (name, dialler), (outgoing, incoming), scope)


async def carry(
    mesh: Mesh,
    way: tuple[str, str],
    streams: tuple[trio.abc.ReceiveStream, trio.abc.SendStream],
    scope: trio.CancelScope,
) -> None:
    """Carry bytes of one direction; its end, which arrives as bytes do, ends the connection."""
    sender, receiver = trio.open_memory_channel[tuple[float, bytes]](CHUNKS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read, mesh, way, streams[0], sender)
        await _write(mesh, way, streams[1], receiver)
        nursery.cancel_scope.cancel()
    scope.cancel()


async def _read(
    mesh: Mesh,
    way: tuple[str, str],
    stream: trio.abc.ReceiveStream,
    sender: "trio.MemorySendChannel[tuple[float, bytes]]",
) -> None:
    losses, last = mesh.losses(*way), 0.0
    data = b"first"
    while data:
        try:
            data = await stream.receive_some(CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""  # a reset arrives as an end: the node treats both as a lost connection
        now = trio.current_time()
        last = max(last, mesh.arrival(*way, len(data), now, losses))
        await sender.send((last, data))


async def _write(
    mesh: Mesh,
    way: tuple[str, str],
    stream: trio.abc.SendStream,
    receiver: "trio.MemoryReceiveChannel[tuple[float, bytes]]",
) -> None:
    async for when, data in receiver:
        await trio.sleep_until(when)
        await mesh.passable(*way)
        if not data:
            return
        try:
            await stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        mesh.count(*way, len(data))
