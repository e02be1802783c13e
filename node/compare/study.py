"""The seeds of a comparison together: folders, trials still to do, finished results.

Rates are chosen in the first seed, with the first order of batches, by the half of the held-out
documents that no table shows: the inner rate first, at the run's own outer rate, then the outer
rate at the chosen inner one. All further seeds and orders are trained at the chosen rates alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.pool import Task
from dipaco.node.compare.results import TrialResult, chosen, read_result, write_result
from dipaco.node.compare.summary import Comparison, summarise
from dipaco.node.compare.trials import Trial, own_trial
from dipaco.node.compare.variants import method_named
from dipaco.node.data.sources.labels import labels_of_source
from dipaco.node.jobs.settings import reproducible_settings
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.worker.performer import tools_of
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.modules import ModuleId

LABELS = "labels.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a comparison is to train."""

    methods: Sequence[str]
    rates: Mapping[str, Sequence[float]]
    """By method the inner rates to choose from, under "" those of all others; none: the run's."""
    outer_rates: Sequence[float]
    """Outer rates to choose from; none: the method's own."""
    repeats: int
    """Orders of batches for every seed."""
    windows: Sequence[int]
    """Tokens between two choices of a path, to score the chosen trials again by."""
    device: str


class Labels(msgspec.Struct, frozen=True):
    """The labels of held-out documents."""

    labels: dict[int, str]
    """By index in the source."""


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


def missing_tasks(folders: Sequence[SeedFolder], plan: Plan) -> list[Task]:
    """Return the tasks that can be done now and are not; none once the comparison is whole.

    A start comes before its trials. Which trials are due at chosen rates is known once the rates
    were tried, so call again when these tasks are done.
    """
    tasks = [Task(folder, None, plan.device) for folder in folders if folder.start() is None]
    for method in plan.methods:
        untried = _untried(folders[0], method, plan)
        tasks += [Task(folders[0], trial, plan.device) for trial in untried]
        if not untried:
            best = _chosen(folders[0], method)
            for folder in folders:
                tasks += _at_chosen_rates(folder, best, plan)
    return tasks


def _untried(folder: SeedFolder, method: str, plan: Plan) -> list[Trial]:
    """Return the trials of other rates that are due; none once the rates can be chosen."""
    own = own_trial(method, folder.manifest)
    inner = plan.rates.get(method, plan.rates.get("", ())) or (own.lr,)
    first = [replace(own, lr=lr) for lr in inner]
    missing = [trial for trial in first if folder.result(trial) is None]
    if missing or not plan.outer_rates or own.outer_lr is None:
        return missing
    best = chosen([folder.result(trial) or _absent(trial) for trial in first])
    second = [replace(own, lr=best.lr, outer_lr=outer) for outer in plan.outer_rates]
    return [trial for trial in second if folder.result(trial) is None]


def _absent(trial: Trial) -> TrialResult:
    raise AssertionError(trial.key)


def _chosen(folder: SeedFolder, method: str) -> Trial:
    """Return the best of all trials of a method that are finished, those of earlier calls too."""
    return chosen(
        each for each in folder.results() if each.method == method and not each.repeat
    ).trial


def _at_chosen_rates(folder: SeedFolder, best: Trial, plan: Plan) -> list[Task]:
    trials = [replace(best, repeat=repeat) for repeat in range(plan.repeats)]
    tasks = [Task(folder, each, plan.device) for each in trials if folder.result(each) is None]
    if method_named(best.method).is_routed:
        found = folder.rerouted(best)
        left = tuple(w for w in plan.windows if found is None or w not in found.windows)
        tasks += [Task(folder, best, plan.device, left)] if left else []
    return tasks


def keep_labels(folder: SeedFolder, column: str) -> None:
    """Read the labels of the held-out documents for `finished`; raises ConfigError, Unavailable.

    folder   of a seed with a start.
    column   of the source.
    """
    start = folder.start()
    assert start is not None
    access = tools_of(reproducible_settings(folder.root, "cpu")).access
    indices = [each.index for each in start.documents]
    source = folder.manifest.source
    try:
        labels = labels_of_source(source, column, indices, access, lambda progress: None)
    except ConfigError as error:
        raise ConfigError(f"--domain-field: {error}") from error
    write_result(folder.root.parent / LABELS, Labels(labels))


def finished(name: str, folders: Sequence[SeedFolder]) -> Comparison:
    """Return the comparison of all finished trials of these seeds, of earlier calls too."""
    starts = [start for folder in folders if (start := folder.start()) is not None]
    results = [result for folder in folders for result in folder.results()]
    rerouted = [
        found
        for folder in folders
        for each in folder.results()
        if not each.repeat and (found := folder.rerouted(each.trial)) is not None
    ]
    file = folders[0].root.parent / LABELS
    labels = read_result(file, Labels).labels if file.exists() else {}
    return summarise(name, starts, results, rerouted, labels)
