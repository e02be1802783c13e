"""Multiaddrs as text: how far each is of use, and a node's signed records of its own.

An address on loopback is of use on the same machine, a private one in the same house; so a node
signs one record per scope, and a directory hands each asker the widest that is of use to it.
"""

import enum
import errno
import ipaddress
import os
import socket
from collections.abc import Iterable

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.network.transport import strip_peer
from dipaco.protocol.digest import Digest
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.identity import peer_id
from dipaco.protocol.messages import MAX_ADDRESSES, PeerRecord
from dipaco.protocol.signed import Signed, sign


class Scope(enum.IntEnum):
    """From where an address is of use; what is of use from afar is so from near."""

    MACHINE = 0
    HOUSE = 1
    WORLD = 2


def scope_of_ip(ip: str | None) -> Scope:
    """Return the scope of an IP address; of an unknown one the widest, which reveals least."""
    if ip is None:
        return Scope.WORLD
    address = ipaddress.ip_address(ip.partition("%")[0])
    if address.is_loopback:
        return Scope.MACHINE
    return Scope.WORLD if address.is_global else Scope.HOUSE


def scope_of(address: str) -> Scope:
    """Return the scope of a multiaddr; raises RemoteProtocolError when nobody can dial it."""
    _, kind, name, *rest = [*address.split("/"), "", ""]
    if not any(rest):
        raise RemoteProtocolError(f"{address!r} is no multiaddr with a port")
    if kind in ("dns", "dns4", "dns6"):
        return Scope.MACHINE if name == "localhost" else Scope.WORLD
    if kind not in ("ip4", "ip6"):
        raise RemoteProtocolError(f"{address!r} begins with none of ip4, ip6, dns")
    try:
        if ipaddress.ip_address(name).is_unspecified:
            raise RemoteProtocolError(f"{address!r} is a wildcard: nobody can dial it")
        return scope_of_ip(name)
    except ValueError:
        raise RemoteProtocolError(f"{address!r} holds no IP address") from None


def record_scope(record: PeerRecord) -> Scope:
    """Return the narrowest scope in a record; raises RemoteProtocolError for a bad address."""
    return min(map(scope_of, record.addresses), default=Scope.WORLD)


def sign_records(
    key: Ed25519PrivateKey,
    addresses: Iterable[str],
    *,
    roles: tuple[str, ...],
    runs: tuple[Digest, ...],
    sequence: int,
) -> tuple[Signed, ...]:
    """Return the node's records, one per scope in which it has an address, widest scope first.

    A node without addresses signs one empty record: it is a member that only dials out.
    """
    by_scope: dict[Scope, list[str]] = {scope: [] for scope in reversed(Scope)}
    for address in addresses:
        place = strip_peer(address)
        by_scope[scope_of(place)].append(place)
    records, visible = [], list[str]()
    for places in by_scope.values():
        visible += places
        if places:
            records.append(tuple(visible[:MAX_ADDRESSES]))
    return tuple(
        sign(
            PeerRecord(
                peer=peer_id(key), addresses=chosen, roles=roles, runs=runs, sequence=sequence
            ),
            key,
        )
        for chosen in records or [()]
    )


def host_and_port(place: str) -> str:
    """Write `/ip4/<ip>/tcp/<port>` as people do."""
    _, _, name, *rest = [*place.split("/"), "", "", ""]
    return f"[{name}]:{rest[1]}" if ":" in name else f"{name}:{rest[1]}"


def check_free(address: str) -> None:
    """Raise ConfigError when `address` cannot be listened on.

    libp2p sets SO_REUSEPORT: a second daemon on the port would silently take half of the peers.
    """
    parts = address.split("/")
    try:
        _, kind, ip, tcp, port = parts
        family = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}[kind]
        if tcp != "tcp":
            raise KeyError(tcp)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not what just closed
            probe.bind((ip, int(port)))
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(
            f"cannot listen on {address!r}: it reads like /ip4/0.0.0.0/tcp/4410"
        ) from None
    except OSError as error:
        hint = "; is another node running?" if error.errno == errno.EADDRINUSE else ""
        cause = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ConfigError(f"cannot listen on {address}: {cause}{hint}") from None


async def resolve(place: str) -> list[str]:
    """Return `place` with its name looked up; libp2p asks DNS servers only, no hosts file."""
    _, kind, name, *rest = [*place.split("/"), "", ""]
    if kind not in ("dns", "dns4", "dns6"):
        return [place]
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(kind, socket.AF_UNSPEC)
    try:
        found = await trio.socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except OSError:
        return []
    return [
        "/".join(
            ["", "ip6" if kin == socket.AF_INET6 else "ip4", str(where[0]), *filter(None, rest)]
        )
        for kin, _, _, _, where in found
    ]
