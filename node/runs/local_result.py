"""The local result: an unsigned record of a run that was trained in one process.

It takes the place of a ledger, which only a scheduler of the run can sign. `reference` keeps one
file per run in its home, beside the blobs: the spec of every epoch, the digest of every version of
every module, and the held-out losses. The file serves this home alone and is never sent.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from dipaco.node.storage.files import read_file, stamped, translated, write_file
from dipaco.protocol.errors import ConfigError, RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.run.modules import ModuleId, ModuleName
from dipaco.protocol.wire.canonical import Wire, decode, encode, field_of
from dipaco.protocol.wire.digest import Digest, DigestField
from dipaco.protocol.work.kinds import Evaluated
from dipaco.protocol.work.run_state import RunState

MAX_BYTES = 256 << 20  # 1,000 rounds of 64 modules and 256 paths have 30 MB
FOLDER = "accounts"
RESULT_FORMAT: Final = 2


class ModuleVersions(Wire, frozen=True, kw_only=True):
    """One module's states."""

    module: ModuleName
    states: Annotated[tuple[DigestField, ...], Meta(min_length=1)]
    """By version, 0 first."""


class LocalResult(Wire, frozen=True, kw_only=True):
    """The specs, states and losses of a run that this home trained."""

    format: Literal[2] = RESULT_FORMAT
    specs: Annotated[tuple[RouterSpec, ...], Meta(min_length=1)]
    """By epoch."""
    modules: tuple[ModuleVersions, ...]
    evaluations: tuple[Evaluated, ...]


def keep_local_result(home: Path, run: Digest, result: LocalResult) -> None:
    """Write the local result of `run` over an earlier one; raises DiskFull, ConfigError."""
    path = _path(home, run)
    with translated(path.parent, "make"):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(path, encode(result))


def kept_local_result(
    home: Path, manifest: Manifest
) -> tuple[tuple[RouterSpec, ...], RunState] | None:
    """Return the specs, by epoch, and the state of a run; None if `home` has no local result of it.

    Raises ConfigError for a file that is damaged, or not of this run or version.
    """
    path = _path(home, run_id(manifest))
    if not path.exists():
        return None
    data = read_file(path, limit=MAX_BYTES)
    try:
        result = decode(data, LocalResult, limit=MAX_BYTES)
    except RemoteProtocolError as error:
        found = field_of(data, "format")
        if found != RESULT_FORMAT and isinstance(field_of(data, "type"), str):
            raise ConfigError(
                f"{path}: made by another version of dipaco-node (format {found or 1} of local "
                f"results, this one reads {RESULT_FORMAT}): move it away, then run the reference "
                f"again"
            ) from error
        raise ConfigError(
            f"{path}: not the local result of a run ({error}): move it away, then run the "
            "reference again"
        ) from error
    state = RunState(manifest)
    named = {ModuleId(each.module): list(each.states) for each in result.modules}
    if set(named) != set(manifest.topology.modules):
        raise ConfigError(f"{path}: not a local result of the run {manifest.name}")
    state.restore((spec_digest(spec) for spec in result.specs), named, result.evaluations)
    return result.specs, state


def local_result_of(
    specs: tuple[RouterSpec, ...],
    states: dict[ModuleId, tuple[Digest, ...]],
    evaluations: Iterable[Evaluated],
) -> LocalResult:
    """Return the local result of specs, by epoch, states, by version, and evaluations."""
    return LocalResult(
        specs=specs,
        modules=tuple(ModuleVersions(module=m, states=s) for m, s in states.items()),
        evaluations=tuple(evaluations),
    )


def blobs_of_results(home: Path) -> set[Digest]:
    """Return the states of all local results in `home`; a file that is no result names none."""
    named: set[Digest] = set()
    for path, changed, size in stamped(home / FOLDER, "*.account"):
        named |= _blobs_in(path, changed, size)
    return named


@lru_cache(maxsize=64)
def _blobs_in(path: Path, _time: int, _size: int) -> frozenset[Digest]:
    """Read a file once, and again when its time or size changes."""
    try:
        result = decode(read_file(path, limit=MAX_BYTES), LocalResult, limit=MAX_BYTES)
    except (ConfigError, RemoteProtocolError):
        return frozenset()
    return frozenset(state for module in result.modules for state in module.states)


def _path(home: Path, run: Digest) -> Path:
    return home / FOLDER / f"{run.hex()}.account"
