"""What verbs print with `--json`, where no other module owns the type."""

from typing import Any

import msgspec

from dipaco.node.api.values import Plain


class SettingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the configuration."""

    key: str
    """`section.name`."""
    value: Plain
    origin: str
    """`the command line`, a variable with its `$`, the file with the line, `the packaged defaults`
    or `default`."""
    running: Plain | None = None
    """The value that the daemon of this home runs with; null: none runs, or it was not asked."""


class ConfigAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `config show`: all settings that a node started now would have."""

    file: str
    """The home's configuration file, which may not exist."""
    settings: tuple[SettingAnswer, ...]


class ConfigFaults(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `config check`."""

    file: str
    faults: tuple[str, ...]
    """One line each, with the file's line where it is known; empty: the configuration is right."""


class HeldBytes(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes that a home stores under its bound, by kind."""

    blobs: int
    """Module states, deltas, tokenizers."""
    partial: int
    """Blobs that are arriving."""
    shards: int
    """Tokenised documents of each path."""
    sources: int
    """Source files that were fetched whole."""
    scratch: int
    """Files of running processes."""


class CacheAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `cache info`."""

    home: str
    held: HeldBytes
    """By kind."""
    total: int
    """Bytes of all kinds."""
    max: int
    """Bytes that they may grow to."""
    free: int
    """Bytes that are free on the disk."""


class IdAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `id`."""

    peer: str
    addresses: tuple[str, ...]
    """The addresses at which others join; empty: no daemon runs."""


class InviteAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `invite`."""

    code: str
    line: str
    """The command that a person types."""
    run: str
    """Run id, hex."""
    name: str
    """The run's name."""
    signer: str
    """PeerID of the run's owner."""
    fingerprint: str
    """Of the signer, to read out."""
    addresses: tuple[str, ...]
    """The addresses that the code has."""


class VersionAnswer(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"own": "dipaco-node", "manifest": "manifest format"},
):
    """The answer of `version`."""

    own: str
    """Of this program."""
    manifest: str
    """Of the format of manifests."""
    python: str
    torch: str
    """`missing`, if there is none; so are those below."""
    libp2p: str
    numpy: str
    tokenizers: str


class RunAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the list that `run list` answers with."""

    id: str
    name: str
    owner: str
    grid: tuple[int, ...]
    """Experts of each level."""
    paths: int
    """Number of paths."""
    signed: bool = True
    """Whether the owner signed it."""


class MadeAnswer(RunAnswer, frozen=True, kw_only=True):
    """The answer of `run create`."""

    file: str
    """The run file."""


class ManifestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `run show`."""

    id: str
    signer: str
    """PeerID."""
    manifest: dict[str, Any]
    """The whole manifest under its own names (docs/protocol.cddl); bytes are hexadecimal."""


class ServiceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `service status`."""

    file: str
    """The unit or property list."""
    installed: bool
    enabled: bool
    """Whether it is started with the machine, or at log-in."""
    active: str
    """The service manager's word: `active`, `inactive`, `failed`, ..."""
    status: str
    """The node's state and reason; empty: the manager does not know."""
    last_exit: int
    """The exit code of the last process."""


class UpdateAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `update --check`."""

    own: str
    """This version."""
    format: int
    """Of the manifests that it reads."""
    newest_reported: str
    """The newest version that a peer signed; empty: none told one. It proves nothing."""
    peers: int
    """How many peers told that one."""
    newer_runs: tuple[str, ...]
    """The run files that need a newer version."""
