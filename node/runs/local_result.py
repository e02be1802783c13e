"""The account of a run that was trained in one process: what a ledger would say, unsigned.

A single process has no scheduler whose signature would count, and for another owner's run no key.
So `reference` keeps in its home, beside the blobs, one file per run: the spec of every epoch, the
digest of every module's every version, and the held-out losses. It serves this home alone and is
never sent.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from dipaco.node.storage.files import read_file, translated, write_file
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleId, ModuleName
from dipaco.protocol.wire.canonical import Wire, decode, encode, field_of
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.work.kinds import Evaluated
from dipaco.protocol.work.run_state import RunState

MAX_ACCOUNT = 256 << 20  # bytes; 1,000 rounds of 64 modules and 256 paths have 30 MB
FOLDER = "accounts"
FORMAT: Final = 2


class ModuleVersions(Wire, frozen=True, kw_only=True):
    """One module's states."""

    module: ModuleName
    states: Annotated[tuple[DigestField, ...], Meta(min_length=1)]
    """By version, 0 first."""


class LocalResult(Wire, frozen=True, kw_only=True):
    """What a run came to in this home."""

    format: Literal[2] = FORMAT
    specs: Annotated[tuple[RouterSpec, ...], Meta(min_length=1)]
    """By epoch."""
    modules: tuple[ModuleVersions, ...]
    evaluations: tuple[Evaluated, ...]


def keep_local_result(home: Path, run: Digest, account: LocalResult) -> None:
    """Write the account of `run`, in place of an earlier one; raises DiskFull, ConfigError."""
    path = _path(home, run)
    with translated(path.parent, "make"):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(path, encode(account))


def kept_local_result(
    home: Path, manifest: Manifest
) -> tuple[tuple[RouterSpec, ...], RunState] | None:
    """Return specs, by epoch, and view of a run that `home` has an account of.

    Raises ConfigError.
    """
    path = _path(home, run_id(manifest))
    if not path.exists():
        return None
    data = read_file(path, limit=MAX_ACCOUNT)
    try:
        account = decode(data, LocalResult, limit=MAX_ACCOUNT)
    except RemoteProtocolError as error:
        found = field_of(data, "format")
        if found != FORMAT and isinstance(field_of(data, "type"), str):
            raise ConfigError(
                f"{path}: made by another version of dipaco-node (account format {found or 1}, "
                f"this one reads {FORMAT}): move it away, then run the reference again"
            ) from error
        raise ConfigError(f"{path}: not the account of a run: {error}") from error
    view = RunState(manifest)
    named = {ModuleId(each.module): list(each.states) for each in account.modules}
    if set(named) != set(manifest.topology.modules):
        raise ConfigError(f"{path}: not an account of the run {manifest.name}")
    view.specs, view.states = [spec_digest(spec) for spec in account.specs], named
    view.evaluations = {(each.version, each.path): each for each in account.evaluations}
    return account.specs, view


def local_result_of(
    specs: tuple[RouterSpec, ...],
    states: dict[ModuleId, tuple[Digest, ...]],
    evaluations: Iterable[Evaluated],
) -> LocalResult:
    """Return the account of specs, by epoch, states, by version, and evaluations."""
    return LocalResult(
        specs=specs,
        modules=tuple(ModuleVersions(module=m, states=s) for m, s in states.items()),
        evaluations=tuple(evaluations),
    )


def _path(home: Path, run: Digest) -> Path:
    return home / FOLDER / f"{run.hex()}.account"
