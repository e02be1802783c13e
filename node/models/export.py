"""Export of one path as a folder that Hugging Face's transformers loads: `LlamaForCausalLM`.

The tensor names of a path are those of Llama already, so nothing is renamed or rearranged. The
tokenizer's file is the run's. If it would add special tokens, cut texts, or make a text that spells
an added token into it, which no run does, a copy without these settings is written.
"""

import json
from pathlib import Path
from typing import Any

from dipaco.node.data.tokenizers import library_errors, parse_tokenizer, spell_out
from dipaco.node.jobs.meter import OnProgress
from dipaco.node.jobs.values import Progress
from dipaco.node.models.module_export import named_tensors, save_tensors
from dipaco.node.runs.checkpoint import Checkpoint, Float32
from dipaco.node.storage.files import new_folder, write_file
from dipaco.protocol.routing.spec import ROUND_ROBIN, spec_digest
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.topology import experts_of
from dipaco.protocol.wire.text import one_line

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---
# {name}, path ({experts})

One path of a DiPaCo run (Distributed Path Composition, arXiv 2403.10616), trained with dipaco-node.

| | |
|---|---|
| run | `{name}`, id `{run}` |
| owner | `{owner}` |
| router spec | `{spec}` |
| path | {path} of {paths}: experts ({experts}) |
| rounds | version {version} of {rounds} |
| modules | {modules} |
| trained on | {tokens} tokens of this path's shard of: {source} |
| held-out text | {context} tokens at most, positions {first_scored} and up |

## Use
```python
from transformers import AutoTokenizer, LlamaForCausalLM

model = LlamaForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```
{routing}

Texts of training began without a special token and ended with `{end}`; text that
spells a special token is ordinary text to this tokenizer. Contexts had {context} tokens.

## Licence
The run names no licence for these weights: ask its owner, and mind the terms of the data above.
"""
ROUTED = """
This is one path of {paths}, trained on the texts that the run's router sends to it: it knows the
others' topics less well. The router looks at the first {prefix} tokens of a text.
`dipaco-node generate` and `eval` route by themselves; other programs can route by `router.spec` of
`dipaco-node ckpt export --format safetensors`."""
UNROUTED = """
This is one path of {paths}; the run's router does not read the text, so every path is as good."""


def export_path(
    checkpoint: Checkpoint, path: int, tokenizer: bytes, out: Path, on_progress: OnProgress
) -> None:
    """Write one path to the new folder `out`, or nothing.

    tokenizer   the bytes of the run's tokenizer file.
    Raises ConfigError if `out` exists, BlobMissing if a state is not here, DiskFull.
    """
    tensors: dict[str, Float32] = {}
    states = checkpoint.paths[path]
    for done, state in enumerate(states):
        on_progress(Progress(stage="read", done=done, total=len(states), unit="modules"))
        flat = checkpoint.read(state)
        tensors |= named_tensors(checkpoint.manifest, state.module, flat)
    texts = {
        "config.json": as_json(llama_config(checkpoint.manifest)),
        "generation_config.json": as_json(_generation_config(checkpoint.manifest)),
        "tokenizer_config.json": as_json(_tokenizer_config(checkpoint.manifest, tokenizer)),
        "README.md": model_card(checkpoint, path, tokenizer).encode("utf-8"),
        "tokenizer.json": plain_tokenizer(tokenizer, checkpoint.manifest.tokenizer.end_of_text),
    }
    metadata = {
        "format": "pt",
        "dipaco.run": checkpoint.run.id.hex(),
        "dipaco.path": str(path),
        "dipaco.version": str(checkpoint.version(path)),
    }
    with new_folder(out) as folder:
        for name, text in texts.items():
            write_file(folder / name, text)
        save_tensors(folder / "model.safetensors", tensors, metadata)
    on_progress(Progress(stage="write", done=len(states), total=len(states), unit="modules"))


def as_json(value: dict[str, Any]) -> bytes:
    """Return a value as a readable JSON file."""
    return json.dumps(value, indent=2).encode("utf-8") + b"\n"


def llama_config(manifest: Manifest) -> dict[str, Any]:
    """Return `config.json`, which `LlamaConfig` reads.

    The rotary base and the type are given twice: transformers 5 reads `rope_parameters` and
    `dtype`, older versions read `rope_theta` and `torch_dtype`.
    """
    model = manifest.model
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": manifest.tokenizer.vocabulary,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": manifest.grid.blocks,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.d_model // model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": manifest.tokenizer.end_of_text,
        "eos_token_id": manifest.tokenizer.end_of_text,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
        "use_cache": True,
    }


def _generation_config(manifest: Manifest) -> dict[str, Any]:
    end = manifest.tokenizer.end_of_text
    return {"bos_token_id": end, "eos_token_id": end, "do_sample": True, "temperature": 0.8}


def _tokenizer_config(manifest: Manifest, tokenizer: bytes) -> dict[str, Any]:
    end = _end_of_text(manifest, tokenizer)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "model_max_length": manifest.model.context,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # as in training: text that spells one is ordinary text
    }


def _end_of_text(manifest: Manifest, tokenizer: bytes) -> str:
    return parse_tokenizer(tokenizer).id_to_token(manifest.tokenizer.end_of_text) or ""


def plain_tokenizer(data: bytes, end_of_text: int) -> bytes:
    """Return a tokenizer file with which a program gets the ids of training: `data` if it can.

    It adds, cuts and pads nothing, and every added token is special: `split_special_tokens` in
    `tokenizer_config.json` then makes text that spells one ordinary text; the end of text is
    ordinary text to the model too.
    """
    table = json.loads(data)
    found = parse_tokenizer(data)
    with library_errors("no ids for an empty text"):
        ids = found.encode("", add_special_tokens=True).ids
    adds = bool(ids) or found.num_special_tokens_to_add(is_pair=False) > 0
    added = table.get("added_tokens") or []
    known = any(not token.get("special") for token in added)
    cuts = spell_out(found, end_of_text)
    if not (adds or known or cuts or table.get("truncation") or table.get("padding")):
        return data
    table |= {"truncation": None, "padding": None}
    table["added_tokens"] = [{**token, "special": True} for token in added]
    if adds:
        table["post_processor"] = None
    if cuts:
        table["pre_tokenizer"] = json.loads(found.to_str())["pre_tokenizer"]
    return json.dumps(table, ensure_ascii=False).encode("utf-8")


def model_card(checkpoint: Checkpoint, path: int, tokenizer: bytes) -> str:
    """Return the README of an export."""
    manifest, spec = checkpoint.manifest, checkpoint.spec
    routing = UNROUTED if spec.kind == ROUND_ROBIN else ROUTED
    source = manifest.source
    origin = [source.kind, source.dataset, source.config, source.split, source.revision]
    facts = {
        "paths": manifest.paths,
        "prefix": spec.prefix,
        "first_scored": manifest.routing.first_scored,
    }
    return CARD.format(
        **facts,
        name=manifest.name,
        run=checkpoint.run.id.hex(),
        owner=manifest.owner,
        spec=spec_digest(spec).hex(),
        path=path,
        experts=",".join(map(str, experts_of(manifest.grid, path))),
        version=checkpoint.version(path),
        rounds=manifest.training.rounds,
        modules=", ".join(f"{each.module} v{each.version}" for each in checkpoint.paths[path]),
        tokens=f"{spec.tokens[path]:,}",
        source=one_line(" ".join(filter(None, origin))),
        context=manifest.model.context,
        routing=routing.format(**facts).lstrip("\n"),
        end=_end_of_text(manifest, tokenizer),
    )
