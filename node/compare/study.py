"""The seeds of a comparison together: folders, tasks still to do, finished results."""

from collections.abc import Sequence

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.pool import Task
from dipaco.node.compare.results import Comparison, summarise
from dipaco.node.compare.variants import METHODS
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.modules import ModuleId


def make_folder(folder: SeedFolder, tokenizer: bytes | None, given: BlobStore) -> None:
    """Make a seed's folder, and copy the tokenizer and start checkpoint of its run into it.

    given   the store that has the states of the start checkpoint.
    """
    kept, manifest = BlobStore(Home.at(folder.root).blobs), folder.manifest
    if tokenizer is not None:
        kept.write(tokenizer)
    for state in manifest.start:
        if not given.has(state.digest):
            raise ConfigError(
                f"{manifest.name}: its run file has no states of the checkpoint: name the TOML file"
            )
        elements = manifest.topology.elements(ModuleId(state.module))
        kept.write_array(given.read_array(state.digest, elements))


def missing_tasks(
    folder: SeedFolder, methods: Sequence[str], windows: Sequence[int], device: str
) -> list[Task]:
    """Return the tasks of one seed that are not done: its start first, re-routing last."""
    tasks = [] if folder.start() else [Task(folder, None, device)]
    tasks += [Task(folder, method, device) for method in methods if folder.result(method) is None]
    for method in methods:
        if METHODS[method].is_routed:
            found = folder.rerouted(method)
            left = tuple(w for w in windows if found is None or w not in found.windows)
            tasks += [Task(folder, method, device, left)] if left else []
    return tasks


def finished(name: str, folders: Sequence[SeedFolder]) -> Comparison:
    """Return the comparison of all finished methods of these seeds, of earlier calls too."""
    starts = [folder.start() for folder in folders]
    results = [folder.result(method) for folder in folders for method in METHODS]
    rerouted = [folder.rerouted(method) for folder in folders for method in METHODS]
    titles = {name: method.title for name, method in METHODS.items()}
    return summarise(
        name,
        titles,
        [each for each in starts if each is not None],
        [each for each in results if each is not None],
        [each for each in rerouted if each is not None],
    )
