"""The path model against a forward pass in plain NumPy float64, and its way to flat states."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dipaco.node.training.cross_entropy import block_rows, head_loss, token_losses
from dipaco.node.training.model import PathModel, load, store
from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.topology import STEM
from tests.node.training.small import VOCABULARY, initial_states, small_manifest

Array = NDArray[np.float64]
CPU = torch.device("cpu")
SHAPES = [
    Model(d_model=16, heads=4, kv_heads=4, d_ff=32, context=48),
    Model(d_model=16, heads=4, kv_heads=2, d_ff=40, context=48, rope_theta=500.0, tied=False),
    Model(d_model=24, heads=3, kv_heads=1, d_ff=8, context=48, norm_eps=1e-3),
]


def filled(value: Manifest, path: int = 0) -> tuple[PathModel, dict[str, Array]]:
    """Return a model with random weights, norms too, and the same weights by name."""
    draw = np.random.default_rng(5)
    states = {
        module: draw.normal(0, 0.3, state.shape).astype(np.float32)
        for module, state in initial_states(value, path).items()
    }
    model = PathModel(value, CPU)
    load(model, value, states)
    named = {n: p.detach().numpy().astype(np.float64) for n, p in model.named_parameters()}
    return model, named


def plain_forward(value: Manifest, w: dict[str, Array], tokens: list[int]) -> Array:
    """Logits (T, V) of one sequence, read off the papers: no batch, loops over heads."""
    m, length = value.model, len(tokens)
    c = m.d_model // m.heads

    def norm(x: Array, name: str) -> Array:
        scaled: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + m.norm_eps)
        return scaled * w[name + ".weight"]

    def turn(x: Array) -> Array:  # Hugging Face's convention: pairs (i, i + c/2)
        out = x.copy()
        for t in range(length):
            for i in range(c // 2):
                angle = t * m.rope_theta ** (-2 * i / c)
                a, b = x[t, i], x[t, i + c // 2]
                out[t, i] = a * np.cos(angle) - b * np.sin(angle)
                out[t, i + c // 2] = b * np.cos(angle) + a * np.sin(angle)
        return out

    x: Array = w["model.embed_tokens.weight"][tokens]
    for layer in range(value.grid.blocks):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm")
        q, k, v = (y @ w[f"{at}self_attn.{n}_proj.weight"].T for n in "qkv")
        heads = []
        for h in range(m.heads):
            shared = h // (m.heads // m.kv_heads)
            scores = turn(q[:, h * c : h * c + c]) @ turn(k[:, shared * c : shared * c + c]).T
            scores = scores / np.sqrt(c) + np.triu(np.full((length, length), -np.inf), 1)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            heads.append(p @ v[:, shared * c : shared * c + c])
        x = x + np.concatenate(heads, -1) @ w[at + "self_attn.o_proj.weight"].T
        y = norm(x, at + "post_attention_layernorm")
        gate, up = (y @ w[f"{at}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    head = "model.embed_tokens.weight" if m.tied else "lm_head.weight"
    logits: Array = norm(x, "model.norm") @ w[head].T
    return logits


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_the_plain_forward_pass(shape: Model) -> None:
    value = small_manifest(model=shape)
    model, weights = filled(value)
    tokens = [(11 * i * i + 3) % VOCABULARY for i in range(20)]
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])) @ model.head.T
    expected = plain_forward(value, weights, tokens)
    np.testing.assert_allclose(logits[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_no_token_sees_what_follows_it() -> None:
    value = small_manifest()
    model, _ = filled(value)
    first, second = torch.zeros(2, 1, 30, dtype=torch.long)
    second[0, 15:] = 7
    with torch.inference_mode():
        same = torch.isclose(model(first), model(second)).all(-1)[0]
    assert same.tolist() == [True] * 15 + [False] * 15


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_are_exactly_the_tensors_of_a_path(shape: Model) -> None:
    value = small_manifest(model=shape)
    found = {n: tuple(p.shape) for n, p in PathModel(value, CPU).named_parameters()}
    assert found == {t.name: t.shape for t in value.topology.path_tensors(3)}


def test_states_go_in_and_come_out_unchanged() -> None:
    grid = Grid(levels=(Level(experts=2, blocks=2),), path_specific_blocks=(1,))
    value = small_manifest(grid=grid)
    states = initial_states(value, 1)
    model = PathModel(value, CPU)
    load(model, value, states)
    assert list(states) == ["stem", "L1.E1", "p1"]
    for module, state in states.items():
        assert store(model, value, module).tobytes() == state.tobytes()


def test_modules_of_the_wrong_path_are_a_bug_that_is_noticed() -> None:
    value = small_manifest()
    states = initial_states(value)
    model = PathModel(value, CPU)
    with pytest.raises(LocalProtocolError, match="no module holds"):
        load(model, value, {STEM: states[STEM]})


@pytest.mark.parametrize("tokens", [1, 300])
def test_the_loss_without_logits_equals_torchs_cross_entropy(tokens: int) -> None:
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(tokens, 8, generator=draw, requires_grad=True)
    weight = torch.randn(4096, 8, generator=draw, requires_grad=True)
    targets = torch.randint(0, 4096, (tokens,), generator=draw)
    assert tokens in (1, 300) and block_rows(weight) == 128  # 300: a third block that is not full
    expected = functional.cross_entropy(features @ weight.T, targets, reduction="none")
    torch.autograd.backward(3 * expected.sum())
    wanted = features.grad, weight.grad
    features.grad = weight.grad = None
    loss = head_loss(features, weight, targets)
    torch.autograd.backward(3 * loss)
    torch.testing.assert_close(loss, expected.sum())
    torch.testing.assert_close((features.grad, weight.grad), wanted, rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(token_losses(features, weight, targets), expected)


def test_logits_beyond_the_range_of_exp_give_a_finite_loss() -> None:
    weight = torch.tensor([[400.0], [-400.0]])
    losses = token_losses(torch.ones(2, 1), weight, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 800.0]
