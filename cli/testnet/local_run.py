"""The run of a local network: its manifest and its keys, a pure function of file and seed.

The keys of owner and rendezvous node are derived from `--seed`, so `testnet` and `reference` train
the same manifest. These keys are not secret: they serve networks on this machine and tests only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.files import RunFile, read_run, sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.wire.digest import tagged, u64
from dipaco.protocol.wire.identity import peer_id


@dataclass(frozen=True)
class LocalKeys:
    """The keys of a local network."""

    owner: Ed25519PrivateKey
    rendezvous: Ed25519PrivateKey


def local_keys(seed: int) -> LocalKeys:
    """Return the keys of the local network with this seed (0 to 2^63 - 1)."""
    return LocalKeys(*(role_key(seed, role) for role in ("owner", "rendezvous")))


def role_key(seed: int, role: str) -> Ed25519PrivateKey:
    """Return the key of one role: `owner`, or the name of a node that the manifest names."""
    return Ed25519PrivateKey.from_private_bytes(tagged(f"dipaco/testnet/{role}", u64(seed)))


@dataclass(frozen=True)
class LocalRun:
    """A run that is trained on this machine."""

    run: RunFile
    tokenizer: bytes | None
    """For the blob store of the first node; None: the embedded one."""


def run_named(
    name: str,
    *,
    blobs: BlobStore,
    seed: int = 0,
    rounds: int | None = None,
    data: Path | None = None,
) -> LocalRun:
    """Return the run of a .run file or a TOML file, or the demo if `name` is empty.

    blobs          the store that keeps the states of a warm start.
    rounds, data   as for `create_manifest`; raises ConfigError if given with a .run file.
    """
    path = Path(name) if name else None
    if path is None or path.suffix == ".toml":
        return local_run(path, seed=seed, rounds=rounds, data=data, blobs=blobs)
    for option, given in (("--rounds", rounds), ("--data", data)):
        if given is not None:
            raise ConfigError(f"{option}: a signed run cannot be changed; give its TOML file")
    return LocalRun(read_run(path), None)


def local_run(
    file: Path | None,
    *,
    seed: int,
    rounds: int | None,
    data: Path | None = None,
    blobs: BlobStore | None = None,
    schedulers: Sequence[str] = ("rendezvous",),
    keepers: Sequence[str] = (),
) -> LocalRun:
    """Return the signed run of a TOML file; without one, of the packaged demo.

    rounds, data, blobs   as for `create_manifest`.
    schedulers, keepers   names of the nodes that the manifest names, in this order.
    """
    keys = local_keys(seed)
    with as_file(files("dipaco.node.data") / "demo" / "demo.toml") as demo:
        created = create_manifest(
            file or demo,
            owner=peer_id(keys.owner),
            schedulers=tuple(peer_id(role_key(seed, name)) for name in schedulers),
            rounds=rounds,
            data=data,
            blobs=blobs,
        )
    manifest = created.manifest
    if keepers:
        peers = tuple(peer_id(role_key(seed, name)) for name in keepers)
        schedule = replace(manifest.schedule, keepers=peers)
        manifest = replace(manifest, schedule=schedule)
    return LocalRun(sign_manifest(manifest, keys.owner), created.tokenizer)
