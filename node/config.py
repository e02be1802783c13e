"""`NodeConfig`: the settings that this node's operator alone decides.

They never go on the wire, and a manifest cannot set them. Precedence: flag > environment >
`config.toml` in the home folder > default. A setting has the same name everywhere:
`[storage] max_shards` in the file, `DIPACO_STORAGE_MAX_SHARDS` in the environment, `--max-shards`
as a flag. An unknown key or `DIPACO_*` variable is an error that names the nearest known one. A
size without a unit is an error too. Lists in the environment are separated by commas. The daemon
honours every key here.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta

from dipaco.node.network.seats import Network
from dipaco.node.storage.toml import read_toml
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.routing.policy import POLICY_PATTERN
from dipaco.protocol.wire.address import Address
from dipaco.protocol.wire.faults import nearest, refusal_of, shown
from dipaco.protocol.wire.identity import PeerIdField
from dipaco.protocol.wire.text import one_line

FILE_NAME = "config.toml"
HOME_VARIABLE = "DIPACO_HOME"
PREFIX = "DIPACO_"
MAX_QUOTED = 200  # characters of a value in a message
SIZE_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}

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


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the tables of `config.toml`."""


class NodeSection(Section, frozen=True, kw_only=True):
    """`[node]`: this node's addresses, the peers it dials first, and its role as rendezvous."""

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
    exempt_prefixes: tuple[Network, ...] = ()
    """Networks such as 192.168.0.0/16 whose peers are not counted together, since their addresses
    are not free to strangers."""

    @property
    def keeps(self) -> bool:
        """Whether the operator wants this node to store a run."""
        return self.keeper or self.keep


class RunSection(Section, frozen=True, kw_only=True):
    """`[run]`: the run to train, and the proof that its router needs first."""

    id: tuple[RunName, ...] = ()
    """Run ids (hex, or their beginnings) or names, the most wanted first: when one is over, the
    next follows. Empty: the run that was trained last, else the only one on offer."""
    signers: tuple[PeerIdField, ...] = ()
    """PeerIDs of owners: only their runs are trained, whichever signers are pinned. Empty: any
    owner's, with the pinned signer of the name."""
    verify: Trust = "require"
    """When the router cannot be verified here: refuse to train (`require`), train with a warning
    (`warn`), or train if Q other peers say that they verified it and no peer refutes it
    (`receipts:Q`)."""
    local_sources: bool = False
    """Whether a manifest may name files of this machine."""
    whole_files: bool = False
    """Fetch files of the hub whole and hash them before use, instead of streaming them."""


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

    @property
    def torch_threads(self) -> int:
        """Threads of torch on the CPU; more than one may change the last bits of a result."""
        return self.threads or max(1, (os.cpu_count() or 1) - 1)


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
    """`[log]`: the log lines on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked; build it with `load_config`."""

    home: Path
    """Absolute; may not exist yet."""
    node: NodeSection = NodeSection()
    run: RunSection = RunSection()
    compute: ComputeSection = ComputeSection()
    storage: StorageSection = StorageSection()
    lease: LeaseSection = LeaseSection()
    log: LogSection = LogSection()


def _known() -> Iterator[tuple[str, type[Section], msgspec.structs.FieldInfo]]:
    for section in msgspec.structs.fields(NodeConfig):
        if section.name != "home":
            for field in msgspec.structs.fields(section.type):
                yield f"{section.name}.{field.name}", section.type, field


KEYS: dict[str, Any] = {name: field.type for name, _, field in _known()}
"""Every key, `section.name`, and its type."""
SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in KEYS))
"""The tables of `config.toml`."""
SIZES = frozenset({"storage.cache_max", "storage.min_free"})
"""The keys whose values are sizes, written with a unit."""
ADDRESSES: dict[str, Callable[[Address], str | None]] = {
    "node.listen": Address.listen_fault,
    "node.announce": Address.announce_fault,
    "node.bootstrap": Address.seed_fault,
}
"""The keys whose values are addresses. Each function returns why an address cannot serve there."""
TEXT_LISTS = frozenset({*ADDRESSES, "node.exempt_prefixes"})
"""The keys whose values are read from lists of texts."""
VARIABLES = {PREFIX + name.replace(".", "_").upper(): name for name in KEYS}
"""Every environment variable and its key."""


def default_home() -> Path:
    """Return the home folder that is used when neither flag nor environment names one."""
    return platformdirs.user_data_path("dipaco-node", appauthor=False)


def home_folder(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Return the absolute home folder: flag, else $DIPACO_HOME, else the default."""
    chosen = flag or environ.get(HOME_VARIABLE)
    return expanded(Path(chosen)).absolute() if chosen else default_home()


def expanded(path: Path) -> Path:
    """Return a path with its `~` replaced; raises ConfigError for a user that is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home folder of {path.parts[0]}") from None


def load_config(
    *,
    home: Path,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Read `home`/config.toml if it exists; environment and flags override it.

    flags     key (`section.name`) to value; None stands for a flag that was not given.
    defaults  the same, below the file and above the built-in defaults.

    Raises ConfigError, which names the key and where its value came from.
    """
    path = home / FILE_NAME
    values: dict[str, Any] = {}
    variables = {key: f"${name}" for name, key in VARIABLES.items()}
    for origin, layer, strict in (
        ("the packaged defaults", dict(defaults or {}), True),
        (str(path), _file_layer(path), True),
        ("", _environment_layer(environ), False),
        ("the command line", {k: v for k, v in flags.items() if v is not None}, False),
    ):
        for key, value in layer.items():
            values[key] = _checked(key, value, origin or variables[key], strict=strict)
    return _built(home, values)


def _built(home: Path, values: Mapping[str, Any]) -> NodeConfig:
    sections: dict[str, Any] = {}
    for section in msgspec.structs.fields(NodeConfig):
        if section.name != "home":
            given = {
                key.partition(".")[2]: value
                for key, value in values.items()
                if key.startswith(section.name + ".")
            }
            sections[section.name] = section.type(**given)
    return NodeConfig(home=home, **sections)


def _file_layer(path: Path) -> dict[str, Any]:
    if not os.path.lexists(path):
        return {}
    layer: dict[str, Any] = {}
    for section, table in read_toml(path).items():
        if not isinstance(table, dict):
            places = [key.partition(".")[0] for key in KEYS if key.endswith(f".{section}")]
            where = f"below [{places[0]}]" if places else "into one"
            raise ConfigError(
                f"{path}: {one_line(section)} is outside any [section]; move it {where}"
            )
        if section not in SECTIONS and not table:
            raise ConfigError(
                f"{path}: unknown table [{one_line(section)}]{nearest(section, SECTIONS)}"
            )
        for name, value in table.items():
            key = f"{section}.{name}"
            if key not in KEYS:
                raise ConfigError(f"{path}: unknown key {one_line(key)}{_nearest_key(name, key)}")
            layer[key] = value
    return layer


def _nearest_key(name: str, key: str) -> str:
    """Return `; did you mean ...?`: a key of this name in another section, else the nearest."""
    same = [known for known in KEYS if known.partition(".")[2] == name]
    return f"; did you mean {same[0]}?" if same else nearest(key, KEYS)


def _environment_layer(environ: Mapping[str, str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == HOME_VARIABLE:
            continue
        if name not in VARIABLES:
            known = [*VARIABLES, HOME_VARIABLE]
            raise ConfigError(f"unknown environment variable {name}{nearest(name, known)}")
        key = VARIABLES[name]
        layer[key] = _split(value) if _is_list(key) else value
    return layer


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _is_list(key: str) -> bool:
    return getattr(KEYS[key], "__origin__", None) is tuple


def _checked(key: str, value: Any, origin: str, *, strict: bool) -> Any:
    try:
        if key in ADDRESSES:
            texts = msgspec.convert(value, tuple[str, ...], strict=strict)
            return tuple(_address(text, ADDRESSES[key]) for text in texts)
        if key == "run.id" and isinstance(value, str):
            value = _split(value)  # one run needs no list
        if key == "node.exempt_prefixes":
            return tuple(map(_network, msgspec.convert(value, tuple[str, ...], strict=strict)))
        plain = parse_size(value) if key in SIZES else value
        return msgspec.convert(plain, KEYS[key], strict=strict)
    except msgspec.ValidationError as error:
        words = refusal_of(error, value, tuple[str, ...] if key in TEXT_LISTS else KEYS[key])
    except ValueError as error:
        words = str(error)
    if value == "":
        words = "is empty; leave it out, or give it a value"
    if key == "run.id" and isinstance(value, list):
        words = re.sub(r"^\[\d+\]: the text ", "", words)
    words = words.removeprefix(f"{shown(value)} is ")  # which stands here already
    given = "" if isinstance(value, list | tuple) else f" = {ascii(value)[:MAX_QUOTED]}"
    raise ConfigError(f"{key}{given} ({origin}): {words}")  # the words name the entry of a list


def _address(text: str, fault: Callable[[Address], str | None]) -> Address:
    address = Address.parse(text)
    if reason := fault(address):
        raise ValueError(f"{text!r}: {reason}")
    return address


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP network such as 192.168.0.0/16: {error}") from None


def parse_size(value: Any) -> int:
    """Return the bytes of `10 GB`, `1.5GiB`, ...; raises ValueError without a known unit."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]*)", str(value).strip())
    if not found:
        raise ValueError(f"not a size such as '10 GB' (units: {', '.join(SIZE_UNITS)})")
    number, unit = found.groups()
    if unit not in SIZE_UNITS:
        like = [known for known in SIZE_UNITS if known.lower() == unit.lower()]
        hint = f"did you mean {like[0]}?" if like else f"units: {', '.join(SIZE_UNITS)}"
        fault = f"{unit!r} is no unit" if unit else "the unit is missing"
        raise ValueError(f"{fault}; {hint}")
    return int(float(number) * SIZE_UNITS[unit])
