"""How many sequences go through the model at once, and what happens when memory does not suffice.

The gradient of a batch is a sum over its sequences, so fewer at once cost time and the last bits
of a result, and nothing else (docs/fit.md has the tolerance). A batch that ran out of memory is
therefore begun again with half as many at once.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from dipaco.node.config import Checkpointing
from dipaco.node.training.devices import ran_out, release_memory
from dipaco.node.training.model import PathModel
from dipaco.protocol.errors import NoDevice

T = TypeVar("T")

Shrink = Callable[[int], int]
"""Gets how many sequences at once were too many; returns how many to try, or raises NoDevice."""


def do_what_fits(
    work: Callable[[int], T], size: int, *, device: torch.device, shrink: Shrink
) -> tuple[T, int]:
    """Do `work` with `size` sequences at once, or with as many as `shrink` comes to.

    work   begins anew at every call: what it did before memory ran out is lost.
    Returns what it returned, and the size that fitted.
    """
    while True:
        try:
            return work(size), size
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
        # Not in the handler: the error holds the frames, and these the tensors to be freed.
        release_memory(device)
        size = shrink(size)


def halve(tried: int) -> int:
    """Return half of `tried`; raises NoDevice when one sequence was too many."""
    if tried == 1:
        raise NoDevice("one sequence at a time needs more memory than there is")
    return tried // 2


class MicroBatches:
    """The sizes that one worker process trains with: the operator's, and less after a shortage.

    What was learnt holds for later leases, so memory runs out once and not in every lease.
    """

    def __init__(
        self, *, most: int, checkpointing: Checkpointing, tell: Callable[[str], None]
    ) -> None:
        """most: sequences at once, 0 for the whole batch; tell: gets what to set, once."""
        self._first = self.most = most
        self._may_checkpoint = checkpointing == "auto"
        self.checkpointing = checkpointing == "on"
        self._tell = tell
        self._told = True

    def shrink(self, model: PathModel, batch: int) -> Shrink:
        """Return how to go on with `model` when a micro-batch of a step of `batch` did not fit.

        Sizes halve; after one sequence comes checkpointing, if the operator left that to us, and
        then the first size again.
        """

        def smaller(tried: int) -> int:
            if tried > 1:
                self.most = halve(tried)
            elif self._may_checkpoint and not self.checkpointing:
                self.checkpointing = model.model.checkpointing = True
                self.most = self._first or batch
            else:
                halve(tried)
            self._told = False
            return self.most

        return smaller

    def fitted(self, device: torch.device) -> None:
        """Hear that a step went well; after a shortage, say what to set."""
        if self._told:
            return
        self._told = True
        checkpointing = ' and compute.checkpointing = "on"' if self.checkpointing else ""
        self._tell(
            f"{device} ran out of memory; the step was begun again and goes on with micro-batches "
            f"of {self.most}: set compute.max_batch = {self.most}{checkpointing} to begin with it"
        )
