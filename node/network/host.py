"""The transport over libp2p: TCP, Noise and yamux, and nothing else.

Together with `shims`, `libp2p_tcp`, `libp2p_yamux` and `libp2p_gossip` this is the only importer of
libp2p: its types, errors and pitfalls end here.
Left out on purpose: plaintext (it proves no identity), QUIC and mplex (slow), the auto-connector
(it dials every peer it hears of), the resource manager (it loses count), kad-DHT and bitswap.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from libp2p import new_host
from libp2p.abc import IHost, INetStream, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import _IdentifyNotifee
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from dipaco.node.network.addresses import check_free, resolve
from dipaco.node.network.caps import Caps, is_near
from dipaco.node.network.door import MOST_CONNECTIONS, OF_PEER, Door
from dipaco.node.network.guard import Guard
from dipaco.node.network.libp2p_gossip import gossip
from dipaco.node.network.libp2p_tcp import PacedTcp, paced
from dipaco.node.network.libp2p_yamux import BoundedYamux
from dipaco.node.network.seats import Network
from dipaco.node.network.shims import (
    contain_logging,
    dial_error,
    handle_inbound,
    install_shims,
    translated,
)
from dipaco.node.network.transport import (
    HUNG_UP,
    TOPIC_PENDING,
    Handler,
    PeerCallback,
    Traffic,
    log_ended,
)
from dipaco.node.network.twins import HELLO, TURNED_AWAY, TWIN, Twins
from dipaco.protocol.errors import ConfigError, DipacoError, RemoteProtocolError, Unavailable
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerId, short_peer

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 8.0  # s for all of it; a dialler of ours waits no longer
ENDING = 128  # connections in a handshake or about to end, beyond those that are kept
DIAL_TIMEOUT = 8.0  # s for one address that does not answer; libp2p's own limit is 120
RESET_TIMEOUT = 2.0  # s to send a reset
HANG_UP_TIMEOUT = 5.0  # s to close the connections to a peer


class HostStream:
    """A libp2p stream; see `transport.Stream`."""

    def __init__(self, stream: INetStream, traffic: Traffic, caps: Caps) -> None:
        self._stream = stream
        self._peer = PeerId(str(stream.muxed_conn.peer_id))
        self._traffic = traffic
        self._caps = caps

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: bytes) -> None:
        with translated(f"the stream to {short_peer(self._peer)} is gone"):
            for piece in self._caps.pieces(data):
                await self._stream.write(piece)
        self._traffic.count(self._peer, sent=len(data))

    async def receive(self, most: int) -> bytes:
        data = b""
        with translated(f"the stream from {short_peer(self._peer)} is gone"):
            try:
                data = await self._stream.read(most)
            except StreamEOF:
                return b""
        self._traffic.count(self._peer, received=len(data))
        return data

    async def close(self) -> None:
        with translated("closing a stream"):
            await self._stream.close()

    async def reset(self) -> None:
        await _reset(self._stream)


async def _reset(stream: INetStream) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + RESET_TIMEOUT):
        await stream.reset()  # swallows its own errors


class HostTransport:
    """A libp2p host; see `transport.Transport`. Made by `open_host` alone."""

    def __init__(
        self,
        host: IHost,
        pubsub: Pubsub,
        announce: tuple[Address, ...],
        nursery: trio.Nursery,
        door: Door,
        caps: Caps,
    ) -> None:
        self.caps = caps
        self._nursery = nursery
        self.guard = Guard(self._end)
        self.closing = False
        """Whether `open_host` is on its way out."""
        self._door = door
        self._host = host
        self._net: Any = host.get_network()
        self._pubsub = pubsub
        self._announce = announce
        self._addresses = _addresses(host, announce)
        self._me = PeerId(str(host.get_id()))
        self._traffic = Traffic()
        self._connected: dict[PeerId, ID] = {}
        self._ending: dict[PeerId, str] = {}
        """Peers on which we are hanging up, and why."""
        self._callbacks: list[PeerCallback] = []
        self._banned: Callable[[PeerId], bool] = lambda peer: False
        self._links = _Links(host, self.refresh, caps)
        self._twins = Twins(self._links)
        self._serve_twins()
        self._net.register_notifee(_Notifee(self))

    @property
    def me(self) -> PeerId:
        return self._me

    @property
    def addresses(self) -> tuple[Address, ...]:
        with contextlib.suppress(Unavailable), translated("looking for this machine's addresses"):
            found = _addresses(self._host, self._announce)  # they change with the network
            self._addresses = found or self._addresses
        return self._addresses

    @property
    def trouble(self) -> str:
        refused_by = self._twins.refused_by
        return TURNED_AWAY if refused_by and self._connected.keys() <= refused_by else ""

    @property
    def traffic(self) -> Traffic:
        return self._traffic

    async def dial(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        if self._banned(peer):
            raise Unavailable(f"{short_peer(peer)} is banned for what it sent")
        with translated(f"{peer!r} is no PeerID"):
            identity = ID.from_string(peer)
        self.refresh(identity)
        cause = Unavailable("no address known")
        for address in addresses:
            if peer in self._connected:
                return
            try:
                await self._dial_address(identity, address.without_peer)
                self.refresh(identity)
            except Unavailable as error:
                cause = error
        if peer not in self._connected:
            raise cause

    async def _dial_address(self, identity: ID, place: Address) -> None:
        if place.relay is not None:
            relay = short_peer(place.relay)
            raise Unavailable(f"this version dials no peer through a relay (here {relay})")
        last = Unavailable(f"no such host in {place}")
        targets: list[Address] | None = None
        with trio.move_on_after(DIAL_TIMEOUT):
            targets = await resolve(place)
        if targets is None:
            raise Unavailable(f"no answer within {DIAL_TIMEOUT:g} s to the look-up of {place}")
        for target in targets:
            what = target.host_and_port
            with trio.move_on_after(DIAL_TIMEOUT):
                try:
                    with translated(what):
                        await self._net.dial_addr(Multiaddr(str(target)), identity)
                    return
                except Unavailable as error:
                    last = dial_error(error.__cause__ or error, what)
                    continue
            last = Unavailable(f"no answer within {DIAL_TIMEOUT:g} s at {what}")
        raise last

    async def open(self, peer: PeerId, protocol: str) -> HostStream:
        identity = self._connected.get(peer)
        if identity is None or not self._alive(identity):  # libp2p would dial by itself, and ban
            raise Unavailable(f"not connected to {short_peer(peer)}")
        with translated(f"{short_peer(peer)} opens no {protocol}"):
            stream = await self._host.new_stream(identity, [TProtocol(protocol)])
        return HostStream(stream, self._traffic, self.caps)

    def serve(self, protocol: str, handler: Handler) -> None:
        async def handle(raw: INetStream) -> None:
            await self._twins.admitted(raw.muxed_conn)
            stream = HostStream(raw, self._traffic, self.caps)
            await self.guard.attempt(f"serving {protocol}", stream.peer, handler, stream)
            await stream.close()

        self._host.set_stream_handler(TProtocol(protocol), handle)

    def _serve_twins(self) -> None:
        async def answer_greeting(raw: INetStream) -> None:
            stream = HostStream(raw, Traffic(), self.caps)
            answer = self._twins.answer_greeting
            await self.guard.attempt(
                f"serving {HELLO}", stream.peer, answer, raw.muxed_conn, stream
            )

        async def answer_notice(raw: INetStream) -> None:
            stream = HostStream(raw, Traffic(), self.caps)
            answer = self._twins.answer_notice
            await self.guard.attempt(f"serving {TWIN}", stream.peer, answer, stream)

        self._host.set_stream_handler(TProtocol(HELLO), answer_greeting)
        self._host.set_stream_handler(TProtocol(TWIN), answer_notice)

    def peers(self) -> frozenset[PeerId]:
        return frozenset(self._connected)

    def remote_ip(self, peer: PeerId) -> str | None:
        for connection in self._alive(self._connected.get(peer)):
            place = connection.muxed_conn.get_remote_address()
            if place is not None:
                return str(place[0])
        return None

    def watch(self, callback: PeerCallback) -> None:
        self._callbacks.append(callback)

    def gate(self, banned: Callable[[PeerId], bool]) -> None:
        self._banned = banned

    def favour(self, known: Callable[[PeerId], bool]) -> None:
        self._door.favour(known)

    async def hang_up(self, peer: PeerId, why: str = HUNG_UP) -> None:
        identity = self._connected.get(peer)
        if identity is None:
            return
        self._ending.setdefault(peer, why)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_UP_TIMEOUT):
            try:
                with translated("hanging up"):
                    for connection in self._net.get_connections(identity):
                        # First the socket: libp2p's own close waits behind a stuck writer.
                        await connection.muxed_conn.secured_conn.close()
                    await self._host.disconnect(identity)
            except Unavailable as error:
                log.debug("peer=%s %s", short_peer(peer), error)
        self.refresh(identity)
        self._ending.pop(peer, None)

    async def hang_up_all(self) -> None:
        """Close all connections; the first step of every shutdown."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_UP_TIMEOUT):
            async with trio.open_nursery() as nursery:
                for peer in self.peers():
                    nursery.start_soon(self.hang_up, peer, "this node stops")

    async def publish(self, topic: str, data: bytes) -> None:
        with translated("publishing"):
            await self._pubsub.publish(topic, data)

    async def subscribe(self, topic: str) -> "trio.MemoryReceiveChannel[tuple[PeerId, bytes]]":
        sender, receiver = trio.open_memory_channel[tuple[PeerId, bytes]](TOPIC_PENDING)
        with translated("subscribing"):
            subscription = await self._pubsub.subscribe(topic)
        self._nursery.start_soon(self._drain, subscription, sender)
        return receiver

    async def _drain(
        self, subscription: Any, sender: "trio.MemorySendChannel[tuple[PeerId, bytes]]"
    ) -> None:
        async for message in subscription:
            self.guard.call("taking a message of a topic", None, self._pass_on, message, sender)

    def _pass_on(
        self, message: Any, sender: "trio.MemorySendChannel[tuple[PeerId, bytes]]"
    ) -> None:
        author = PeerId(str(ID(message.from_id)))
        if author == self._me:
            return
        try:
            sender.send_nowait((author, message.data))
        except trio.WouldBlock:
            log.debug("a message of peer=%s is dropped: the reader lags", short_peer(author))

    def _end(self, peer: PeerId, why: str) -> None:
        if not self.closing:
            self._nursery.start_soon(self.hang_up, peer, why)

    # ---------------------------------------------------------------- connections

    def _alive(self, identity: ID | None) -> list[Any]:
        if identity is None:
            return []
        return [each for each in self._net.get_connections(identity) if not each.is_closed]

    def refresh(self, identity: ID) -> None:
        """Bring our entry of a peer up to date with libp2p's connections, and tell the watchers."""
        peer, alive = PeerId(str(identity)), bool(self._alive(identity))
        if alive == (peer in self._connected):
            return
        if alive:
            self._connected[peer] = identity
        else:
            del self._connected[peer]
            log_ended(peer, self._ending.get(peer))
        for callback in self._callbacks:
            self.guard.call("noting a connection", peer, callback, peer, alive)

    async def on_connected(self, link: Any) -> None:
        """Called by libp2p for each new connection."""
        identity = link.peer_id
        peer, ip = PeerId(str(identity)), self._links.ip_of(link)
        link.window = partial(self.caps.window, is_near(ip or None))
        if surplus := self._door.enter(link, peer, ip, invited=link.is_initiator):
            self._nursery.start_soon(self._send_away, *surplus)
            if surplus[0] is link:
                return
        self.refresh(identity)
        if self._banned(peer):
            self._end(peer, "it is banned")
        elif link.is_initiator and not self.closing:
            self._nursery.start_soon(self.guard.run, "greeting a peer", peer, self._greet, link)

    def on_disconnected(self, link: Any) -> None:
        """Called by libp2p for each connection that has ended."""
        self._twins.gone(link)
        self._door.leave(link)
        self.refresh(link.peer_id)

    async def _send_away(self, link: Any, peer: PeerId, why: str) -> None:
        log.debug("peer=%s is sent away: %s", short_peer(peer), why)
        self._ending.setdefault(peer, why)
        await self._links.end(link)
        self._ending.pop(peer, None)

    async def _greet(self, link: Any) -> None:
        try:
            await self._twins.greet(link)
        except (Unavailable, RemoteProtocolError) as error:
            log.debug("peer=%s no greeting: %s", short_peer(PeerId(str(link.peer_id))), error)


class _Links:
    """Single connections, by their muxers; see `twins.Links`."""

    def __init__(self, host: IHost, refresh: Callable[[ID], None], caps: Caps) -> None:
        self._caps = caps
        self._net: Any = host.get_network()
        self._refresh = refresh
        self._select = cast(Any, host).multiselect_client.select_one_of

    def _connections(self, link: Any) -> list[Any]:
        return [each for each in self._net.get_connections(link.peer_id) if not each.is_closed]

    async def open_on(self, link: Any, protocol: str) -> HostStream:
        who = short_peer(PeerId(str(link.peer_id)))
        found = [each for each in self._connections(link) if each.muxed_conn is link]
        if not found:
            raise Unavailable(f"not connected to {who}")
        with translated(f"{who} opens no {protocol}"):
            stream = await found[0].new_stream()
            await self._select([TProtocol(protocol)], MultiselectCommunicator(stream))
        return HostStream(stream, Traffic(), self._caps)

    def beside(self, link: Any) -> list[Any]:
        muxers = [each.muxed_conn for each in self._connections(link)]
        return [muxer for muxer in muxers if muxer is not link]

    def ip_of(self, link: Any) -> str:
        place = link.get_remote_address()
        return "" if place is None else str(place[0])

    async def end(self, link: Any) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_UP_TIMEOUT):
            for close in (
                link.secured_conn.close,  # first, as in `hang_up`
                *(each.close for each in self._connections(link) if each.muxed_conn is link),
            ):
                with contextlib.suppress(Unavailable), translated("ending a connection"):
                    await close()
        self._refresh(link.peer_id)  # libp2p tells of the end only once its close is through


class _Notifee(INotifee):
    """Receives libp2p's events; libp2p catches no exception of theirs, so none may raise."""

    def __init__(self, transport: HostTransport) -> None:
        self._transport = transport

    async def connected(self, _network: Any, connection: Any) -> None:
        link = connection.muxed_conn
        await self._transport.guard.run(
            "taking a connection", None, self._transport.on_connected, link
        )

    async def disconnected(self, _network: Any, connection: Any) -> None:
        link = connection.muxed_conn
        self._transport.guard.call(
            "losing a connection", None, self._transport.on_disconnected, link
        )

    async def opened_stream(self, _network: Any, _stream: Any) -> None: ...

    async def closed_stream(self, _network: Any, _stream: Any) -> None: ...

    async def listen(self, _network: Any, _address: Any) -> None: ...

    async def listen_close(self, _network: Any, _address: Any) -> None: ...


# -------------------------------------------------------------------- construction


@asynccontextmanager
async def open_host(
    key: Ed25519PrivateKey,
    *,
    listen: Iterable[Address] = (),
    announce: Iterable[Address] = (),
    most: int = MOST_CONNECTIONS,
    exempt: Sequence[Network] = (),
    caps: Caps | None = None,
) -> AsyncIterator[HostTransport]:
    """Run a host until the block ends.

    listen    IP addresses and ports; none: the node only dials out.
    announce  addresses that replace the ones found: a forwarded port must be given by hand.
    most      the largest number of connections.
    exempt    networks whose addresses are not counted together.
    caps      on the bytes of all connections; None: bytes are counted alone.
    Raises ConfigError, which names the address that cannot be listened on.
    """
    install_shims()
    contain_logging()
    wanted = tuple(listen)
    for address in wanted:
        check_free(address)
    door = Door(most=most, exempt=exempt, alive=lambda link: not cast(Any, link).is_closed)
    caps = caps or Caps()
    host = _make_host(key, wanted, tuple(announce), door, most + ENDING, caps)
    try:
        async with (
            host.run([Multiaddr(str(address)) for address in wanted]),
            gossip(host) as pubsub,
            trio.open_nursery() as nursery,
        ):
            if len(host.get_transport_addrs()) < len(wanted):  # libp2p only logs it
                raise ConfigError(f"cannot listen on {', '.join(map(str, wanted))}")
            transport = HostTransport(host, pubsub, tuple(announce), nursery, door, caps)
            try:
                yield transport
            finally:
                await transport.hang_up_all()
                transport.closing = True
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # the services' nurseries wrap an error of the block
        raise _innermost(group) from None
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + HANG_UP_TIMEOUT):
            await host.close()  # else the port stays open, without a server, until the process ends


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _make_host(
    key: Ed25519PrivateKey,
    listen: tuple[Address, ...],
    announce: tuple[Address, ...],
    door: Door,
    most: int,
    caps: Caps,
) -> IHost:
    pair = create_new_key_pair(key.private_bytes_raw())
    host = new_host(
        key_pair=pair,
        listen_addrs=[Multiaddr(str(address)) for address in listen],
        transports=[PacedTcp(caps)],
        # Never leave sec_opt out: the default also accepts plaintext, which proves no identity.
        sec_opt={NOISE: Noise(pair, noise_privkey=new_x25519().private_key)},
        muxer_opt={TProtocol(YAMUX): BoundedYamux},  # never mplex: slow, and resets on overflow
        announce_addrs=[Multiaddr(str(each.without_peer)) for each in announce] or None,
        connection_config=ConnectionConfig(  # no auto-connector: it dials every peer it hears of
            min_connections=0,
            low_watermark=0,
            high_watermark=most,
            max_connections=most,
            max_connections_per_peer=OF_PEER + 1,  # the door counts, and sends the last one away
            inbound_upgrade_timeout=HANDSHAKE_TIMEOUT,
            auto_connect_interval=1e9,
        ),
    )
    net: Any = host.get_network()
    net.retry_config = RetryConfig(max_retries=0)  # new_host has no argument for it
    net.set_resource_manager(None)  # loses one of 1000 places per timed-out dial
    net.set_stream_handler(_guard(net.common_stream_handler, door))
    net._do_handle_inbound_connection = partial(
        handle_inbound, net, door, partial(paced, caps=caps)
    )
    _without_identify(host)
    return host


def _without_identify(host: Any) -> None:
    """Serve and ask for no identity records: a peer's is of any length, and is kept for ever.

    libp2p's ping goes as well: it answers for as long as the peer likes.
    """
    for protocol in list(host.multiselect.handlers):
        host.remove_stream_handler(protocol)
    net = host.get_network()
    for each in [each for each in net.notifees if isinstance(each, _IdentifyNotifee)]:
        net.remove_notifee(each)
    host._should_identify_peer = lambda peer: False


def _guard(inner: Callable[[INetStream], Any], door: Door) -> Callable[[INetStream], Any]:
    """Wrap the handler of inbound streams: an exception that leaves it ends the whole host."""

    async def guarded(stream: INetStream) -> None:
        peer = PeerId(str(stream.muxed_conn.peer_id))
        try:
            with translated(f"stream {stream.get_protocol()} of {short_peer(peer)}"):
                place = cast(Any, stream.muxed_conn).get_remote_address()
                seat = door.open(peer, place[0] if place else None)
                try:
                    await inner(stream)
                finally:
                    door.close(seat)
        except DipacoError as error:
            who = short_peer(peer)
            log.debug("peer=%s stream %s ended: %s", who, stream.get_protocol(), error)
            await _reset(stream)

    return guarded


def _addresses(host: IHost, announce: tuple[Address, ...]) -> tuple[Address, ...]:
    """Return the addresses to tell other peers: `announce`, else all listened on, no wildcards."""
    places = announce or [
        Address.parse(str(expanded))
        for address in host.get_transport_addrs()
        for expanded in expand_wildcard_address(address)
    ]
    me = PeerId(str(host.get_id()))  # without any network a wildcard expands to itself
    return tuple(place.with_peer(me) for place in places if not place.dial_fault())
