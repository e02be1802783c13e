"""The check of the operator's choice of moments against a run. No torch here.

The choices are those of `ComputeSection`; docs/fit.md has the effect of each.
"""

from importlib.util import find_spec

from dipaco.node.config import MomentBits
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest


def check_moment_bits(bits: MomentBits, manifest: Manifest) -> None:
    """Check that a run allows moments of `bits`; raises ConfigError.

    Moments of 8 bits lead to other weights than exact ones: the difference is within the noise of
    training but far beyond rounding. A run that carries moments passes them on to the next
    volunteer of the path, so there one volunteer cannot choose alone.
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
