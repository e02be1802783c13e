"""The optimizer of the inner steps: which one, and its moments from and to module arrays."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from dipaco.node.config import MomentBits
from dipaco.node.training.adamw import AdamW
from dipaco.node.training.adamw8 import AdamW8bit
from dipaco.node.training.model import PathModel, gather, scatter
from dipaco.node.training.muon import Muon
from dipaco.protocol.run import training
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import Tensor as Named
from dipaco.protocol.tensors.moments import Moments

Optimizer = AdamW | AdamW8bit | Muon


def make_optimizer(
    model: PathModel, manifest: Manifest, *, moment_bits: MomentBits = 32, steps: int = 0
) -> Optimizer:
    """Return the run's inner optimizer for the parameters of `model`, with moments of zero.

    moment_bits   8 only if no moments are carried (`check_moment_bits`).
    steps         the steps that the moments have seen which the caller loads.
    """
    parameters, inner = dict(model.named_parameters()), manifest.training.inner
    if isinstance(inner, training.Muon):
        products = model.products
        return Muon(parameters, inner, products=products, moment_bits=moment_bits, steps=steps)
    if moment_bits == 8:
        return AdamW8bit(parameters, inner)
    return AdamW(parameters, inner, steps=steps)


def load_moments(
    optimizer: Optimizer, manifest: Manifest, moments: Mapping[ModuleId, Moments]
) -> None:
    """Copy the moments of a path's modules into its optimizer."""
    adamw, momentum = _tensors(optimizer)
    rest, hidden = _layouts(manifest, moments)
    scatter({m: each.first for m, each in moments.items()}, rest, adamw.first)
    scatter({m: each.second for m, each in moments.items()}, rest, adamw.second)
    scatter({m: each.momentum for m, each in moments.items()}, hidden, momentum)


def moments_of(
    optimizer: Optimizer, manifest: Manifest, modules: Iterable[ModuleId]
) -> dict[ModuleId, Moments]:
    """Return the moments of modules from the optimizer of their path."""
    adamw, momentum = _tensors(optimizer)
    rest, hidden = _layouts(manifest, modules)
    return {
        module: Moments(
            gather(adamw.first, rest[module]),
            gather(adamw.second, rest[module]),
            gather(momentum, hidden[module]),
        )
        for module in rest
    }


def _tensors(optimizer: Optimizer) -> tuple[AdamW, Mapping[str, Tensor]]:
    """Return the AdamW within an optimizer, and Muon's momentum by name."""
    inner, momentum = optimizer, {}
    if isinstance(optimizer, Muon):
        inner, momentum = optimizer.adamw, optimizer.momentum
    assert isinstance(inner, AdamW)  # only optimizers of exact moments carry them
    return inner, momentum


def _layouts(
    manifest: Manifest, modules: Iterable[ModuleId]
) -> tuple[dict[ModuleId, tuple[Named, ...]], dict[ModuleId, tuple[Named, ...]]]:
    """Return per module the tensors that AdamW steps, and those that Muon steps."""
    muon = isinstance(manifest.training.inner, training.Muon)
    rest, hidden = {}, {}
    for module in modules:
        layout = manifest.topology.layouts[module]
        rest[module] = tuple(t for t in layout if not (muon and t.hidden))
        hidden[module] = tuple(t for t in layout if muon and t.hidden)
    return rest, hidden
