"""The modules of a checkpoint, for programs and for people."""

from typing import Final

import msgspec

from dipaco.cli.views.layout import Column, fitted, table_text
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.protocol.numbers import count, size
from dipaco.protocol.run.topology import experts_of

MAX_PATHS_NAMED: Final = 6  # paths shown per module
COLUMNS: Final = (
    Column("module", words=True),
    Column("version"),
    Column("size", drop=2),
    Column("state", words=True),
    Column("paths", words=True, drop=1),
)


class ListedModule(msgspec.Struct, frozen=True, kw_only=True):
    """One module at one version."""

    module: str
    version: int
    newest: int
    """The run's last version of it."""
    paths: tuple[int, ...]
    """The paths that use this version."""
    bytes: int
    here: bool
    state: str
    """SHA-256, hex."""


class ListedPath(msgspec.Struct, frozen=True, kw_only=True):
    """One path."""

    path: int
    experts: tuple[int, ...]
    version: int
    """The version of its modules that it uses."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One run's checkpoint."""

    name: str
    run: str
    rounds: int
    paths: tuple[ListedPath, ...]
    modules: tuple[ListedModule, ...]


def listing(checkpoint: Checkpoint) -> Listing:
    """Return the modules and paths of a checkpoint."""
    manifest, top = checkpoint.manifest, checkpoint.topology
    return Listing(
        name=manifest.name,
        run=checkpoint.run.id.hex(),
        rounds=manifest.training.rounds,
        paths=tuple(
            ListedPath(
                path=path,
                experts=experts_of(manifest.grid, path),
                version=checkpoint.version(path),
            )
            for path in range(manifest.paths)
        ),
        modules=tuple(
            ListedModule(
                module=each.module,
                version=each.version,
                newest=checkpoint.newest[each.module],
                paths=tuple(p for p, own in enumerate(checkpoint.paths) if each in own),
                bytes=top.state_bytes(each.module),
                here=checkpoint.states.has(each.digest),
                state=each.digest.hex(),
            )
            for each in checkpoint.modules()
        ),
    )


def listing_text(listed: Listing, width: int | None = None) -> str:
    """Return the listing for people, no wider than `width` columns; None: of any width."""
    here = sum(each.here for each in listed.modules)
    total = sum(each.bytes for each in listed.modules)
    versions = sorted({path.version for path in listed.paths})
    kept = "-".join(str(v) for v in dict.fromkeys((versions[0], versions[-1])))
    head = (
        f"{listed.name}  {listed.run[:16]}  paths at version {kept} of {listed.rounds}, "
        f"{here} of {count(len(listed.modules), 'state')} here, {size(total)} in all"
    )
    rows = []
    for each in listed.modules:
        used = [str(path) for path in each.paths[:MAX_PATHS_NAMED]]
        more = ", ..." if len(each.paths) > MAX_PATHS_NAMED else ""
        newer = f" (newest {each.newest})" if each.newest > each.version else ""
        where = "here" if each.here else "not here"
        paths = f"{', '.join(used)}{more}"
        rows.append((each.module, f"{each.version}{newer}", size(each.bytes), where, paths))
    return f"{fitted(head, width)}\n{table_text(COLUMNS, rows, width, margin='  ')}"
