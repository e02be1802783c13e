"""Muon: against torch's own, against exact singular values, and step by step."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor
from torch.optim._muon import _single_tensor_muon

from dipaco.node.training import muon as muon_module
from dipaco.node.training.adamw import AdamW
from dipaco.node.training.muon import Muon, Stack, is_hidden, orthogonalised
from dipaco.protocol.run import training
from dipaco.protocol.run.muon import (
    COEFFICIENTS,
    ITERATIONS,
    LARGEST_SINGULAR,
    LEAST_NORM,
    update_scale,
)

SETTINGS = training.Muon(lr=0.02, adamw_lr=0.01, weight_decay=0.1, clip=0.5, momentum=0.9)
SHAPES = {
    "model.embed_tokens.weight": (20, 8),
    "model.norm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.mlp.up_proj.weight": (24, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 24),
    "lm_head.weight": (20, 8),
}
PROJ = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight")
HIDDEN = {name for name in SHAPES if "proj" in name}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Threads only slow such small matrices down."""
    torch.set_num_threads(1)


def drawn(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Return a tensor of every name."""
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(shape, generator=generator) for n, shape in SHAPES.items()}


def stepped(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], muon: Muon, lr: float
) -> None:
    """Take one step with these gradients."""
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    muon.step(lr)
    assert all(parameter.grad is None for parameter in parameters.values())


def test_the_hidden_matrices_are_those_of_the_blocks() -> None:
    assert {n for n, p in drawn(0).items() if is_hidden(n, p)} == HIDDEN


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_it_takes_the_steps_of_torchs_own_muon(nesterov: bool, products: torch.dtype) -> None:
    """Up to rounding to bf16, in which torch's always multiplies.

    Its steps are called without its optimizer, whose constructor takes seconds (`adamw.py`).
    """
    settings = replace(SETTINGS, clip=1e3, nesterov=nesterov)
    start, ours, theirs = drawn(0), drawn(0), drawn(0)
    momenta = {n: torch.zeros_like(p) for n, p in theirs.items()}
    muon = Muon(ours, settings, products=products)
    for step in range(6):
        gradients = drawn(step + 1, 0.01)
        stepped(ours, gradients, muon, 0.02)
        _single_tensor_muon(
            [theirs[n] for n in HIDDEN],
            [gradients[n] for n in HIDDEN],
            [momenta[n] for n in HIDDEN],
            lr=0.02,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            nesterov=nesterov,
            ns_coefficients=COEFFICIENTS,
            ns_steps=ITERATIONS,
            eps=LEAST_NORM,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )
    for name in HIDDEN:
        apart = (ours[name] - theirs[name]).norm() / (theirs[name] - start[name]).norm()
        assert apart < 2e-2, name


class Exact:
    """The same method in float64, with singular values in place of Newton-Schulz products."""

    def __init__(self, settings: training.Muon) -> None:
        self._settings = settings
        self._momentum: dict[str, NDArray[np.float64]] = {}

    def step(
        self, lr: float, parameter: NDArray[np.float64], name: str, gradient: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the matrix after one step by a clipped gradient."""
        s = self._settings
        before = self._momentum.get(name, np.zeros_like(gradient))
        momentum = s.momentum * before + (1 - s.momentum) * gradient
        self._momentum[name] = momentum
        ahead = s.momentum * momentum + (1 - s.momentum) * gradient if s.nesterov else momentum
        left, values, right = np.linalg.svd(ahead / np.linalg.norm(ahead), full_matrices=False)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        scale = 0.2 * max(gradient.shape) ** 0.5
        update: NDArray[np.float64] = scale * (left * values) @ right
        return parameter * (1 - lr * s.weight_decay) - lr * update


def off_exact(settings: training.Muon, oracle: training.Muon) -> float:
    """Return how far six steps are from the exact ones of `oracle`, as a share of these."""
    ours, start = drawn(0), drawn(0)
    exact = {n: p.double().numpy() for n, p in start.items()}
    muon, method = Muon(ours, settings, products=torch.float32), Exact(oracle)
    for step in range(6):
        lr = settings.lr / (step + 1)
        gradients = drawn(step + 1, 0.01 if step % 2 else 0.1)
        whole = torch.cat([g.flatten() for g in gradients.values()]).norm().item()
        assert (whole > oracle.clip) == (step % 2 == 0)
        stepped(ours, gradients, muon, lr)
        for name in HIDDEN:
            clipped = gradients[name].double().numpy() * min(1.0, oracle.clip / whole)
            exact[name] = method.step(oracle.lr / (step + 1), exact[name], name, clipped)
    return max(
        float(
            np.linalg.norm(exact[n] - ours[n].numpy()) / np.linalg.norm(exact[n] - start[n].numpy())
        )
        for n in HIDDEN
    )


ROUNDING = 5e-5


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_takes_the_steps_of_the_exact_method(nesterov: bool) -> None:
    settings = replace(SETTINGS, nesterov=nesterov)
    assert off_exact(settings, settings) < ROUNDING


@pytest.mark.parametrize(
    "changed",
    [
        replace(SETTINGS, momentum=0.89),
        replace(SETTINGS, nesterov=False),
        replace(SETTINGS, lr=0.0201),
        replace(SETTINGS, weight_decay=0.11),
        replace(SETTINGS, clip=0.49),
    ],
    ids=["momentum", "nesterov", "rate", "decay", "clip"],
)
def test_another_setting_comes_elsewhere(changed: training.Muon) -> None:
    assert off_exact(changed, SETTINGS) > 10 * ROUNDING


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COEFFICIENTS", (3.4545, -4.7750, 2.0315)),
        ("COEFFICIENTS", (3.4445, -4.7650, 2.0315)),
        ("COEFFICIENTS", (3.4445, -4.7750, 2.0415)),
        ("ITERATIONS", 4),
        ("update_scale", lambda shape: 0.202 * max(shape) ** 0.5),
        ("update_scale", lambda shape: 0.2 * min(shape) ** 0.5),
    ],
)
def test_another_constant_comes_elsewhere(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon_module, name, value)
    assert off_exact(SETTINGS, SETTINGS) > 10 * ROUNDING


def test_the_rest_takes_the_steps_of_adamw_with_its_own_rate_on_the_same_course() -> None:
    ours, theirs = drawn(0), drawn(0)
    muon = Muon(ours, SETTINGS, products=torch.float32, steps=5)
    adamw = AdamW({n: p for n, p in theirs.items() if n not in HIDDEN}, SETTINGS, steps=5)
    stepped(ours, drawn(1, 0.01), muon, SETTINGS.lr / 4)
    for name, gradient in drawn(1, 0.01).items():
        theirs[name].grad = gradient
    adamw.step(SETTINGS.adamw_lr / 4)
    for name in SHAPES:
        assert torch.equal(ours[name], theirs[name]) == (name not in HIDDEN)


def test_a_stack_has_a_bound_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = drawn(0), drawn(0)
    stacks = [Muon(together, SETTINGS, products=torch.float32)]
    monkeypatch.setattr(muon_module, "STACKED", 2 * 8 * 8)
    stacks.append(Muon(apart, SETTINGS, products=torch.float32))
    assert [[len(s.momentum) for s in each.stacks] for each in stacks] == [[2, 2], [2, 1, 1]]
    for parameters, each in zip((together, apart), stacks, strict=True):
        stepped(parameters, drawn(1), each, 0.02)
    for name in SHAPES:
        assert torch.allclose(together[name], apart[name], rtol=0, atol=1e-6)


def test_a_momentum_in_eight_bits_stays_near_an_exact_one() -> None:
    start, exact, near = ({n: drawn(0)[n] for n in PROJ} for _ in range(3))
    stacks = (
        Stack(exact, SETTINGS, products=torch.float32),
        Stack(near, SETTINGS, products=torch.float32, moment_bits=8),
    )
    for step in range(10):
        gradients = drawn(step)
        for parameters, stack in zip((exact, near), stacks, strict=True):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name].clone()
            stack.update(0.01)
    for name in PROJ:
        apart = (exact[name] - near[name]).norm() / (exact[name] - start[name]).norm()
        assert 1e-4 < apart < 0.03, name
        momentum, rounded = (stack.momentum[name] for stack in stacks)
        assert (momentum - rounded).norm() < 0.02 * momentum.norm()


def test_singular_values_come_near_one_and_never_above_the_bound() -> None:
    matrices = torch.randn((3, 16, 40), generator=torch.Generator().manual_seed(0))
    matrices[1, 3:] = 0  # of rank 3
    matrices[2] = matrices[2, :1] * torch.linspace(-1, 1, 16)[:, None]  # of rank 1
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    for products in (torch.float32, torch.bfloat16):
        found = orthogonalised((matrices / norms).to(products)).double()
        for values, rank in zip(torch.linalg.svdvals(found), (16, 3, 1), strict=True):
            assert values[:rank].min() > 0.6 and values.max() < LARGEST_SINGULAR
            assert products == torch.bfloat16 or values[rank:].sum() < 1e-3


def test_no_start_within_the_norm_leads_above_the_bound() -> None:
    """The polynomial keeps to [0, 1.203] whatever value in it comes first."""
    a, b, c = COEFFICIENTS
    values = np.linspace(0, LARGEST_SINGULAR, 100_001)
    after = a * values + b * values**3 + c * values**5
    assert after.min() >= 0 and 1.2 < after.max() < LARGEST_SINGULAR
    assert update_scale((8, 32)) == pytest.approx(0.2 * 32**0.5)
