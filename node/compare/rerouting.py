"""Scores a trained trial again, with the path chosen anew every W tokens of a document.

Nothing is trained: the seed's blob store has the final states. Documents and scored positions are
those of the tables; docs/method.md, 2.5(b).
"""

from collections.abc import Sequence

import torch

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.results import Loss, Rerouted, TrialResult, write_result
from dipaco.node.compare.trials import Trial
from dipaco.node.compare.work import OnWork, SeedData, blobs_of
from dipaco.node.models.rerouted import evaluate_rerouted
from dipaco.node.training.devices import choose_device
from dipaco.node.training.inner_loop import make_deterministic
from dipaco.node.training.model import PathModel, load
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest


def reroute_trial(
    folder: SeedFolder, trial: Trial, windows: Sequence[int], *, device: str, on_work: OnWork
) -> None:
    """Add scores for `windows`, each W in tokens, to the result of re-routing a trained trial."""
    start, result, before = folder.start(), folder.result(trial), folder.rerouted(trial)
    assert start is not None and result is not None
    make_deterministic(1)
    data = SeedData.at_end(folder, start, result)
    texts = data.held_out(lambda progress: on_work("documents", 0))
    shown = {each.index for each in start.documents if each.half == "score"}
    held_out = {
        path: [ids for ids, row in zip(own, texts.indices[path], strict=True) if row in shown]
        for path, own in texts.by_path.items()
    }
    router = Router(data.spec)
    manifest = trial.manifest(folder.manifest)
    models = FinalModels(folder, manifest, result, choose_device(device))
    found = dict(before.windows) if before else {}
    for window in windows:

        def on_batch(done: int, total: int, window: int = window) -> None:
            on_work(f"every {window} tokens", 0)

        losses = evaluate_rerouted(
            held_out,
            router,
            models,
            first_scored=data.manifest.routing.first_scored,
            id_bytes=texts.id_bytes,
            window=window,
            max_batch=0,
            on_batch=on_batch,
        ).paths
        found[window] = tuple(
            Loss(shard=path, documents=each.documents, tokens=each.tokens, nll=each.nll)
            for path, each in sorted(losses.items())
        )
    rerouted = Rerouted(run=start.run, trial=trial.key, seed=start.seed, windows=found)
    write_result(folder.rerouted_file(trial), rerouted)


class FinalModels:
    """Returns the final model of any path; each call replaces the weights of the one before."""

    def __init__(
        self, folder: SeedFolder, manifest: Manifest, result: TrialResult, device: torch.device
    ) -> None:
        self._manifest = manifest
        self._blobs, self._states = blobs_of(folder.root), result.states
        self._model = PathModel(self._manifest, device)

    def __call__(self, path: int) -> PathModel:
        """Return the model of `path`, loaded; raises BlobMissing."""
        top = self._manifest.topology
        states = {
            module: self._blobs.read_array(
                Digest(bytes.fromhex(self._states[module])), top.elements(module)
            )
            for module in top.path_modules[path]
        }
        load(self._model, self._manifest, states)
        return self._model
