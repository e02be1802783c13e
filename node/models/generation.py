"""Generation: one token after the other from the path that the text is routed to.

Keys and values of the tokens read are kept, so that a new token costs one position. They are
computed again when the path changes, and when the context is full: then its later half is read
again as if the text began there, since no position beyond the context was trained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dipaco.node.training.model import Attention, Block, PathModel, rotate
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.spec import ROUND_ROBIN


class Reader:
    """Reads a text with one path's model, and keeps the keys and values of the tokens read.

    Shapes: T new tokens after n old ones, h heads, k key and value heads, c per head.
    """

    def __init__(self, model: PathModel) -> None:
        self._model = model
        self._layers = [cast(Block, layer) for layer in model.model.layers]
        self.length = 0
        """Tokens read."""
        attention = self._layers[0].self_attn
        shape = (1, attention.kv_heads, self.context, attention.head_dim)
        self._keys, self._values = (
            [torch.empty(shape, device=model.device) for _ in self._layers] for _ in range(2)
        )

    @property
    def context(self) -> int:
        """The largest number of tokens that it can read."""
        return len(self._model.cos)

    def read(self, tokens: Sequence[int]) -> Tensor:
        """Read at least one more token within the context; returns the next one's logits, (V,)."""
        end = self.length + len(tokens)
        with torch.inference_mode():
            ids = torch.tensor([list(tokens)], device=self._model.device)
            x = functional.embedding(ids, self._model.model.embed_tokens.weight)
            for place, layer in enumerate(self._layers):
                x = x + self._attend(place, layer.self_attn, layer.input_layernorm(x), end)
                x = x + layer.mlp(layer.post_attention_layernorm(x))
            last: Tensor = self._model.model.norm(x[0, -1]) @ self._model.head.T
        self.length = end
        return last

    def _attend(self, place: int, attention: Attention, x: Tensor, end: int) -> Tensor:
        """Return the attention of (1, T, d) over all tokens read so far, as `Attention.forward`."""
        count = x.shape[1]
        cos, sin = self._model.cos[self.length : end], self._model.sin[self.length : end]

        def heads(projected: Tensor, number: int) -> Tensor:
            return projected.view(1, count, number, attention.head_dim).transpose(1, 2)

        keys, values = self._keys[place], self._values[place]
        k, v = attention.k_proj(x), attention.v_proj(x)
        keys[:, :, self.length : end] = rotate(heads(k, attention.kv_heads), cos, sin)
        values[:, :, self.length : end] = heads(v, attention.kv_heads)
        positions = torch.arange(end, device=x.device)
        mixed = functional.scaled_dot_product_attention(
            rotate(heads(attention.q_proj(x), attention.heads), cos, sin),
            keys[:, :, :end],
            values[:, :, :end],
            attn_mask=positions <= positions[self.length :, None],
            enable_gqa=attention.kv_heads != attention.heads,
        )
        joined: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(1, count, -1))
        return joined


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The rule that chooses the next token."""

    temperature: float
    """0: always the likeliest token."""
    top_k: int
    """Choose from so many likeliest tokens; 0: from all."""
    seed: int

    def chooser(self) -> Callable[[Tensor], int]:
        """Return a function from logits (V,) to a token; on the CPU it depends on `seed` alone."""
        generator = torch.Generator().manual_seed(self.seed)

        def choose(logits: Tensor) -> int:
            if not self.temperature:
                return int(logits.argmax())
            scaled = logits.double().cpu() / self.temperature
            if 0 < self.top_k < len(scaled):
                scaled[scaled < scaled.topk(self.top_k).values[-1]] = -torch.inf
            return int(torch.multinomial(scaled.softmax(0), 1, generator=generator))

        return choose


@dataclass(frozen=True)
class Step:
    """One generated token."""

    token: int
    path: int
    """The path that generated it."""
    slid: bool
    """Whether the context was full, so that its first half was dropped before."""


End = Literal["end of text", "max tokens"]


class Generation:
    """One text as it grows; iterate over it once."""

    def __init__(
        self,
        prompt: Sequence[int],
        first_path: int,
        models: Callable[[int], PathModel],
        *,
        router: Router | None,
        reroute: int | None,
        sampling: Sampling,
        max_tokens: int,
        end_of_text: int,
    ) -> None:
        """Prepare the text; iteration generates it.

        prompt       ids; an empty one begins after an end of text.
        first_path   the path that the prompt's prefix is routed to.
        models       returns a path's model, loaded; the model returned before is then invalid.
        reroute      W: the path is chosen again every W tokens, as in evaluation (method.md 2.5).
        """
        self.text = list(prompt) or [end_of_text]
        self.end: End = "max tokens"
        """The reason why the text ended."""
        self._path, self._models = first_path, models
        # A round_robin router does not read the text.
        fixed = router is None or router.spec.kind == ROUND_ROBIN
        self._router = None if fixed else router
        self._reroute, self._choose = reroute, sampling.chooser()
        self.max_tokens, self._end_of_text = max_tokens, end_of_text
        self._start = 0  # of the tokens in the context
        self._reader: Reader | None = None

    def __iter__(self) -> Iterator[Step]:
        """Yield one step per token; the end of text ends the iteration and is not yielded."""
        for _ in range(self.max_tokens):
            path = self._path_now()
            if path != self._path:
                self._path, self._reader = path, None
            slid = False
            reader = self._reader
            if reader is None or reader.length == reader.context:
                reader = self._reader = Reader(self._models(path))
                slid = self._drop_half(reader.context)
            unread = self.text[self._start + reader.length :]
            token = self._choose(reader.read(unread))
            if token == self._end_of_text:
                self.end = "end of text"
                return
            self.text.append(token)
            yield Step(token, path, slid)

    def _path_now(self) -> int:
        """Return the path of the next token's chunk."""
        if self._router is None or self._reroute is None:
            return self._path
        prefix = self._router.spec.prefix
        chunk = (len(self.text) - prefix) // self._reroute
        if chunk < 1:
            return self._path
        first = prefix + chunk * self._reroute
        if self._reader is not None and first != len(self.text):
            return self._path  # inside a chunk, which is routed already
        seen = np.array([self.text[first - prefix : first]])
        return int(self._router.route(seen, np.zeros(1, dtype=np.int64))[0, 0])

    def _drop_half(self, context: int) -> bool:
        """Drop all but the later half of a context, if the text is longer; returns whether it was.

        The new tokens then fill the other half.
        """
        if len(self.text) - self._start <= context:
            return False
        self._start = len(self.text) - context // 2
        return True
