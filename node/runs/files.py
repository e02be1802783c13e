"""Runs on disk: signed run files (`.run`), and those that this node offers.

A run file is a `Signed` manifest in its canonical encoding. The home keeps the runs that this node
offers in `runs/`, each under its run id. `create.py` makes manifests.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.node.storage.files import read_file, translated, write_file
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError
from dipaco.protocol.run.manifest import FORMAT, Manifest, run_id
from dipaco.protocol.wire.canonical import decode, encode, field_of
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.faults import nearest
from dipaco.protocol.wire.identity import PeerId, peer_id, public_key_of
from dipaco.protocol.wire.signed import MAX_BODY, MAX_ENVELOPE, Signed, decode_signed, sign

log = logging.getLogger(__name__)

SUFFIX = ".run"
MAX_OFFERS = 8  # runs that a message names


@dataclass(frozen=True)
class RunFile:
    """A manifest with its owner's signature."""

    signed: Signed
    manifest: Manifest

    @property
    def id(self) -> Digest:
        """The run id."""
        return run_id(self.manifest)


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> RunFile:
    """Sign `manifest` with its owner's key; raises ConfigError for another key."""
    if peer_id(key) != manifest.owner:
        raise ConfigError(
            f"owner: this key is of {peer_id(key)}, the manifest names {manifest.owner}"
        )
    if (size := len(encode(manifest))) > Manifest.MOST_BYTES:
        raise ConfigError(
            f"source.files: with them the manifest has {size} bytes, at most "
            f"{Manifest.MOST_BYTES} are allowed: name fewer files, or give them shorter names"
        )
    return RunFile(sign(manifest, key), manifest)


def open_run(data: bytes, origin: str) -> RunFile:
    """Read a run file's bytes; raises Refusal for one that is malformed or wrongly signed."""
    try:
        signed, manifest = decode_signed(data, Manifest)
    except RemoteProtocolError as error:
        body = field_of(data, "body")
        _refuse_other_format(body, origin)
        if isinstance(body, bytes):
            raise Refusal(
                f"{origin}: damaged, or made by another version of dipaco-node "
                f"({_plainly(data, error)}): make the run anew with `dipaco-node run create`, or "
                "use that version"
            ) from error
        if field_of(data, "type") == "Manifest":
            raise Refusal(
                f"{origin}: not a run file but an unsigned manifest: its owner makes one of it "
                f"with `dipaco-node run sign {origin} --key OWNER.key`"
            ) from error
        raise Refusal(f"{origin}: not a run file: {_plainly(data, error)}") from error
    if signed.signer != manifest.owner:
        raise Refusal(f"{origin}: signed by {signed.signer}, not by its owner {manifest.owner}")
    return RunFile(signed, manifest)


def read_run(path: Path) -> RunFile:
    """Read and check a run file; raises ConfigError if it cannot be read, Refusal if wrong."""
    return open_run(read_file(path, limit=MAX_ENVELOPE), str(path))


def write_run(path: Path, run: RunFile) -> None:
    """Write a run file, whole or not at all."""
    write_file(path, encode(run.signed))


def keep_run(home: Path, run: RunFile) -> RunFile:
    """Add `run` to those that the node of `home` offers."""
    folder = home / "runs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"home: cannot make {folder}: {error.strerror}") from error
    write_run(folder / f"{run.id.hex()}{SUFFIX}", run)
    return run


def check_scheduled_by(run: RunFile, own: PeerId | None, origin: str) -> None:
    """Raise ConfigError unless `own`, the PeerID of this node, may schedule the run.

    own   None: the node has no key yet.
    """
    schedule = run.manifest.schedule
    scheduler = schedule.schedulers[0]
    if own == scheduler or (schedule.named_keepers and own in schedule.schedulers):
        return
    here = f"this node is {own}" if own else "this node has no key yet"
    raise ConfigError(
        f"--run: {origin} names {scheduler} as its scheduler, {here}: start it in the home with "
        "that key, or make the run anew with this node as schedule.schedulers"
    )


def check_kept_by(run: RunFile, own: PeerId | None, origin: str) -> None:
    """Raise ConfigError unless `own`, the PeerID of this node, is one of the run's keepers.

    own   None: the node has no key yet.
    """
    if own is not None and own in run.manifest.schedule.named_keepers:
        return
    here = f"this node ({own})" if own else "this node, which has no key yet (`dipaco-node id`),"
    raise ConfigError(
        f"--keeper: {origin} does not name {here} in schedule.keepers: start it with --keep to "
        "store without a vote, or make the run anew with this node among the keepers"
    )


def kept_runs(home: Path) -> tuple[RunFile, ...]:
    """Return the runs that the node of `home` offers, sorted by name and id.

    A file that is not a run is told of, and the others are returned.
    """
    found = []
    with translated(home, "list"):
        paths = sorted((home / "runs").glob(f"*{SUFFIX}"))
    for path in paths:
        try:
            found.append(read_run(path))
        except (ConfigError, Refusal) as error:
            log.warning("%s", error)
    return tuple(sorted(found, key=lambda run: (run.manifest.name, run.id)))


def format_of(path: Path) -> int | None:
    """Return the manifest format of a run file of any version; None if it does not tell one.

    Raises ConfigError if the file cannot be read.
    """
    body = field_of(read_file(path, limit=MAX_ENVELOPE), "body")
    found = field_of(body, "format") if isinstance(body, bytes) else None
    return found if isinstance(found, int) else None


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write an unsigned manifest, which its owner signs elsewhere."""
    write_file(path, encode(manifest))


def read_manifest(path: Path) -> Manifest:
    """Read an unsigned manifest; raises ConfigError if it cannot be read, Refusal if wrong."""
    data = read_file(path, limit=MAX_BODY)
    try:
        return decode(data, Manifest, limit=MAX_BODY)
    except RemoteProtocolError as error:
        _refuse_other_format(data, str(path))
        if field_of(data, "type") == "Signed":
            raise Refusal(
                f"{path}: not an unsigned manifest: it is signed already; `dipaco-node run create "
                "--owner PEER` makes unsigned ones"
            ) from error
        raise Refusal(f"{path}: not an unsigned manifest: {_plainly(data, error)}") from error


def _plainly(data: bytes, error: RemoteProtocolError) -> str:
    """Return why bytes are no file of ours: a file of another kind is named instead."""
    if not data:
        return "it is empty"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return str(error)
    if not text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return str(error)
    return "it is text; `dipaco-node run create` makes a run file of a TOML file"


def _refuse_other_format(body: object, origin: str) -> None:
    """Raise Refusal for the bytes of a manifest of another format than this version's."""
    found = field_of(body, "format") if isinstance(body, bytes) else None
    if isinstance(found, int) and found != FORMAT:
        raise Refusal(
            f"{origin}: made by another version of dipaco-node (manifest format {found}, this one "
            f"reads {FORMAT}): make the run anew with `dipaco-node run create`, or use that version"
        )


def peer_named(text: str, field: str) -> PeerId:
    """Return `text` as a PeerID; raises ConfigError naming `field`."""
    try:
        public_key_of(PeerId(text))
    except ValueError:
        raise ConfigError(f"{field}: {text!r} is no PeerID (12D3KooW...)") from None
    return PeerId(text)


@dataclass(frozen=True)
class RunChoice:
    """The runs that a text can mean."""

    found: tuple[Digest, ...]
    """One run; or none; or several, if the text is ambiguous."""
    offers: str
    """The runs to choose from, as text: those found, or all if none was found."""


def choose_run(text: str, names: Mapping[Digest, str]) -> RunChoice:
    """Find the run that `text` means: an id or a name, else the beginning of an id.

    names   of the runs on offer, by run id. If there is only one, an empty text means that run.
    """
    exact = tuple(run for run, name in names.items() if text in (name, run.hex()))
    found = exact or tuple(run for run in names if run.hex().startswith(text))
    offers = [f"{names[run]} ({short(run)})" for run in found or names]
    more = len(offers) - MAX_OFFERS
    shown = [*offers[:MAX_OFFERS], f"{more} more"] if more > 0 else offers
    return RunChoice(found, ", ".join(shown) or "none")


def find_run(runs: Sequence[RunFile], text: str) -> RunFile:
    """Return the one run that `choose_run` finds for `text`; raises ConfigError."""
    by_id = {run.id: run for run in runs}
    choice = choose_run(text, {run.id: run.manifest.name for run in runs})
    if len(choice.found) == 1:
        return by_id[choice.found[0]]
    if choice.found:
        raise ConfigError(f"run: {text or 'which one'}? here: {choice.offers}")
    hint = nearest(text, [run.manifest.name for run in runs])
    raise ConfigError(f"run: {text or 'any'} is not here{hint}; here: {choice.offers}")
