"""A module export: all modules of a run's paths, as a folder of safetensors files.

    index.json             the file of each module and version, and the modules of each path;
                           `Index` below
    manifest.run           the run, signed by its owner
    router.spec            the rule that routes documents to paths, canonical CBOR
    tokenizer.json         of the `tokenizers` library
    L1.E0.v5.safetensors   one module at one version; tensor names are Hugging Face's Llama

`eval`, `generate` and `ckpt` read it like a home, on a machine that has no other part of the run.
Every file is checked against a digest when it is read, a state against the digest in the run's
ledger. File names are computed from their content's names, never taken from the index.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dipaco.node.jobs.meter import OnProgress
from dipaco.node.jobs.values import Progress
from dipaco.node.runs.checkpoint import Checkpoint, Float32, ModuleState
from dipaco.node.runs.files import read_run
from dipaco.node.storage.blobs import BlobMissing
from dipaco.node.storage.files import (
    PUBLIC,
    hash_file,
    new_folder,
    read_file,
    sync_file,
    write_file,
)
from dipaco.protocol.errors import ConfigError, Refusal, RemoteProtocolError
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.canonical import decode, encode
from dipaco.protocol.wire.digest import Digest, sha256, short
from dipaco.protocol.wire.signed import MAX_BODY

INDEX, MANIFEST, SPEC, TOKENIZER = "index.json", "manifest.run", "router.spec", "tokenizer.json"
MAX_INDEX = 64 << 20  # bytes; 1,024 paths of 10 modules have 300 KB


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the export."""

    file: str
    sha256: str
    """Of the file, hex."""


class HeldModule(msgspec.Struct, frozen=True, kw_only=True):
    """One module at one version."""

    module: str
    version: int
    newest: int
    """The run's last version of this module at the time of the export."""
    file: str
    sha256: str
    """Of the file, hex."""
    state: str
    """SHA-256 of the flat float32 state, as the run's ledger names it, hex."""
    parameters: int


class HeldPath(msgspec.Struct, frozen=True, kw_only=True):
    """The modules of one path."""

    path: int
    experts: tuple[int, ...]
    modules: dict[str, int]
    """Module: version."""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The index of an export: its files, modules and paths."""

    format: Literal[1] = 1
    name: str
    run: str
    """Run id, hex."""
    spec: str
    """Digest of the router spec, hex."""
    files: tuple[Held, ...]
    """manifest.run, router.spec, tokenizer.json."""
    modules: tuple[HeldModule, ...]
    paths: tuple[HeldPath, ...]


def file_of(state: ModuleState) -> str:
    """Return the name of a module's file."""
    return f"{state.module}.v{state.version}.safetensors"


# Writing


def write_module_export(
    checkpoint: Checkpoint, tokenizer: bytes, out: Path, on_progress: OnProgress
) -> None:
    """Write the whole export to the new folder `out`, or nothing; one module in memory at a time.

    Raises ConfigError if `out` exists, BlobMissing if a state is not here, DiskFull.
    """
    states = checkpoint.modules()
    total = sum(checkpoint.topology.state_bytes(each.module) for each in states)
    with new_folder(out) as folder:
        write_file(folder / MANIFEST, encode(checkpoint.run.signed))
        write_file(folder / SPEC, encode(checkpoint.spec))
        write_file(folder / TOKENIZER, tokenizer)
        done, held = 0, []
        for state in states:
            on_progress(Progress(stage="write", done=done, total=total, unit="bytes"))
            held.append(_write_module(checkpoint, state, folder))
            done += checkpoint.topology.state_bytes(state.module)
        on_progress(Progress(stage="write", done=total, total=total, unit="bytes"))
        files = [Held(file=n, sha256=_hash(folder / n)) for n in (MANIFEST, SPEC, TOKENIZER)]
        index = _index(checkpoint, tuple(files), tuple(held))
        text = msgspec.json.format(msgspec.json.encode(index), indent=1)
        write_file(folder / INDEX, text + b"\n")


def _index(
    checkpoint: Checkpoint, files: tuple[Held, ...], modules: tuple[HeldModule, ...]
) -> Index:
    return Index(
        name=checkpoint.manifest.name,
        run=checkpoint.run.id.hex(),
        spec=spec_digest(checkpoint.spec).hex(),
        files=files,
        modules=modules,
        paths=tuple(
            HeldPath(
                path=path,
                experts=experts_of(checkpoint.manifest.grid, path),
                modules={each.module: each.version for each in states},
            )
            for path, states in enumerate(checkpoint.paths)
        ),
    )


def _write_module(checkpoint: Checkpoint, state: ModuleState, folder: Path) -> HeldModule:
    path = folder / file_of(state)
    flat = checkpoint.read(state)
    metadata = {
        "format": "pt",
        "dipaco.run": checkpoint.run.id.hex(),
        "dipaco.module": state.module,
        "dipaco.version": str(state.version),
        "dipaco.state": state.digest.hex(),
    }
    save_tensors(path, named_tensors(checkpoint.manifest, state.module, flat), metadata)
    return HeldModule(
        module=state.module,
        version=state.version,
        newest=checkpoint.newest[state.module],
        file=path.name,
        sha256=_hash(path),
        state=state.digest.hex(),
        parameters=len(flat),
    )


def named_tensors(manifest: Manifest, module: ModuleId, flat: Float32) -> dict[str, Float32]:
    """Return the tensors of a module's flat state by name: views, nothing is copied."""
    found, offset = {}, 0
    for tensor in manifest.topology.layouts[module]:
        found[tensor.name] = flat[offset : offset + tensor.size].reshape(tensor.shape)
        offset += tensor.size
    return found


def save_tensors(path: Path, tensors: dict[str, Float32], metadata: dict[str, str]) -> None:
    """Write one safetensors file and sync it."""
    save_file(tensors, path, metadata)
    path.chmod(PUBLIC)  # the library makes its files 0600
    sync_file(path)


def _hash(path: Path) -> str:
    return hash_file(path).hex()


# Reading


class ModuleExport:
    """The states of an export; a `checkpoint.States`."""

    def __init__(self, folder: Path, manifest: Manifest, held: dict[Digest, ModuleState]) -> None:
        self._folder, self._manifest, self._held = folder, manifest, held

    def has(self, digest: Digest, length: int | None = None) -> bool:
        """Return whether the state is here."""
        return digest in self._held and (self._folder / file_of(self._held[digest])).is_file()

    def read_array(self, digest: Digest, elements: int) -> Float32:
        """Return the state flat, (elements,), its digest checked.

        Raises BlobMissing if it is not here, Refusal for a file that differs from the index.
        """
        if not self.has(digest):
            raise BlobMissing(f"state {short(digest)} is not in {self._folder}")
        state = self._held[digest]
        path = self._folder / file_of(state)
        with _opened(path) as file:
            flat = np.concatenate(
                [
                    _tensor(path, file, tensor.name, tensor.shape).reshape(-1)
                    for tensor in self._manifest.topology.layouts[state.module]
                ]
            )
        if len(flat) != elements or sha256(flat.astype("<f4").view(np.uint8).data) != digest:
            raise Refusal(f"{path}: not the state {short(digest)} that the index names")
        return flat


def is_module_export(path: Path) -> bool:
    """Return whether `path` is the folder of a module export."""
    return (path / INDEX).is_file()


def open_module_export(folder: Path) -> tuple[Checkpoint, bytes]:
    """Return the checkpoint of a module export, and the bytes of its tokenizer's file.

    Raises ConfigError if it cannot be read, Refusal if its files do not belong together.
    """
    try:
        index = msgspec.json.decode(read_file(folder / INDEX, limit=MAX_INDEX), type=Index)
        held = {each.file: each.sha256 for each in index.files}
        run = read_run(folder / MANIFEST)
        spec = decode(read_file(folder / SPEC, limit=MAX_BODY), RouterSpec, limit=MAX_BODY)
    except (msgspec.DecodeError, RemoteProtocolError) as error:
        raise Refusal(f"{folder}: not a module export of this version: {error}") from error
    for name in (MANIFEST, SPEC, TOKENIZER):
        if _hash(folder / name) != held.get(name):
            raise Refusal(f"{folder / name}: not the file that {INDEX} names")
    if spec.manifest != run.id or index.run != run.id.hex():
        raise Refusal(f"{folder}: manifest, spec and index are of different runs")
    tokenizer = read_file(folder / TOKENIZER, limit=run.manifest.tokenizer.size)
    if sha256(tokenizer) != run.manifest.tokenizer.sha256:
        raise Refusal(f"{folder / TOKENIZER}: not the run's tokenizer")
    states = _states(folder, index, run.manifest)
    export = ModuleExport(folder, run.manifest, {each.digest: each for each in states.values()})
    paths = _paths(folder, index, run.manifest, states)
    newest = {ModuleId(each.module): each.newest for each in index.modules}
    return Checkpoint(run, spec, paths, newest, export), tokenizer


def _states(
    folder: Path, index: Index, manifest: Manifest
) -> dict[tuple[ModuleId, int], ModuleState]:
    known = manifest.topology.layouts
    found = {}
    for each in index.modules:
        module = ModuleId(each.module)
        if module not in known or not 0 <= each.version <= manifest.training.rounds:
            raise Refusal(f"{folder}: {INDEX} names {module} v{each.version}, which the run lacks")
        try:
            digest = Digest(bytes.fromhex(each.state))
        except ValueError:
            raise Refusal(f"{folder}: {INDEX}: the state of {module} is no digest") from None
        found[module, each.version] = ModuleState(module, each.version, digest)
    return found


def _paths(
    folder: Path,
    index: Index,
    manifest: Manifest,
    states: dict[tuple[ModuleId, int], ModuleState],
) -> tuple[tuple[ModuleState, ...], ...]:
    """Return the module states of every path; raises Refusal if they differ from the run's grid."""
    grid = manifest.topology.path_modules
    if len(index.paths) != len(grid):
        raise Refusal(f"{folder}: {INDEX} has {len(index.paths)} paths, the run {len(grid)}")
    found = []
    for path, (modules, held) in enumerate(zip(grid, index.paths, strict=True)):
        made_of = [(module, held.modules.get(module, -1)) for module in modules]
        if held.path != path or not all(each in states for each in made_of):
            raise Refusal(
                f"{folder}: {INDEX}: path {path} is at the wrong place, or lacks a module"
            )
        found.append(tuple(states[each] for each in made_of))
    return tuple(found)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise Refusal(f"{path}: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def _tensor(path: Path, file: Any, name: str, shape: tuple[int, ...]) -> Float32:
    found: Float32 = file.get_tensor(name)
    if found.shape != shape or found.dtype != np.float32:
        raise Refusal(f"{path}: {name} is {found.dtype} {found.shape}, not float32 {shape}")
    return found
