"""How a node looks from outside: peers tell it the address that they see, the time, and its port.

A peer dials back nothing but the address that the asker's own connection comes from, and only a
public one: so nobody has it dial a third party, nor the private network that it stands in. It sends
20 bytes there and tells one word of the outcome.
"""

import random
import time
from collections.abc import Awaitable, Callable

import trio

from dipaco.node.network.allowance import Allowances
from dipaco.node.network.rpc import Rpc
from dipaco.node.network.seats import prefix_of
from dipaco.node.network.transport import Transport
from dipaco.node.seen import OutsideView, SeenFrom
from dipaco.protocol.errors import DipacoError
from dipaco.protocol.wire.address import Scope, ip_text, scope_of_ip
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.wire.messages import AskOutside, Outside, PortState

GREETING = b"\x13/multistream/1.0.0\n"  # with it a libp2p node begins every connection
DIAL_SECONDS = 5.0  # for the connection and the greeting together
DIALS = 4  # at once, for all askers
DIALS_PER_MINUTE = 3  # for one IP prefix: a person who runs `doctor` twice asks each peer twice
MAX_PREFIXES = 1024  # of these remembered
ASKED = 8  # peers that are asked for the time: the median stands if most of them are right
DIALLERS = 3  # of them that are asked to dial
ANSWER_SECONDS = 10.0
Dial = Callable[[str, int], Awaitable[PortState]]


class Outsiders:
    """Answers `AskOutside`, and asks it of peers."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        *,
        dial: Dial | None = None,
        clock: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        """dial: tries a port of an IP address [`dial_back`]; clock: returns Unix time, seconds."""
        self._transport, self._rpc = transport, rpc
        self._dial, self._clock = dial or dial_back, clock
        self._chance = chance or random.Random()
        self._allowed = Allowances(DIALS_PER_MINUTE, seconds=60.0, keys=MAX_PREFIXES)
        self._dialling = 0
        rpc.handle(AskOutside, self._answer)

    async def _answer(self, peer: PeerId, ask: AskOutside) -> Outside:
        found = self._transport.remote_ip(peer)
        ip = ip_text(found) if found else ""
        port = await self._tried(ip, ask.port)
        return Outside(observed=ip, time=int(1000 * self._clock()), port=port)

    async def _tried(self, ip: str, port: int) -> PortState:
        await trio.lowlevel.checkpoint()
        if not (port and ip) or scope_of_ip(ip) is not Scope.WORLD or self._dialling >= DIALS:
            return "not-dialled"
        prefix, now = prefix_of(ip, ()), trio.current_time()
        if self._allowed.wait(prefix, now):
            return "not-dialled"
        self._allowed.spend(prefix, now)
        self._dialling += 1
        try:
            return await self._dial(ip, port)
        finally:
            self._dialling -= 1

    async def ask(self) -> OutsideView:
        """Return what peers say."""
        port = next((each.port for each in self._transport.addresses), 0)
        peers = sorted(self._rpc.ready())
        chosen = self._chance.sample(peers, min(ASKED, len(peers)))
        found: list[SeenFrom] = []
        async with trio.open_nursery() as nursery:
            for number, peer in enumerate(chosen):
                nursery.start_soon(self._ask, peer, port if number < DIALLERS else 0, found)
        return OutsideView(port=port, answers=tuple(found))

    async def _ask(self, peer: PeerId, port: int, found: list[SeenFrom]) -> None:
        try:
            asked, begun = self._clock(), trio.current_time()
            told = await self._call(peer, 0)
            took = trio.current_time() - begun
            tried = (await self._call(peer, port)).port if port else told.port
        except DipacoError:
            return  # gone meanwhile, or of a version that knows no such call
        offset = told.time / 1000 - (asked + took / 2)
        found.append(
            SeenFrom(
                peer=peer,
                offset_s=offset,
                round_trip_s=took,
                observed=told.observed,
                port=tried,
            )
        )

    async def _call(self, peer: PeerId, port: int) -> Outside:
        """Ask one peer; the answer to a call without a port comes at once, so it tells the time."""
        ask = AskOutside(port=port)
        return await self._rpc.call(peer, ask, Outside, timeout=ANSWER_SECONDS)


async def dial_back(ip: str, port: int) -> PortState:
    """Connect to a port, and see whether a libp2p node greets there."""
    state: PortState = "closed"
    with trio.move_on_after(DIAL_SECONDS):
        try:
            stream = await trio.open_tcp_stream(ip, port)
        except OSError:
            return state
        state = "open"
        async with stream:
            if await _greeted(stream):
                state = "answers"
    return state


async def _greeted(stream: trio.SocketStream) -> bool:
    heard = b""
    try:
        await stream.send_all(GREETING)
        while len(heard) < len(GREETING):
            part = await stream.receive_some(len(GREETING) - len(heard))
            if not part:
                break
            heard += part
    except trio.BrokenResourceError:
        return False
    return heard == GREETING
