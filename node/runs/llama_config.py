"""Reads the config.json of a Hugging Face Llama: the shape of its model, or a named refusal.

A key that this program ignored could change the function of the model in silence. So every key is
in one of three lists: those that are read, those that must have the one value that this model can
represent, and those that change no logits. Any other key is refused unless it is null.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dipaco.node.storage.files import read_file
from dipaco.protocol.errors import ConfigError

CONFIG: Final = "config.json"
MAX_JSON = 64 << 20  # bytes of config or index; an index of 100,000 tensors has 10 MB
DEFAULTS: Final = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
"""LlamaConfig's defaults of numbers that config.json leaves out."""
READ: Final = frozenset(
    {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    | {"num_key_value_heads", "head_dim", "max_position_embeddings", "vocab_size", "eos_token_id"}
    | {"rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings"}
)
ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    # The values that this model can represent. Null or no value is the first of them, except that
    # model_type must be there.
    "model_type": ("llama",),
    "architectures": (["LlamaForCausalLM"], ["LLaMAForCausalLM"], []),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "use_sliding_window": (False,),
    "rope_interleaved": (False,),
    "rope_traditional": (False,),
    "use_qk_norm": (False,),
    "qk_norm": (False,),
    "embedding_multiplier": (1.0,),
    "residual_multiplier": (1.0,),
    "logits_scaling": (1.0,),
    "logit_scale": (1.0,),
    "hidden_dropout": (0.0,),
    "resid_pdrop": (0.0,),
    "embd_pdrop": (0.0,),
}
ROPE_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    # As `ONLY`, in the tables rope_parameters and rope_scaling.
    "rope_type": ("default",),
    "type": ("default",),
    "partial_rotary_factor": (1.0,),
    "factor": (1.0,),
    "attention_factor": (1.0,),
}
HARMLESS: Final = frozenset(
    # Dropout is for training, which follows the manifest; pretraining_tp cuts products in parts.
    {"attention_dropout", "pretraining_tp", "initializer_range", "use_cache", "is_decoder"}
    | {"dtype", "torch_dtype", "use_bfloat16", "torchscript", "chunk_size_feed_forward"}
    | {"bos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"}
    | {"original_max_position_embeddings", "max_sequence_length", "tokenizer_class", "prefix"}
    | {"_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "model_name"}
    | {"_attn_implementation", "attn_implementation", "_attn_implementation_autoset"}
    | {"_flash_attn_2_enabled", "unsloth_fixed", "unsloth_version", "transformers.js_config"}
    | {"id2label", "label2id", "problem_type", "finetuning_task", "task_specific_params"}
    | {"return_dict", "output_attentions", "output_hidden_states", "output_scores"}
    | {"return_dict_in_generate", "tf_legacy_loss", "max_length", "min_length", "do_sample"}
    | {"early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature"}
    | {"top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "bad_words_ids"}
    | {"no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences"}
    | {"forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "suppress_tokens"}
    | {"begin_suppress_tokens", "exponential_decay_length_penalty"}
)
"""Keys that change no logits: the file's origin, generation, labels, numerics of an old library."""
ROPE_HARMLESS: Final = frozenset({"rope_theta", "original_max_position_embeddings"})


@dataclass(frozen=True, kw_only=True)
class LlamaShape:
    """A Llama that this program can represent."""

    model: Mapping[str, Any]
    """Fields of the manifest's `Model`; `context` is the longest that the checkpoint allows."""
    blocks: int
    vocabulary: int
    """Rows of the embedding; a tokenizer may have fewer ids."""
    end_of_text: int | None


def read_shape(folder: Path) -> LlamaShape:
    """Read a folder's config.json; raises ConfigError, which names the field."""
    path = folder / CONFIG
    config = read_json(path)
    if config.get("model_type") is None:
        raise ConfigError(f"{path}: model_type: is missing; this model knows 'llama' only")
    _check_keys(path, config, ONLY, READ | HARMLESS, within="")
    hidden, heads = _whole(path, config, "hidden_size"), _whole(path, config, "num_attention_heads")
    head_dim = _whole(path, config, "head_dim", hidden // heads)
    if head_dim * heads != hidden:
        raise ConfigError(
            f"{path}: head_dim: {head_dim} times {heads} heads is not hidden_size {hidden}"
        )
    return LlamaShape(
        model={
            "d_model": hidden,
            "heads": heads,
            "kv_heads": _whole(path, config, "num_key_value_heads", heads),
            "d_ff": _whole(path, config, "intermediate_size"),
            "context": _whole(path, config, "max_position_embeddings"),
            "rope_theta": _rope_theta(path, config),
            "norm_eps": _number(path, config, "rms_norm_eps"),
            "tied": _tied(path, config),
        },
        blocks=_whole(path, config, "num_hidden_layers"),
        vocabulary=_whole(path, config, "vocab_size"),
        end_of_text=_end_of_text(path, config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises ConfigError."""
    try:
        found = json.loads(read_file(path, limit=MAX_JSON))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return found


def _check_keys(
    path: Path,
    table: Mapping[str, Any],
    only: Mapping[str, tuple[Any, ...]],
    known: frozenset[str],
    *,
    within: str,
) -> None:
    """Refuse a key that changes the function of the model, or may."""
    for name, value in table.items():
        if value is None or name in known or _is_full_attention(name, value):
            continue
        if name not in only:
            key = name if name.isidentifier() else _shown(name)
            raise ConfigError(
                f"{path}: {within}{key}: {_shown(value)}, this program does not know if "
                "that changes the model: remove the key if it does not"
            )
        if value not in only[name]:
            raise ConfigError(
                f"{path}: {within}{name}: {_shown(value)}, this model knows {only[name][0]!r} only"
            )


def _is_full_attention(name: str, value: object) -> bool:
    return (
        name == "layer_types"
        and isinstance(value, list)
        and all(each == "full_attention" for each in value)
    )


def _rope_theta(path: Path, config: Mapping[str, Any]) -> float:
    """Return the base of the rotary embedding.

    Older files have it at the top, newer ones in `rope_parameters`, some between them in
    `rope_scaling`. Libraries differ in the place that counts, so all that is given must agree.
    """
    given = {}
    for name in ("rope_parameters", "rope_scaling"):
        table = config.get(name)
        if table is None:
            continue
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name}: {_shown(table)} is not a table")
        _check_keys(path, table, ROPE_ONLY, ROPE_HARMLESS, within=f"{name}.")
        if table.get("rope_theta") is not None:
            given[f"{name}.rope_theta"] = _number(path, table, "rope_theta")
    if config.get("rope_theta") is not None:
        given["rope_theta"] = _number(path, config, "rope_theta")
    if len(set(given.values())) > 1:
        both = ", ".join(f"{name} {value}" for name, value in given.items())
        raise ConfigError(f"{path}: rope_theta: it has more than one value: {both}")
    return next(iter(given.values()), DEFAULTS["rope_theta"])


def _end_of_text(path: Path, config: Mapping[str, Any]) -> int | None:
    end = config.get("eos_token_id")
    if isinstance(end, list):  # several tokens may end a text: training data gets the first
        end = end[0] if end else None
    if end is not None and type(end) is not int:
        raise ConfigError(f"{path}: eos_token_id: {_shown(end)} is no id")
    return end


def _shown(value: object) -> str:
    """Return a foreign value as a short text on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole(path: Path, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:  # True is an int to isinstance
        raise ConfigError(f"{path}: {name}: {_shown(value)} is not a positive whole number")
    return value


def _number(path: Path, config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    value = DEFAULTS[name] if value is None else value
    if type(value) not in (int, float) or not 0 < value < 1 << 1000:
        raise ConfigError(f"{path}: {name}: {_shown(value)} is not a positive number")
    return float(value)


def _tied(path: Path, config: Mapping[str, Any]) -> bool:
    value = config.get("tie_word_embeddings")
    if value is not None and type(value) is not bool:
        raise ConfigError(f"{path}: tie_word_embeddings: {_shown(value)} is neither true nor false")
    return bool(value)
