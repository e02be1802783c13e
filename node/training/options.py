"""How the operator wants a path to be trained, and which runs that suits. No torch here.

None of it is the run's business: docs/fit.md says what each changes, and within which tolerance.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final, Literal

from dipaco.protocol.errors import ConfigError
from dipaco.protocol.manifest import Manifest

Checkpointing = Literal["auto", "on", "off"]
MomentBits = Literal[32, 8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The choices, the defaults being those that change no bit on the CPU."""

    checkpointing: Checkpointing = "auto"
    """Whether backward makes activations again; `auto`: when one sequence does not fit without."""
    compile: bool = False
    """Whether torch compiles the blocks before the first step."""
    moment_bits: MomentBits = 32
    """In which AdamW keeps its two moments."""


PLAIN: Final = Options()


def check_moment_bits(bits: MomentBits, manifest: Manifest) -> None:
    """Hold a choice against a run; raises ConfigError.

    Moments of 8 bits lead elsewhere than exact ones, within the noise of training but far beyond
    rounding. A run that carries moments hands them to whoever trains the path next, so there they
    are not one volunteer's own business.
    """
    if bits == 32:
        return
    if manifest.training.inner_state == "carry":
        raise ConfigError(
            f"compute.moment_bits = {bits} does not suit run {manifest.name}, which carries exact "
            "moments from round to round (inner_state): set it to 32"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"compute.moment_bits = {bits} needs bitsandbytes: pip install 'dipaco-node[8bit]'"
        )
