"""Warm starts are held against the real transformers: what it saves is what a run starts from."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dipaco.cli.commands.reference import train_reference
from dipaco.cli.testnet.local_run import local_run
from dipaco.node.jobs.meter import silent
from dipaco.node.models.export import export_path
from dipaco.node.models.path_models import PathModels
from dipaco.node.runs.checkpoint import Checkpoint, checkpoint_in
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.files import kept_runs
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.errors import ConfigError
from tests.node.training.checkpointed import tokenizer
from tests.values import peer

RUN = """
name = "warm"
seed = 3
[source]
kind = "synthetic"
documents = 120
[model]
checkpoint = "llama"
context = 48
[grid]
levels = [{ experts = 2, blocks = 1 }, { experts = 1, blocks = 1 }]
[routing]
sample = 60
dimension = 16
validation_bp = 1500
[training]
seed_steps = 0
rounds = 1
inner_steps = 1
batch = 2
[training.inner]
[training.outer]
"""
SHAPE = {
    "vocab_size": 4100,  # the tokenizer has 4,096: padded, as many checkpoints are
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def transformers() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    import transformers

    yield transformers
    patch.undo()


def saved(transformers: ModuleType, folder: Path, shard: str = "5GB", **changes: object) -> Any:
    """Save a model of chance beside the run's TOML file; returns it."""
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SHAPE | changes)))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder / "llama", max_shard_size=shard)
    (folder / "llama" / "tokenizer.json").write_bytes(tokenizer())
    (folder / "warm.toml").write_text(RUN)
    return model.eval()


def trained(folder: Path) -> Checkpoint:
    """Train the run in one process; returns its seed model."""
    train_reference(
        str(folder / "warm.toml"), seed=0, rounds=None, home=folder / "home", device="cpu"
    )
    (run,) = kept_runs(folder / "home")
    return checkpoint_in(folder / "home", run, None, version=0)


def logits(checkpoint: Checkpoint, path: int, ids: torch.Tensor) -> torch.Tensor:
    model = PathModels(checkpoint, device="cpu", threads=1)(path)
    with torch.inference_mode():
        found: torch.Tensor = model(ids) @ model.head.T
    return found


@pytest.mark.parametrize("changes", [{"shard": "20KB"}, {"tie_word_embeddings": True}])
def test_a_run_starts_from_the_checkpoint_and_gives_it_back(
    transformers: ModuleType, tmp_path: Path, changes: dict[str, Any]
) -> None:
    theirs = saved(transformers, tmp_path, **changes)
    sharded = (tmp_path / "llama" / "model.safetensors.index.json").exists()
    assert sharded == ("shard" in changes)
    seed = trained(tmp_path)
    ids = torch.randint(0, 4100, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        due = theirs(ids).logits
    for path in (0, 1):
        torch.testing.assert_close(logits(seed, path, ids), due, rtol=0, atol=1e-4)
    out = tmp_path / "again" / "llama"
    export_path(seed, 0, tokenizer(), out, silent)
    again = transformers.LlamaForCausalLM.from_pretrained(out, local_files_only=True)
    with torch.inference_mode():
        torch.testing.assert_close(again(ids).logits, due, rtol=0, atol=1e-4)
    (tmp_path / "again" / "warm.toml").write_text(RUN)
    store = BlobStore(tmp_path / "store")
    next_run = local_run(tmp_path / "again" / "warm.toml", seed=0, rounds=None, blobs=store)
    assert next_run.run.manifest == seed.manifest, "the same states, by digest"
    assert all(store.has(each.digest) for each in seed.manifest.start)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_without_loss(
    transformers: ModuleType, tmp_path: Path, precision: torch.dtype
) -> None:
    saved(transformers, tmp_path)
    path = tmp_path / "llama" / "model.safetensors"
    halved = {name: each.to(precision) for name, each in load_file(path).items()}
    save_file(halved, path, {"format": "pt"})
    store = BlobStore(tmp_path / "store")
    value = create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store).manifest
    stem = next(each for each in value.start if each.module == "stem")
    state = store.read_array(stem.digest, 2 * 4100 * 16 + 16)
    embedding = torch.from_numpy(state[: 4100 * 16]).view(4100, 16)
    assert torch.equal(embedding, halved["model.embed_tokens.weight"].float())


def changed(name: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "llama" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def retold(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "warm.toml").write_text(RUN.replace(old, new))

    return change


def tensor(name: str, value: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "llama" / "model.safetensors"
        tensors = load_file(path)
        tensors.pop(name, None)
        save_file(tensors | ({} if value is None else {name: value}), path)

    return change


@pytest.fixture(scope="module")
def original(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    saved(transformers, folder)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("model_type", "mistral"), "model_type: 'mistral'"),
        (changed("hidden_act", "gelu"), "hidden_act: 'gelu'"),
        (changed("attention_bias", True), "attention_bias: True"),
        (changed("mlp_bias", True), "mlp_bias: True"),
        (changed("rope_scaling", {"type": "linear", "factor": 2}), "rope_scaling"),
        (changed("rope_parameters", {"rope_type": "llama3"}), "rope_parameters"),
        (changed("partial_rotary_factor", 0.5), "partial_rotary_factor"),
        (changed("head_dim", 8), "head_dim: 8 times 4 heads"),
        (changed("hidden_size", None), "hidden_size: None"),
        (changed("num_hidden_layers", 3), "grid.levels: 2 blocks, the checkpoint has 3"),
        (changed("vocab_size", 4000), "tokenizer.file: 4096 ids"),
        (changed("eos_token_id", 9999), "no token of id 9999"),
        (changed("eos_token_id", "</s>"), "eos_token_id: '</s>'"),
        (changed("eos_token_id", True), "eos_token_id: True"),
        (changed("rope_parameters", {"rope_theta": "x"}), "rope_theta: 'x'"),
        (changed("rope_parameters", {"rope_theta": -1.0}), "rope_theta: -1.0"),
        (changed("rms_norm_eps", "x"), "rms_norm_eps: 'x'"),
        (changed("num_key_value_heads", "2"), "num_key_value_heads: '2'"),
        (changed("tie_word_embeddings", "no"), "tie_word_embeddings: 'no'"),
        (changed("head_dim", {}), "head_dim: {}"),
        (
            changed("intermediate_size", 32),
            r"gate_proj.weight has shape \(24, 16\), not \(32, 16\)",
        ),
        (retold("context = 48", "heads = 2"), "model.heads: 2, the checkpoint has 4"),
        (retold('"llama"', '"nowhere"'), "nowhere/config.json"),
        (tensor("model.norm.weight", None), "model.norm.weight is missing"),
        (tensor("model.norm.weight", torch.full((16,), torch.nan)), "holds NaN"),
        (tensor("model.norm.weight", torch.ones(16, dtype=torch.int64)), "has type I64"),
        (tensor("model.norm.bias", torch.ones(16)), "model.norm.bias: this model has no such"),
    ],
)
def test_what_this_model_cannot_be_is_refused_by_its_name(
    original: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    (tmp_path / "llama").mkdir()
    for path in (original / "llama").iterdir():
        (tmp_path / "llama" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "warm.toml").write_text(RUN)
    change(tmp_path)
    store = BlobStore(tmp_path / "store")
    with pytest.raises(ConfigError, match=words):
        create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store)
