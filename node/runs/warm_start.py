"""Warm start: a run's seed phase starts from a Hugging Face Llama checkpoint.

It reads a folder that transformers wrote: config.json, and the tensors in one safetensors file, or
in several with an index. It refuses a model that this one cannot represent (a bias, a scaled rotary
embedding, another activation) and names the field; it ignores no such field. Tensors are read one
at a time.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dipaco.node.jobs.meter import OnProgress
from dipaco.node.jobs.values import Progress
from dipaco.node.storage.blobs import BlobStore, Float32
from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleDigest
from dipaco.protocol.run.topology import Tensor

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 64 << 20  # bytes of config or index; an index of 100,000 tensors has 10 MB
DEFAULTS: Final = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
"""LlamaConfig's defaults of numbers that config.json leaves out."""
ONLY: Final = {  # the values that this model can represent; None: the field is left out
    "model_type": ("llama",),
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
}
PRECISIONS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class LlamaCheckpoint:
    """A folder whose config.json describes a model that this one can represent."""

    folder: Path
    model: Mapping[str, Any]
    """Fields of the manifest's `Model`; `context` is the longest that the checkpoint allows."""
    blocks: int
    vocabulary: int
    """Rows of the embedding; a tokenizer may have fewer ids."""
    end_of_text: int | None

    @property
    def tokenizer(self) -> Path:
        """The path of its tokenizer, if it has one."""
        return self.folder / TOKENIZER


def read_checkpoint(folder: Path) -> LlamaCheckpoint:
    """Read a folder's config.json; raises ConfigError, which names the field."""
    path = folder / CONFIG
    config = _json(path)
    rope = config.get("rope_parameters") or {}
    for name, allowed in ONLY.items():
        value = config.get(name)
        if isinstance(value, dict) and value.get("rope_type", value.get("type")) == "default":
            continue
        if value not in allowed:
            raise ConfigError(f"{path}: {name}: {value!r}, this model knows {allowed[0]!r} only")
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ConfigError(f"{path}: rope_parameters: this model knows rope_type 'default' only")
    for where in (rope, config):
        if where.get("partial_rotary_factor", 1.0) not in (1.0, None):
            raise ConfigError(f"{path}: partial_rotary_factor: this model rotates whole heads")
    hidden, heads = _whole(path, config, "hidden_size"), _whole(path, config, "num_attention_heads")
    head_dim = _whole(path, config, "head_dim", hidden // heads)
    if head_dim * heads != hidden:
        raise ConfigError(
            f"{path}: head_dim: {head_dim} times {heads} heads is not hidden_size {hidden}"
        )
    end = config.get("eos_token_id")
    if isinstance(end, list):  # several tokens may end a text: training data gets the first
        end = end[0] if end else None
    if end is not None and type(end) is not int:
        raise ConfigError(f"{path}: eos_token_id: {end!r} is no id")
    return LlamaCheckpoint(
        folder=folder,
        model={
            "d_model": hidden,
            "heads": heads,
            "kv_heads": _whole(path, config, "num_key_value_heads", heads),
            "d_ff": _whole(path, config, "intermediate_size"),
            "context": _whole(path, config, "max_position_embeddings"),
            "rope_theta": _number(path, rope if rope.get("rope_theta") else config, "rope_theta"),
            "norm_eps": _number(path, config, "rms_norm_eps"),
            "tied": _tied(path, config),
        },
        blocks=_whole(path, config, "num_hidden_layers"),
        vocabulary=_whole(path, config, "vocab_size"),
        end_of_text=end,
    )


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
        tensors.check_names(top.path_tensors(0), tied=manifest.model.tied)
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

    def check_names(self, due: tuple[Tensor, ...], *, tied: bool) -> None:
        """Raise ConfigError unless these are exactly the tensors of a path."""
        names = {tensor.name for tensor in due}
        lacking = sorted(names - set(self._files))
        if lacking:
            raise ConfigError(f"{self._folder}: {lacking[0]} is missing")
        tolerated = {"lm_head.weight"} if tied else set()
        extra = sorted(
            name
            for name in set(self._files) - names - tolerated
            if not name.endswith("rotary_emb.inv_freq")  # older files hold it; it is computed
        )
        if extra:
            raise ConfigError(f"{self._folder}: {extra[0]}: this model has no such tensor")

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
        files: dict[str, Any] = {}
        for file in opened.values():
            files |= dict.fromkeys(file.keys(), file)
        yield _Tensors(folder, files)


def _file_names(folder: Path) -> list[str]:
    if (folder / WHOLE).exists() or not (folder / INDEX).exists():
        return [WHOLE]
    parts = _json(folder / INDEX).get("weight_map")
    names = sorted(set(parts.values())) if isinstance(parts, dict) else []
    if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
        raise ConfigError(f"{folder / INDEX}: weight_map: it must name files of this folder")
    return names


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_file(path, limit=MAX_JSON))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return found


def _whole(path: Path, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:  # True is an int to isinstance
        raise ConfigError(f"{path}: {name}: {value!r} is not a positive whole number")
    return value


def _number(path: Path, config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    value = DEFAULTS[name] if value is None else value
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ConfigError(f"{path}: {name}: {value!r} is not a positive number")
    return float(value)


def _tied(path: Path, config: Mapping[str, Any]) -> bool:
    value = config.get("tie_word_embeddings", False)
    if type(value) is not bool:
        raise ConfigError(f"{path}: tie_word_embeddings: {value!r} is neither true nor false")
    return value
