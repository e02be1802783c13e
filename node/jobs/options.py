"""Which runs the operator's choice of moments suits. No torch here.

The choices are `ComputeSection`'s; docs/fit.md says what each changes, and by how much.
"""

from importlib.util import find_spec

from dipaco.node.config import MomentBits
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest


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
