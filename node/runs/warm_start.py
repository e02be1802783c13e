"""Warm start: a run's seed phase starts from a Hugging Face Llama checkpoint.

It reads a folder that transformers wrote: config.json (`llama_config.py`), and the tensors in one
safetensors file, or in several with an index. Tensors are read one at a time. Every tensor must
have a place in this model; the two kinds that a file may hold besides, a tied head and rotary
frequencies, must be what this model computes.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dipaco.node.jobs.meter import OnProgress
from dipaco.node.jobs.values import Progress
from dipaco.node.runs.llama_config import LlamaShape, read_json, read_shape
from dipaco.node.storage.blobs import BlobStore, Float32
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.model_shape import Model
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.topology import Tensor

TOKENIZER, ADAPTER = "tokenizer.json", "adapter_config.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PRECISIONS: Final = ("F32", "F16", "BF16")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FREQUENCIES: Final = "rotary_emb.inv_freq"  # the end of a name in older files
ROUNDED, TINY = 1e-2, 1e-6  # relative and absolute error of frequencies in 16 bits


@dataclass(frozen=True, kw_only=True)
class LlamaCheckpoint(LlamaShape):
    """A folder whose config.json describes a model that this one can represent."""

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """The path of its tokenizer, if it has one."""
        return self.folder / TOKENIZER


def read_checkpoint(folder: Path) -> LlamaCheckpoint:
    """Read a folder's config.json; raises ConfigError, which names the field."""
    shape = read_shape(folder)
    if (folder / ADAPTER).exists():
        raise ConfigError(f"{folder / ADAPTER}: merge the adapter into the checkpoint's tensors")
    return LlamaCheckpoint(**vars(shape), folder=folder)


def keep_start(
    checkpoint: LlamaCheckpoint, manifest: Manifest, blobs: BlobStore, on_progress: OnProgress
) -> tuple[ModuleDigest, ...]:
    """Cut a checkpoint into the modules of path 0 and write their states, float32, to `blobs`.

    Raises ConfigError for a tensor that is missing, unknown, of another shape, or not finite.
    """
    top = manifest.topology
    modules = top.path_modules[0]
    kept = []
    with _tensors(checkpoint.folder) as tensors:
        tensors.check(top.path_tensors(0), manifest.model)
        for done, module in enumerate(modules):
            on_progress(Progress(stage="warm start", done=done, total=len(modules)))
            state = np.empty(top.elements(module), dtype=np.float32)
            offset = 0
            for tensor in top.layouts[module]:
                state[offset : offset + tensor.size] = tensors.read(tensor)
                offset += tensor.size
            kept.append(ModuleDigest(module=module, digest=blobs.write_array(state)))
    on_progress(Progress(stage="warm start", done=len(modules), total=len(modules)))
    return tuple(kept)


class _Tensors:
    """The tensors of a checkpoint's open files."""

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        """files: by the name of every tensor, the open file that has it."""
        self._folder, self._files = folder, files

    def check(self, due: tuple[Tensor, ...], model: Model) -> None:
        """Raise ConfigError unless these are a path's tensors, and others that follow from them."""
        known = {tensor.name: tensor for tensor in due}
        lacking = sorted(set(known) - set(self._files))
        if lacking:
            raise ConfigError(f"{self._folder}: {lacking[0]} is missing")
        for name in sorted(set(self._files) - set(known)):
            if name == HEAD and model.tied:
                self._check_head(known[EMBEDDING])
            elif name.endswith(FREQUENCIES):
                self._check_frequencies(name, model)
            else:
                raise ConfigError(f"{self._folder}: {name}: this model has no such tensor")

    def _check_head(self, embedding: Tensor) -> None:
        head = self.read(Tensor(HEAD, embedding.shape))
        if not np.array_equal(head, self.read(embedding)):
            raise ConfigError(
                f"{self._folder}: {HEAD} is not {EMBEDDING}, and config.json says that they are "
                "one: set tie_word_embeddings to false there"
            )

    def _check_frequencies(self, name: str, model: Model) -> None:
        pairs = model.d_model // model.heads // 2
        found = self.read(Tensor(name, (pairs,)))
        due = model.rope_theta ** (-np.arange(pairs) / pairs)
        if not np.allclose(found, due, rtol=ROUNDED, atol=TINY):
            raise ConfigError(
                f"{self._folder}: {name}: it is not what config.json's rope_theta "
                f"{model.rope_theta} gives"
            )

    def read(self, tensor: Tensor) -> Float32:
        """Return one tensor, flat, as float32."""
        file = self._files[tensor.name]
        found = file.get_slice(tensor.name)
        shape, kind = tuple(found.get_shape()), found.get_dtype()
        if shape != tensor.shape:
            raise ConfigError(
                f"{self._folder}: {tensor.name} has shape {shape}, not {tensor.shape}"
            )
        if kind not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ConfigError(f"{self._folder}: {tensor.name} has type {kind}, none of {known}")
        flat: Float32 = file.get_tensor(tensor.name).float().numpy().reshape(-1)
        if not np.isfinite(flat).all():
            raise ConfigError(f"{self._folder}: {tensor.name} holds NaN or infinity")
        return flat


@contextmanager
def _tensors(folder: Path) -> Iterator[_Tensors]:
    """Open the files of a checkpoint."""
    from safetensors import SafetensorError, safe_open  # torch knows bfloat16, NumPy does not

    with ExitStack() as stack:
        opened = {}
        for name in _file_names(folder):
            path = folder / name
            try:
                opened[name] = stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise ConfigError(f"{path}: {error}") from error
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
        yield _Tensors(folder, _by_name(folder, opened))


def _by_name(folder: Path, opened: Mapping[str, Any]) -> dict[str, Any]:
    """Return the file of each tensor; raises ConfigError if two files have the same."""
    found: dict[str, str] = {}
    for file, content in opened.items():
        for name in content.keys():  # noqa: SIM118  the file is no mapping
            if name in found:
                raise ConfigError(f"{folder}: {name} is in {found[name]} and in {file}")
            found[name] = file
    return {name: opened[file] for name, file in found.items()}


def _file_names(folder: Path) -> list[str]:
    if (folder / WHOLE).exists() or not (folder / INDEX).exists():
        return [WHOLE]
    parts = read_json(folder / INDEX).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) else []
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise ConfigError(f"{folder / INDEX}: weight_map: it must name files of this folder")
    return names
