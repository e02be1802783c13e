"""A node's addresses: its signed records, the check for a free port, the look-up of names.

A loopback address is of use only on the same machine, a private one only in the same local
network. So a node signs one record per scope, and a directory gives each peer that asks the record
with the most addresses that it can use.

Records hold IP addresses alone. A name is the operator's: of a seed, or of this node itself, which
looks it up before it signs.
"""

import errno
import os
import socket
from collections.abc import Iterable

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.wire.address import Address, Scope
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import peer_id
from dipaco.protocol.wire.messages import MAX_ADDRESSES, PeerRecord
from dipaco.protocol.wire.signed import Signed, sign

LISTEN_HINTS = {
    errno.EADDRINUSE: "; if another node runs here, give this one a port of its own: "
    "--listen /{kind}/{host}/tcp/0",
    errno.EADDRNOTAVAIL: "; this machine has no such address: "
    "--listen /ip4/0.0.0.0/tcp/4410 takes all that it has",
    errno.EACCES: "; ports below 1024 are for the system alone",
}
"""What the operator can do about an address that cannot be listened on."""

LOOK_UP_TIMEOUT = 8.0  # s for the operator's own name; the daemon goes on without


def addresses_of(record: PeerRecord) -> tuple[Address, ...]:
    """Return the addresses in a record; raises RemoteProtocolError if it may not hold one."""
    try:
        found = tuple(Address.parse(text) for text in record.addresses)
    except ValueError as error:
        raise RemoteProtocolError(f"the address {error}") from error
    for address in found:
        if reason := address.record_fault():
            raise RemoteProtocolError(f"the address '{address}': {reason}")
    return found


def record_scope(record: PeerRecord) -> Scope:
    """Return the narrowest scope in a record; raises RemoteProtocolError for a bad address."""
    return min((address.scope for address in addresses_of(record)), default=Scope.WORLD)


def sign_records(
    key: Ed25519PrivateKey,
    addresses: Iterable[Address],
    *,
    roles: tuple[str, ...],
    runs: tuple[Digest, ...],
    sequence: int,
) -> tuple[Signed, ...]:
    """Return the node's records, one per scope in which it has an address, widest scope first.

    A node without addresses signs one empty record: it is a member that only dials out. Addresses
    that no record may hold are left out.
    """
    by_scope: dict[Scope, list[str]] = {scope: [] for scope in reversed(Scope)}
    for address in addresses:
        if address.record_fault() is None:
            by_scope[address.scope].append(str(address.without_peer))
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


def check_free(address: Address) -> None:
    """Raise ConfigError when `address` cannot be listened on.

    libp2p sets SO_REUSEPORT: without this check a second daemon on the port would take half of the
    connections, and neither would notice.
    """
    if reason := address.listen_fault():
        raise ConfigError(f"cannot listen on {address}: {reason}")
    family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # A socket that closed just now does not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
    except OSError as error:
        cause = os.strerror(error.errno).lower() if error.errno else str(error)
        hint = LISTEN_HINTS.get(error.errno or 0, "").format(kind=address.kind, host=address.host)
        raise ConfigError(f"cannot listen on {address}: {cause}{hint}") from None


class OwnNames:
    """The IP addresses of the names under which the operator announces this node."""

    def __init__(self) -> None:
        self._ips: dict[Address, tuple[Address, ...]] = {}

    async def look_up(self, addresses: Iterable[Address]) -> bool:
        """Look up the names among `addresses`; returns whether one has other addresses now.

        A name that is not found, or not within `LOOK_UP_TIMEOUT`, keeps its addresses.
        """
        before = dict(self._ips)
        for address in addresses:
            if address.is_name:
                found: list[Address] = []
                with trio.move_on_after(LOOK_UP_TIMEOUT):
                    found = await resolve(address)
                self._ips[address] = tuple(found) or self._ips.get(address, ())
        return self._ips != before

    def replaced_in(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """Return `addresses` with its IP addresses, as last looked up, in the place of a name."""
        return tuple(ip for each in addresses for ip in self._ips.get(each, (each,)))


async def resolve(address: Address) -> list[Address]:
    """Return the IP addresses of a name, none if it has none.

    libp2p itself asks DNS servers only, no hosts file.
    """
    if not address.is_name:
        return [address]
    families = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    family = families.get(address.kind, socket.AF_UNSPEC)
    try:
        found = await trio.socket.getaddrinfo(address.host, None, family, socket.SOCK_STREAM)
    except (OSError, ValueError):  # among the latter: a name that IDNA cannot encode
        return []
    ips = [str(place[0]) for _, _, _, _, place in found]
    return [address.at_ip(ip) for ip in ips if "%" not in ip]  # libp2p knows no zones
