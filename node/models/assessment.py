"""Routed held-out loss of a checkpoint: once per document, and re-routed every W tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from dipaco.node.jobs.meter import OnProgress
from dipaco.node.jobs.values import Progress
from dipaco.node.models.path_models import PathModels, memory_in_words
from dipaco.node.models.rerouted import Labels, evaluate_rerouted
from dipaco.node.routing.held_out import HeldOutDocuments
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.work.kinds import Evaluation


@dataclass(frozen=True)
class Assessment:
    """One pass over the documents."""

    window: int | None
    """W, tokens; None: routed once."""
    paths: dict[int, Evaluation]
    """By path, for every path that has documents or scored a token."""
    domains: dict[str, Evaluation]
    """By domain, where the documents have one."""


def assess(
    checkpoint: Checkpoint,
    documents: HeldOutDocuments,
    windows: Sequence[int | None],
    models: PathModels,
    *,
    domains: Labels | None,
    max_batch: int,
    on_progress: OnProgress,
) -> list[Assessment]:
    """Score the documents once for each of `windows`.

    domains     by path, the domain of each document; None: they have none.
    Raises BlobMissing if a state is missing, DipacoError if the device has too little memory.
    """
    router = Router(checkpoint.spec)
    found = []
    for window in windows:
        stage = "once" if window is None else f"every {window}"

        def on_batch(done: int, total: int, stage: str = stage) -> None:
            on_progress(Progress(stage=stage, done=done, total=total, unit="documents"))

        with memory_in_words(models.device):
            scores = evaluate_rerouted(
                documents.by_path,
                router,
                models,
                first_scored=checkpoint.manifest.routing.first_scored,
                id_bytes=documents.id_bytes,
                labels=domains,
                window=window,
                max_batch=max_batch,
                on_batch=on_batch,
            )
        found.append(Assessment(window, scores.paths, scores.labels))
    return found
