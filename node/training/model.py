"""One path's model in torch, and the conversion from and to module states.

Llama-style: RMSNorm, rotary embedding, SwiGLU, no biases. Parameter names are the topology's, which
are those of Hugging Face's Llama. The rotary convention is the same too (the two halves of a head
rotate against each other), so an export loads in transformers unchanged.

Shapes: B sequences, T tokens, d d_model, h heads, c = d / h, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dipaco.node.training.cross_entropy import head_loss
from dipaco.protocol.errors import LocalProtocolError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Model
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.run.topology import Tensor as Named

Float32 = NDArray[np.float32]

PRODUCTS = {"f32": torch.float32, "bf16": torch.bfloat16}
"""The dtype of the inputs of training's matrix products, by the manifest's precision."""


class Linear(nn.Module):
    """A matrix without bias, and without the random initial values of torch's own class."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d_in) to (..., d_out)."""
        return functional.linear(x, self.weight)


class Norm(nn.Module):
    """RMSNorm (1910.07467)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(model.d_model))
        self.eps = model.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; several query heads may share one key and value head."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.heads, self.kv_heads = model.heads, model.kv_heads
        self.head_dim = model.d_model // model.heads
        kv = self.kv_heads * self.head_dim
        self.q_proj = Linear(model.d_model, model.d_model)
        self.k_proj = Linear(model.d_model, kv)
        self.v_proj = Linear(model.d_model, kv)
        self.o_proj = Linear(model.d_model, model.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d); cos, sin (T, c)."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            rotate(q, cos, sin),
            rotate(k, cos, sin),
            v,
            is_causal=True,
            enable_gqa=self.kv_heads != self.heads,
        )
        joined: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return joined


class FeedForward(nn.Module):
    """SwiGLU (2002.05202)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.gate_proj = Linear(model.d_model, model.d_ff)
        self.up_proj = Linear(model.d_model, model.d_ff)
        self.down_proj = Linear(model.d_ff, model.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention, then feed-forward, each on its normed input and added to the stream."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.input_layernorm = Norm(model)
        self.self_attn = Attention(model)
        self.post_attention_layernorm = Norm(model)
        self.mlp = FeedForward(model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T, d)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Backbone(nn.Module):
    """Embedding, all blocks, final norm."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        model = manifest.model
        self.embed_tokens = Linear(model.d_model, manifest.tokenizer.vocabulary)
        self.layers = nn.ModuleList(Block(model) for _ in range(manifest.grid.blocks))
        self.norm = Norm(model)
        self.checkpointing = False
        """Whether backward computes a block's inner activations again instead of keeping them."""

    def forward(self, tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map token ids (B, T) to features (B, T, d)."""
        x = functional.embedding(tokens, self.embed_tokens.weight)
        again = self.checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            if again:  # no value is drawn at random, so there is no generator state to restore
                x = checkpoint(layer, x, cos, sin, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class PathModel(nn.Module):
    """The model of one path; `load` sets all its values, and thereby the path."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        super().__init__()
        self.model = Backbone(manifest)
        if not manifest.model.tied:
            self.lm_head = Linear(manifest.model.d_model, manifest.tokenizer.vocabulary)
        self.to(device)
        self.tied = manifest.model.tied
        self.device = device
        self.products = PRODUCTS[manifest.training.precision]
        self.cos, self.sin = (
            torch.from_numpy(table).to(device) for table in rotary_tables(manifest.model)
        )

    @property
    def head(self) -> Tensor:
        """The output head's weight, (V, d)."""
        head = self.model.embed_tokens if self.tied else self.lm_head
        assert isinstance(head.weight, Tensor)
        return head.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (B, T), T at most the context, to the head's features (B, T, d)."""
        length = tokens.shape[1]
        features: Tensor = self.model(tokens, self.cos[:length], self.sin[:length])
        return features

    def loss(self, rows: Tensor) -> Tensor:
        """Return the summed negative log-likelihood in nats of all tokens of a batch but the first.

        It is computed in the manifest's precision, for training; evaluation is always float32.

        rows   (B, T + 1): the inputs and, one to the right, their targets.
        """
        half = self.products != torch.float32
        with torch.autocast(self.device.type, dtype=self.products, enabled=half):
            features = self(rows[:, :-1])
        return head_loss(
            features.float().flatten(0, 1), self.head, rows[:, 1:].flatten(), self.products
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + c/2) of (B, h, T, c) by their positions' angles (2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotary_tables(model: Model) -> tuple[Float32, Float32]:
    """Return cosine and sine, (context, c) each, of position times frequency, for both halves."""
    half = model.d_model // model.heads // 2
    frequencies = model.rope_theta ** -(np.arange(half, dtype=np.float64) / half)
    angles = np.outer(np.arange(model.context), np.concatenate([frequencies, frequencies]))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def load(model: PathModel, manifest: Manifest, states: Mapping[ModuleId, Float32]) -> None:
    """Copy flat module states, each in its layout, into `model`.

    Raises LocalProtocolError if together they are not exactly the tensors of one path.
    """
    scatter(states, manifest.topology.layouts, dict(model.named_parameters()))


def scatter(
    arrays: Mapping[ModuleId, Float32],
    layouts: Mapping[ModuleId, Sequence[Named]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Copy flat arrays, each in its module's layout, into `tensors`, by name.

    Raises LocalProtocolError if together they are not exactly those tensors.
    """
    left = dict(tensors)
    with torch.no_grad():
        for module, array in arrays.items():
            offset = 0
            for tensor in layouts[module]:
                part = torch.from_numpy(array[offset : offset + tensor.size])
                if tensor.name not in left:
                    raise LocalProtocolError(f"module {module}: {tensor.name} is not in the model")
                left.pop(tensor.name).copy_(part.view(tensor.shape))
                offset += tensor.size
    if left:
        raise LocalProtocolError(f"no module holds {min(left)}")


def store(model: PathModel, manifest: Manifest, module: ModuleId) -> Float32:
    """Return the state of `module`, flat in its layout, from the parameters of `model`."""
    return gather(dict(model.named_parameters()), manifest.topology.layouts[module])


def gather(tensors: Mapping[str, Tensor], layout: Sequence[Named]) -> Float32:
    """Return `tensors` by name as one array, flat in `layout`."""
    flat = [tensors[t.name].detach().cpu().numpy().reshape(-1) for t in layout]
    return np.concatenate(flat) if flat else np.zeros(0, np.float32)
