"""The models of a checkpoint's paths, one in memory at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.node.training.devices import choose_device
from dipaco.node.training.inner_loop import make_deterministic
from dipaco.node.training.model import PathModel, load
from dipaco.protocol.errors import DipacoError


class PathModels:
    """Returns the model of any path: always one object, loaded with that path's states."""

    def __init__(self, checkpoint: Checkpoint, *, device: str, threads: int) -> None:
        """device: `auto`, `cpu` or `cuda:N`; raises NoDevice if it is missing."""
        make_deterministic(threads)
        self._checkpoint = checkpoint
        self.device = choose_device(device)
        self._model = PathModel(checkpoint.manifest, self.device)
        self._path: int | None = None

    def __call__(self, path: int) -> PathModel:
        """Return the model of `path`, loaded; raises BlobMissing."""
        if path != self._path:
            states = self._checkpoint.path_states(path)
            load(self._model, self._checkpoint.manifest, states)
            self._path = path
        return self._model


@contextmanager
def memory_in_words(device: torch.device) -> Iterator[None]:
    """Turn a lack of device memory into DipacoError, with the options to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DipacoError(
            f"{device} has too little memory: set --max-batch lower, or use --device cpu"
        ) from error
