"""torch.compile for the blocks of a path's model, when the operator asks for it.

All blocks of all paths have the same code, so each process compiles it once for its first shape,
and once more for any other shape. The head's loss is not compiled; it has its own backward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dipaco.node.training.model import PathModel
from dipaco.protocol.errors import ConfigError


def compile_blocks(model: PathModel, *, backend: str | Callable[..., object] = "inductor") -> None:
    """Mark the blocks of `model` to be compiled at their first use; parameters keep their names."""
    for block in model.model.layers:
        block.compile(backend=backend)


@contextmanager
def compiling_in_words() -> Iterator[None]:
    """Turn torch's errors of compilation into ConfigError, with the setting to change."""
    from torch._dynamo.exc import TorchDynamoException  # takes seconds: imported only when needed

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        why = " ".join([type(cause).__name__, *str(cause).splitlines()[:1]])
        raise ConfigError(
            f"compute.compile = true, but torch cannot compile here ({why}): set it to false, or "
            "install a C++ compiler (CPU) or triton (GPU)"
        ) from error
