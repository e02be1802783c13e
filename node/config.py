"""`NodeConfig`: the settings that this node's operator alone decides.

They never go on the wire, and a manifest cannot set them. A setting has the same name everywhere:
`[storage] max_shards` in the file, `DIPACO_STORAGE_MAX_SHARDS` in the environment, `--max-shards`
as a flag. `settings.py` reads them. The daemon honours every key here.
"""

import ipaddress
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dipaco.node.hours import Hours, parse_hours
from dipaco.node.network.seats import Network
from dipaco.node.quantities import (
    MemoryBound,
    parse_memory,
    parse_rate,
    parse_size,
    rate_text,
    size_text,
)
from dipaco.protocol.numbers import size
from dipaco.protocol.routing.policy import POLICY_PATTERN
from dipaco.protocol.run.invitation import MAX_CHARACTERS, Invitation
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.identity import PeerIdField

PREFIX = "DIPACO_"
MAX_PORT = 65535

Device = Annotated[
    str,
    Meta(
        pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)\Z",
        description="one of auto, cpu, cuda, cuda:N, mps",
    ),
]
Trust = Annotated[
    str,
    Meta(
        max_length=16,
        pattern=POLICY_PATTERN,
        description="one of require, warn, receipts:Q (Q from 1 to 999)",
    ),
]
Checkpointing = Literal["auto", "on", "off"]
MomentBits = Literal[32, 8]
RunName = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[a-z0-9._-]*\Z",
        description="a run's id or name: at most 64 lower-case letters, digits, '.', '_' and '-'",
    ),
]
NodeName = Annotated[
    str,
    Meta(
        max_length=32,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z",
        description="a line of at most 32 characters",
    ),
]
AppName = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[^/\x00-\x1f]+\Z",
        description="the name of a program without its folder",
    ),
]
LoopbackAddress = Annotated[
    str,
    Meta(
        max_length=32,
        pattern=r"^(|(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5})\Z",
        description="a loopback address such as 127.0.0.1:7397, or empty",
    ),
]
UiToken = Annotated[
    str,
    Meta(
        max_length=128,
        pattern=r"^(|[A-Za-z0-9_-]{16,})\Z",
        description="16 to 128 letters, digits, '_' and '-', or empty",
    ),
]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the tables of `config.toml`."""


class NodeSection(Section, frozen=True, kw_only=True):
    """`[node]`: this node's addresses, the peers it dials first, and its role as rendezvous."""

    name: NodeName = ""
    """The name of this node in its own status, page and board; it is sent to no peer."""
    listen: tuple[Address, ...] = (Address.parse("/ip4/0.0.0.0/tcp/4410"),)
    """The addresses that accept connections; port 0: any free one."""
    announce: tuple[Address, ...] = ()
    """Addresses told to other peers instead of the ones found."""
    bootstrap: tuple[Address, ...] = ()
    """The peers to dial first; empty: the packaged bootstrap.toml."""
    rendezvous: bool = False
    """Keep the peer directory and, if a manifest names this node, schedule its run."""
    keeper: bool = False
    """Store the run that is named, and vote on its ledger: its manifest must name this node."""
    keep: bool = False
    """Store the run that is named for everybody, without a vote."""
    train: bool = False
    """Train beside keeping; a node that does not keep and is no rendezvous node trains anyway."""
    low_conns: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Connections below which more peers are dialled."""
    high_conns: Annotated[int, Meta(ge=1, le=1000)] = 48
    """Connections above which some are closed: home routers lose count of hundreds. A rendezvous
    node keeps all."""
    exempt_prefixes: tuple[Network, ...] = ()
    """Networks such as 192.168.0.0/16 whose peers are not counted together, since their addresses
    are not free to strangers."""

    @property
    def keeps(self) -> bool:
        """Whether the operator wants this node to store a run."""
        return self.keeper or self.keep

    @property
    def trains(self) -> bool:
        """Whether this node trains."""
        return not self.rendezvous and (self.train or not self.keeps)


class RunSection(Section, frozen=True, kw_only=True):
    """`[run]`: the run to train, and the proof that its router needs first."""

    id: tuple[RunName, ...] = ()
    """Run ids (hex, or their beginnings) or names, the most wanted first: when one is over, the
    next follows. Empty: the run that was trained last, else the only one on offer."""
    signers: tuple[PeerIdField, ...] = ()
    """PeerIDs of owners: only their runs are trained, whichever signers are pinned. Empty: any
    owner's, with the pinned signer of the name."""
    invitation: Annotated[str, Meta(max_length=MAX_CHARACTERS)] = ""
    """The code that `join` was given: its node is dialled first, and if `id` is empty, its run is
    the only one that is trained. Empty: none."""
    verify: Trust = "require"
    """When the router cannot be verified here: refuse to train (`require`), train with a warning
    (`warn`), or train if Q other peers say that they verified it and no peer refutes it
    (`receipts:Q`)."""
    local_sources: bool = False
    """Whether a manifest may name files of this machine."""
    whole_files: bool = False
    """Fetch files of the hub whole and hash them before use, instead of streaming them."""

    @property
    def invited(self) -> Invitation | None:
        """The invitation that decides which run is trained; None if there is none, or `id` does."""
        return Invitation.parse(self.invitation) if self.invitation and not self.id else None


class ComputeSection(Section, frozen=True, kw_only=True):
    """`[compute]`: the device, memory and threads of the worker process."""

    device: Device = "auto"
    """`auto` takes the first GPU (CUDA, ROCm, Apple), and the CPU if this machine has none."""
    max_batch: Annotated[int, Meta(ge=0, le=65536)] = 0
    """The largest number of sequences in one micro-batch; 0: the whole batch of the manifest."""
    checkpointing: Checkpointing = "auto"
    """Compute activations again in the backward pass instead of keeping them: less memory, slower.
    `auto`: only when one sequence does not fit otherwise."""
    compile: bool = False
    """Compile the blocks with torch: a slow start, then faster; needs a compiler."""
    moment_bits: MomentBits = 32
    """Bits of each inner moment. 8 is for GPUs that are short of memory, and only for runs whose
    `inner_state` is `reset`."""
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Threads of torch on the CPU; 0: cores - 1, at least 1."""
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    """Added to the worker's niceness, so that other programs run first."""

    max_ram: MemoryBound = MemoryBound(percent=75)
    """Most memory of training on the CPU: a share of what this machine has, or a size."""
    duty: Annotated[int, Meta(ge=1, le=100)] = 100
    """Percent of the time in which inner steps compute; below 100 the worker rests after each."""
    max_temp_c: Annotated[int, Meta(ge=40, le=120)] = 83
    """Degrees Celsius of the GPU or CPU above which no work runs; on again 5 below."""

    @property
    def torch_threads(self) -> int:
        """Threads of torch on the CPU; more than one may change the last bits of a result."""
        return self.threads or max(1, (os.cpu_count() or 1) - 1)


class WhenSection(Section, frozen=True, kw_only=True):
    """`[when]`: when work may run on this machine."""

    hours: tuple[Hours, ...] = ()
    """Spans of the week in local time; empty: always."""
    idle_only: bool = False
    """Only while nobody uses the machine."""
    idle_minutes: Annotated[int, Meta(ge=1, le=1440)] = 3
    """Minutes without use after which the machine counts as idle."""
    on_battery: bool = False
    """Whether work also runs on battery."""
    exclusive_apps: tuple[AppName, ...] = ()
    """Names of programs: no work runs while one of them does."""


class NetworkSection(Section, frozen=True, kw_only=True):
    """`[network]`: the traffic of this node."""

    max_up: int = 0
    """Bytes per second that it sends at most, written with a unit; 0, written "": no bound."""
    max_down: int = 0
    """The same for what it receives."""
    limit_lan: bool = False
    """Whether the bounds also hold for peers of the local network."""
    daily_quota: int = 0
    """Bytes that it sends and receives on one day at most, written with a unit; 0, written "": no
    bound."""
    metered: Literal["pause", "ignore"] = "pause"
    """On a connection that is paid by traffic: no work, or as on any other."""


class StorageSection(Section, frozen=True, kw_only=True):
    """`[storage]`: the limits of the home folder."""

    cache_max: Annotated[int, Meta(ge=0)] = 10 * 10**9
    """Most bytes of blobs, shards and source files together, written with a unit. Blobs that work
    needs are never removed."""
    min_free: Annotated[int, Meta(ge=0)] = 500 * 10**6
    """Bytes, written with a unit: with less free on the disk the node does no work."""
    max_shards: Annotated[int, Meta(ge=1, le=1024)] = 4
    """The largest number of shards in the cache at once."""


class LeaseSection(Section, frozen=True, kw_only=True):
    """`[lease]`: how this node keeps the leases that it holds."""

    heartbeat_s: Annotated[float, Meta(ge=0.1, le=600)] = 3.0
    """Seconds between two heartbeats; the run's lease_ttl must be much longer."""


class LogSection(Section, frozen=True, kw_only=True):
    """`[log]`: the log lines."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines of this level and above are written."""
    format: Literal["text", "json"] = "text"
    """Lines for people, or one JSON object a line."""
    file: Annotated[str, Meta(max_length=4096)] = ""
    """The file to write; empty: stderr."""
    max_size: Annotated[int, Meta(ge=10**4)] = 10 * 10**6
    """Bytes, written with a unit, after which a new file is begun."""
    keep: Annotated[int, Meta(ge=0, le=100)] = 5
    """Older files that are kept."""


class UiSection(Section, frozen=True, kw_only=True):
    """`[ui]`: the page for a browser on this machine."""

    listen: LoopbackAddress = "127.0.0.1:7397"
    """HOST:PORT on loopback; port 0: any free one; empty: no page."""
    token: UiToken = ""
    """The secret that the page asks for; empty: one is made at the first start."""


class MetricsSection(Section, frozen=True, kw_only=True):
    """`[metrics]`: figures for Prometheus."""

    listen: LoopbackAddress = ""
    """HOST:PORT on loopback that answers `GET /metrics` without a token; port 0: any free one;
    empty: no metrics."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked; build it with `settings.load_config`."""

    home: Path
    """Absolute; may not exist yet."""
    node: NodeSection = NodeSection()
    run: RunSection = RunSection()
    compute: ComputeSection = ComputeSection()
    when: WhenSection = WhenSection()
    network: NetworkSection = NetworkSection()
    storage: StorageSection = StorageSection()
    lease: LeaseSection = LeaseSection()
    log: LogSection = LogSection()
    ui: UiSection = UiSection()
    metrics: MetricsSection = MetricsSection()

    @property
    def seeds(self) -> tuple[Address, ...]:
        """The peers to dial first: those of the invitation, and those of `node.bootstrap`."""
        code = self.run.invitation
        invited = Invitation.parse(code).addresses if code else ()
        return tuple(dict.fromkeys((*invited, *self.node.bootstrap)))


def _known() -> Iterator[tuple[str, type[Section], msgspec.structs.FieldInfo]]:
    for section in msgspec.structs.fields(NodeConfig):
        if section.name != "home":
            for field in msgspec.structs.fields(section.type):
                yield f"{section.name}.{field.name}", section.type, field


KEYS: dict[str, Any] = {name: field.type for name, _, field in _known()}
"""Every key, `section.name`, and its type."""
SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS))
"""The tables of `config.toml`."""


def _or_none(parse: Callable[[Any], int]) -> Callable[[Any], int]:
    """Return a parser that also takes an empty text, which stands for no bound."""

    def parsed(value: Any) -> int:
        number = parse(value) if value != "" else 0
        if value != "" and not number:
            raise ValueError('is nothing at all; write "" for no bound')
        return number

    return parsed


def _loopback(value: Any) -> Any:
    port = value.rpartition(":")[2] if isinstance(value, str) else ""
    if port.isascii() and port.isdigit() and int(port) > MAX_PORT:
        raise ValueError(f"port {port} is not in 0 to {MAX_PORT}")
    return value


def _invitation(value: Any) -> Any:
    if isinstance(value, str) and value:
        Invitation.parse(value)
    return value


def _address(fault: Callable[[Address], str | None]) -> Callable[[str], Address]:
    def parsed(text: str) -> Address:
        address = Address.parse(text)
        if reason := fault(address):
            raise ValueError(f"{text!r}: {reason}")
        return address

    return parsed


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP network such as 192.168.0.0/16: {error}") from None


VALUES: dict[str, Callable[[Any], Any]] = {
    "compute.max_ram": parse_memory,
    "network.max_up": _or_none(parse_rate),
    "network.max_down": _or_none(parse_rate),
    "network.daily_quota": _or_none(parse_size),
    "storage.cache_max": parse_size,
    "storage.min_free": parse_size,
    "log.max_size": parse_size,
    "ui.listen": _loopback,
    "metrics.listen": _loopback,
    "run.invitation": _invitation,
}
"""What reads the value of a key before its type is checked; raises ValueError."""
TEXTS: dict[str, Callable[[Any], str]] = {
    "compute.max_ram": str,
    "network.max_up": lambda rate: rate_text(rate) if rate else "",
    "network.max_down": lambda rate: rate_text(rate) if rate else "",
    "network.daily_quota": lambda size: size_text(size) if size else "",
    "storage.cache_max": size_text,
    "storage.min_free": size_text,
    "log.max_size": size_text,
}
"""What writes the value of a key as a person does, where it is a number or a value in memory."""
TEXT_LISTS: dict[str, Callable[[str], Any]] = {
    "node.listen": _address(Address.listen_fault),
    "node.announce": _address(Address.announce_fault),
    "node.bootstrap": _address(Address.seed_fault),
    "node.exempt_prefixes": _network,
    "when.hours": parse_hours,
}
"""What reads each text of a list; raises ValueError."""
OWN_NAMES = frozenset({"dipaco-node", Path(sys.executable).name})
"""The names of the daemon's and the worker's processes."""
SECRETS = frozenset({"ui.token"})
"""The keys whose values are shown to nobody: people show their configuration to others."""
VARIABLES = {PREFIX + name.replace(".", "_").upper(): name for name in KEYS}
"""Every environment variable and its key."""


def plain(key: str, value: Any) -> Any:
    """Return the value of a key as its file has it: a text, a number, a yes or no, or texts."""
    if key in TEXTS:
        return TEXTS[key](value)
    if isinstance(value, tuple):
        return [each.text if isinstance(each, Hours) else str(each) for each in value]
    return value


def contradictions(config: NodeConfig, disk: int) -> list[str]:
    """Return what cannot hold together in a configuration that is right key by key.

    disk   bytes of the disk that has the home, used ones too.
    """
    found = []
    low, high = config.node.low_conns, config.node.high_conns
    if low > high:
        found.append(f"node.low_conns = {low} is more than node.high_conns = {high}")
    if config.storage.min_free >= disk:
        least, whole = size_text(config.storage.min_free), size(disk)
        found.append(
            f"storage.min_free = {least!r}: the disk of {config.home} has {whole} in all, so no "
            "work would ever run"
        )
    if own := sorted(OWN_NAMES.intersection(config.when.exclusive_apps)):
        found.append(
            f"when.exclusive_apps: {own[0]!r} is the name of this node's own processes, so no "
            "work would ever run"
        )
    return found
