"""torch.compile for the blocks of a path's model, when the operator asks for it.

Block by block: all blocks of all paths are the same code, which is compiled once in a process, for
a first shape and then for any. The head's loss stays as it is; it has its own backward.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dipaco.node.training.model import PathModel
from dipaco.protocol.errors import ConfigError


def compile_blocks(model: PathModel, *, backend: str | Callable[..., object] = "inductor") -> None:
    """Have the blocks of `model` compiled at their first use; names of parameters stay."""
    for block in model.model.layers:
        block.compile(backend=backend)


@contextmanager
def compiling_in_words() -> Iterator[None]:
    """Say what to set when torch cannot compile on this machine; raises ConfigError."""
    from torch._dynamo.exc import TorchDynamoException  # seconds: only who compiles pays them

    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        why = " ".join([type(cause).__name__, *str(cause).splitlines()[:1]])
        raise ConfigError(
            f"compute.compile = true, but torch cannot compile here ({why}): set it to false, or "
            "install a C++ compiler (CPU) or triton (GPU)"
        ) from error
