"""`Address`: the place where a peer is reached, parsed once from its text, a multiaddr.

The wire and the configuration carry the text; everything else holds the value. The forms are
`/ip4|ip6/IP/tcp/PORT` and `/dns|dns4|dns6/NAME/tcp/PORT`, then `/p2p/RELAY/p2p-circuit` when a
relay there forwards to the peer, then `/p2p/PEER` when the peer is named.
"""

import enum
import ipaddress
import re
from dataclasses import dataclass, replace

from dipaco.protocol.wire.identity import PeerId, peer_id_of, public_key_of

IP_VERSIONS = {"ip4": 4, "ip6": 6}
NAME_KINDS = ("dns", "dns4", "dns6")
OTHERS = ("ws", "wss", "tls", "http", "https", "quic", "quic-v1", "webtransport", "noise")
"""What other nodes of libp2p may speak over TCP or UDP, and this version does not."""
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # a dial of it reaches this machine
MAX_PORT = 65535
MAX_NAME = 253  # characters of a DNS name (RFC 1035, section 2.3.4, less length bytes)
MAX_PLACE = 256  # characters without the peer: the form that a `PeerRecord` holds
MAX_TEXT = MAX_PLACE + len("/p2p/") + 52
# With underscores, which no host name has (RFC 1123), but the names that Docker gives to services.
_LABEL = re.compile(r"(?!..--)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?|xn--[a-z0-9-]{1,59}")
_HOST_AND_PORT = re.compile(
    r"(?:[a-z]+://)?(?:\[([0-9a-f:.]+)\]|([^/:\s]+)):([0-9]+)/?", re.IGNORECASE
)
LIKE = "/ip4/203.0.113.7/tcp/4410"


class Scope(enum.IntEnum):
    """The range from which an address can be dialled; a wider one includes the narrower ones."""

    MACHINE = 0
    HOUSE = 1
    WORLD = 2


def scope_of_ip(ip: str | None) -> Scope:
    """Return the scope of an IP address; an unknown one has the widest, which reveals least."""
    if ip is None:
        return Scope.WORLD
    address = ipaddress.ip_address(ip_text(ip))
    if address.is_loopback:
        return Scope.MACHINE
    return Scope.WORLD if address.is_global else Scope.HOUSE


@dataclass(frozen=True)
class Address:
    """A host, a port and the peer there; raises ValueError for an impossible address."""

    kind: str
    """One of `IP_VERSIONS` and `NAME_KINDS`."""
    host: str
    """An IP address in its shortest form, or a DNS name in lower case."""
    port: int
    """0 stands for any free port: valid to listen on, never to dial."""
    peer: PeerId | None = None
    """The peer that is reached here, if it is named."""
    relay: PeerId | None = None
    """The relay that listens at host and port and forwards to the peer, if there is one."""

    def __post_init__(self) -> None:
        if self.kind in IP_VERSIONS:
            _check_ip(self.host, IP_VERSIONS[self.kind])
        elif self.kind in NAME_KINDS:
            _check_name(self.host)
        else:
            known = ", ".join((*IP_VERSIONS, *NAME_KINDS))
            raise ValueError(f"begins with {self.kind!r}, which is none of {known}")
        if not 0 <= self.port <= MAX_PORT:
            raise ValueError(f"port {self.port} is not in 0 to {MAX_PORT}")
        for peer in (self.relay, self.peer):
            if peer is not None:
                _check_peer(peer)
        if len(self._place) > MAX_PLACE:
            raise ValueError(f"longer than {MAX_PLACE} characters without its peer")

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read a multiaddr; raises ValueError with the text and the reason."""
        try:
            return cls._parsed(text)
        except ValueError as error:
            raise ValueError(f"{text[:MAX_TEXT]!r}: {error}") from None

    @classmethod
    def _parsed(cls, text: str) -> "Address":
        parts = _parts(text)
        if len(parts) < 4:
            raise ValueError(f"lacks host or port: write it like {LIKE}")
        kind, host, protocol, port, *rest = parts
        if protocol != "tcp":
            raise ValueError(f"has {protocol!r} after the host, where only tcp is known")
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", port):
            raise ValueError(f"port {port!r} is no number from 0 to {MAX_PORT} in digits")
        relay, peer = _relay_and_peer(rest)
        return cls(kind, _shortest(kind, host), int(port), peer=peer, relay=relay)

    def __str__(self) -> str:
        """The only text of this address: `parse` gives the address back."""
        return f"{self._place}/p2p/{self.peer}" if self.peer else self._place

    @property
    def _place(self) -> str:
        through = f"/p2p/{self.relay}/p2p-circuit" if self.relay else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{through}"

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, which must be looked up before it is dialled."""
        return self.kind in NAME_KINDS

    @property
    def scope(self) -> Scope:
        """The scope of the host; a DNS name other than localhost has the scope WORLD."""
        if self.is_name:
            return Scope.MACHINE if self.host == "localhost" else Scope.WORLD
        return scope_of_ip(self.host)

    @property
    def without_peer(self) -> "Address":
        """The same address without the peer; a relay stays, since the way leads through it."""
        return replace(self, peer=None)

    def with_peer(self, peer: PeerId) -> "Address":
        """Return the same address with `peer` as its peer."""
        return replace(self, peer=peer)

    def at_ip(self, ip: str) -> "Address":
        """Return the same address with the IP address `ip` as its host."""
        found = ipaddress.ip_address(ip)
        return replace(self, kind=f"ip{found.version}", host=str(found))

    @property
    def host_and_port(self) -> str:
        """Host and port as people write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def listen_fault(self) -> str | None:
        """Return why no node can listen here, or None if one can."""
        if self.is_name or self.peer or self.relay:
            return "a node listens on an IP address and a port, such as /ip4/0.0.0.0/tcp/4410"
        return None

    def dial_fault(self) -> str | None:
        """Return why this address cannot be dialled, or None if it can."""
        if not self.is_name and ipaddress.ip_address(self.host).is_unspecified:
            return f"{self.host} is a wildcard: nobody can dial it"
        return None if self.port else "port 0 stands for any free port: nobody can dial it"

    def announce_fault(self) -> str | None:
        """Return why this cannot be told to other peers, or None if it can."""
        if self.is_name and "_" in self.host:
            return "a name with an underscore is no host name: other machines cannot look it up"
        return self.dial_fault()

    def record_fault(self) -> str | None:
        """Return why no peer's record may hold this address, or None if one may.

        Strangers write records, and those who read them dial what they say.
        """
        if self.is_name:
            return "a record holds IP addresses alone: whoever reads a name must look it up"
        return self.dial_fault() or _special_use(ipaddress.ip_address(self.host))

    def seed_fault(self) -> str | None:
        """Return why this cannot be a seed's address, or None if it names a peer to dial."""
        unnamed = None if self.peer else "names no peer: /p2p/12D3KooW... is missing at its end"
        return self.dial_fault() or unnamed


def _parts(text: str) -> list[str]:
    """Split a multiaddr at its slashes; raises ValueError for a text of another form."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"longer than {MAX_TEXT} characters")
    if re.search(r"\s", text):
        raise ValueError("has a blank in it")
    if "," in text:
        raise ValueError("has a comma: an address of a list stands alone")
    if found := _HOST_AND_PORT.fullmatch(text):
        raise ValueError(f"is no multiaddr: write {_multiaddr(*found.groups())}")
    before, *parts = text.split("/")
    if before or not parts:
        raise ValueError(f"does not begin with a slash: write it like {LIKE}")
    if not parts[-1]:
        raise ValueError("ends in a slash: leave it out")
    if not all(parts):
        raise ValueError("has two slashes in a row")
    return parts


def _multiaddr(bracketed: str | None, host: str | None, port: str) -> str:
    """Return the multiaddr of a host and port that were written in another way."""
    host = bracketed or host or ""
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/tcp/{port}"


def _relay_and_peer(rest: list[str]) -> tuple[PeerId | None, PeerId | None]:
    """Read the parts after the port."""
    match rest:
        case []:
            return None, None
        case ["p2p", peer]:
            return None, PeerId(peer)
        case ["p2p", relay, "p2p-circuit"]:
            return PeerId(relay), None
        case ["p2p", relay, "p2p-circuit", "p2p", peer]:
            return PeerId(relay), PeerId(peer)
        case ["p2p-circuit", *_]:
            raise ValueError("names no relay: /p2p/RELAY is missing before /p2p-circuit")
        case [*_, "p2p"]:
            raise ValueError("ends in /p2p without a PeerID")
    if rest[0] in OTHERS:
        raise ValueError(f"has /{rest[0]} after the port: this version speaks plain TCP alone")
    raise ValueError(f"has /{'/'.join(rest)} after the port, where /p2p/PEER is expected")


def _shortest(kind: str, host: str) -> str:
    if kind in NAME_KINDS:
        return host.lower()
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host  # the constructor refuses it and says why


def _special_use(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    """Return why no node can live at `ip` (RFC 6890), or why it is a second text of another."""
    if ip.is_loopback:
        return None
    if ip.is_link_local:  # of IPv6 only with a zone; at 169.254.169.254 clouds keep credentials
        return f"{ip} is of one link alone"
    if ip.is_multicast or ip.is_reserved or ip in _THIS_NETWORK:
        return f"{ip} is no address of a single host"
    if isinstance(ip, ipaddress.IPv6Address) and (ip.is_site_local or ip.sixtofour or ip.teredo):
        return f"{ip} is out of use, or another text of an IPv4 address"
    return None


def ip_text(text: str) -> str:
    """Return an IP address in its shortest form, without its zone; raises ValueError.

    An IPv4 address that is written as one of IPv6 (::ffff:1.2.3.4) becomes one of IPv4.
    """
    found = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(found, "ipv4_mapped", None) or found)


def _check_ip(host: str, version: int) -> None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host!r} is no IP address; a name stands after /dns") from None
    if found.version != version:
        raise ValueError(f"{host} is no IPv{version} address: write /ip{found.version}")
    if str(found) != host or "%" in host:
        raise ValueError(f"{host!r} is no IP address in its shortest form, without a zone")


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > MAX_NAME or host != host.lower() or not all(map(_LABEL.fullmatch, labels)):
        other = "" if host.isascii() else "; write other letters as xn--..."
        raise ValueError(f"{host!r} is no DNS name{other}")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):  # resolvers read it as an IP address
        raise ValueError(f"{host!r} is a number, no DNS name")


def _check_peer(peer: PeerId) -> None:
    try:
        proper = peer_id_of(public_key_of(peer)) == peer
    except ValueError:
        proper = False
    if not proper:
        raise ValueError(
            f"{peer!r} is no PeerID of an Ed25519 key: 12D3KooW and 44 more characters, "
            f"here {len(peer)} in all"
        )
