"""The number of sequences in a micro-batch, and its reduction when memory runs out.

The gradient of a batch is a sum over its sequences. So a smaller micro-batch costs time and changes
the last bits of a result, and nothing else (docs/fit.md has the tolerance). A batch that ran out of
memory is therefore started again with half the micro-batch.
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
"""Takes the micro-batch that was too large; returns the next one to try, or raises NoDevice."""


def do_what_fits(
    work: Callable[[int], T], size: int, *, device: torch.device, shrink: Shrink
) -> tuple[T, int]:
    """Do `work` with `size` sequences at once; as long as that does not fit, with fewer.

    work     starts from the beginning at every call.
    shrink   returns the next size after one that did not fit.
    Returns the value of `work` and the size that fitted.
    """
    while True:
        try:
            return work(size), size
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
        # After the handler: in it the error keeps the frames alive, and they keep the tensors.
        release_memory(device)
        size = shrink(size)


def halve(tried: int) -> int:
    """Return half of `tried`; raises NoDevice when one sequence was too many."""
    if tried == 1:
        raise NoDevice("one sequence at a time needs more memory than the device has")
    return tried // 2


class MicroBatches:
    """The micro-batch of one worker process: the operator's, and smaller after a lack of memory.

    The size that fitted is kept for later leases, so memory runs out once and not in every lease.
    """

    def __init__(
        self, *, most: int, checkpointing: Checkpointing, tell: Callable[[str], None]
    ) -> None:
        """Start with the operator's settings.

        most   sequences at once, 0 for the whole batch.
        tell   is called once with a line for the operator, after a lack of memory.
        """
        self._first = self.most = most
        self._may_checkpoint = checkpointing == "auto"
        self.checkpointing = checkpointing == "on"
        self._tell = tell
        self._told = True

    def shrink(self, model: PathModel, batch: int) -> Shrink:
        """Return the function that reduces the micro-batch of `model` in a step of `batch`.

        It halves the size. When one sequence does not fit, it turns checkpointing on, if the
        operator allows it (`auto`), and begins with the first size again.
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
        """Note that a step fitted; the first time after a lack of memory, tell the operator."""
        if self._told:
            return
        self._told = True
        checkpointing = ' and compute.checkpointing = "on"' if self.checkpointing else ""
        self._tell(
            f"{device} ran out of memory; the step was started again with micro-batches of "
            f"{self.most}: set compute.max_batch = {self.most}{checkpointing} to begin with it"
        )
