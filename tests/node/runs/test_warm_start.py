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
from dipaco.node.runs.llama_config import HARMLESS, ONLY, READ
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


INV_FREQ = "model.layers.1.self_attn.rotary_emb.inv_freq"


def rope(
    parameters: object = None, scaling: object = None, top: float | None = None
) -> Callable[[Path], None]:
    """Change all that a configuration says of the rotary embedding."""
    tables = {"rope_parameters": parameters, "rope_scaling": scaling, "rope_theta": top}

    def change(folder: Path) -> None:
        path = folder / "llama" / "config.json"
        others = {k: v for k, v in json.loads(path.read_text()).items() if k not in tables}
        given = {name: value for name, value in tables.items() if value is not None}
        path.write_text(json.dumps(others | given))

    return change


def adapted(folder: Path) -> None:
    (folder / "llama" / "adapter_config.json").write_text("{}")


def in_two_files(folder: Path) -> None:
    whole = folder / "llama" / "model.safetensors"
    names = list(load_file(whole))
    save_file({"model.norm.weight": torch.ones(16)}, folder / "llama" / "b.safetensors")
    whole.rename(folder / "llama" / "a.safetensors")
    files = dict.fromkeys(names, "a.safetensors") | {"model.norm.weight": "b.safetensors"}
    index = folder / "llama" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))


def nested_deeply(folder: Path) -> None:
    (folder / "llama" / "config.json").write_text("[" * 100_000)


@pytest.fixture(scope="module")
def original(transformers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    saved(transformers, folder)
    return folder


def copied(original: Path, folder: Path) -> BlobStore:
    """Copy the checkpoint and the run's TOML file; returns a store."""
    (folder / "llama").mkdir()
    for path in (original / "llama").iterdir():
        (folder / "llama" / path.name).write_bytes(path.read_bytes())
    (folder / "warm.toml").write_text(RUN)
    return BlobStore(folder / "store")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed("model_type", "mistral"), "model_type: 'mistral'"),
        (changed("hidden_act", "gelu"), "hidden_act: 'gelu'"),
        (changed("attention_bias", True), "attention_bias: True"),
        (changed("mlp_bias", True), "mlp_bias: True"),
        (changed("rope_scaling", {"type": "linear", "factor": 2}), "rope_scaling"),
        (rope(scaling={"rope_type": "linear", "factor": 2}), "rope_scaling.rope_type: 'linear'"),
        (rope(scaling={"rope_type": "default", "factor": 2}), "rope_scaling.factor: 2"),
        (rope(scaling=[2.0]), r"rope_scaling: \[2.0\] is not a table"),
        (rope({"rope_type": "llama3"}), "rope_parameters.rope_type: 'llama3'"),
        (rope({"type": "linear", "factor": 4.0, "rope_theta": 1e4}), "parameters.type: 'linear'"),
        (rope({"rope_type": "default", "type": "yarn"}), "rope_parameters.type: 'yarn'"),
        (rope({"rope_type": "default", "mrope_section": [2]}), "rope_parameters.mrope_section"),
        (rope({"full_attention": {"rope_type": "default"}}), "rope_parameters.full_attention"),
        (rope({"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor: 0.5"),
        (rope({"rope_theta": 5e5}, {"rope_theta": 1e4}), "rope_theta: it has more than one value"),
        (rope({"rope_theta": 5e5}, top=1e4), "rope_parameters.rope_theta 500000.0, rope_theta 100"),
        (rope(scaling={"rope_theta": 5e5}, top=1e4), "rope_scaling.rope_theta 500000.0, rope_th"),
        (changed("partial_rotary_factor", 0.5), "partial_rotary_factor: 0.5"),
        (changed("architectures", ["LlamaForSequenceClassification"]), "architectures: "),
        (changed("model_type", None), "model_type: is missing"),
        (changed("auto_map", {"AutoModelForCausalLM": "mine.Llama"}), "auto_map: "),
        (changed("quantization_config", {"bits": 4}), r"quantization_config: \{'bits': 4\}"),
        (changed("sliding_window", 32), "sliding_window: 32"),
        (changed("layer_types", ["sliding_attention"] * 2), "layer_types: "),
        (changed("attention_multiplier", 0.1), "attention_multiplier: 0.1"),
        (changed("logits_scaling", 8.0), "logits_scaling: 8.0"),
        (changed("final_logit_softcapping", 30.0), "final_logit_softcapping: 30.0"),
        (changed("is_causal", False), "is_causal: False"),
        (changed("no_rope_layers", [1, 0]), r"no_rope_layers: \[1, 0\], .* remove the key"),
        (changed("two\nlines", "x" * 200), r"two.nlines.: .x{76}\.\.\."),
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
        (tensor("model.layers.2.mlp.up_proj.weight", torch.ones(1)), "model.layers.2.mlp.up_proj"),
        (tensor(INV_FREQ, torch.tensor([1.0, 0.01])), "rotary_emb.inv_freq: it is not what config"),
        (tensor(INV_FREQ, torch.ones(3)), r"rotary_emb.inv_freq has shape \(3,\), not \(2,\)"),
        (adapted, "adapter_config.json: merge the adapter"),
        (in_two_files, "model.norm.weight is in a.safetensors and in b.safetensors"),
        (nested_deeply, "config.json: not JSON"),
        (retold("context = 48", "context = 65"), "model.context: 65, the checkpoint knows 64"),
    ],
)
def test_what_this_model_cannot_be_is_refused_by_its_name(
    original: Path, tmp_path: Path, change: Callable[[Path], None], words: str
) -> None:
    store = copied(original, tmp_path)
    change(tmp_path)
    with pytest.raises(ConfigError, match=words):
        create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store)


@pytest.mark.parametrize(
    ("change", "theta"),
    [
        (rope(), 1e4),
        (rope({"rope_type": "default", "rope_theta": 5e5}), 5e5),
        (rope({"type": "default", "rope_theta": 5e5}), 5e5),
        (rope({"rope_theta": 5e5, "partial_rotary_factor": 1}, top=500000), 5e5),
        (rope(scaling={"rope_type": "default", "rope_theta": 5e5}), 5e5),
        (rope({"rope_type": "default", "factor": None}, {}, 5e5), 5e5),
        (changed("quantization_config", None), 5e5),
        (changed("unheard_of", None), 5e5),
        (changed("layer_types", ["full_attention"] * 2), 5e5),
        (changed("pretraining_tp", 2), 5e5),
        (tensor(INV_FREQ, (1 / 5e5 ** torch.tensor([0, 0.5])).bfloat16()), 5e5),
    ],
)
def test_what_changes_nothing_is_accepted_and_read_as_transformers_does(
    transformers: ModuleType,
    original: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    theta: float,
) -> None:
    store = copied(original, tmp_path)
    change(tmp_path)
    value = create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store).manifest
    theirs = transformers.LlamaConfig.from_pretrained(tmp_path / "llama")
    assert value.model.rope_theta == theta == theirs.rope_parameters["rope_theta"]
    assert theirs.rope_parameters["rope_type"] == "default"


def test_a_tied_head_is_compared_with_the_embedding(
    transformers: ModuleType, tmp_path: Path
) -> None:
    saved(transformers, tmp_path, tie_word_embeddings=True)
    path = tmp_path / "llama" / "model.safetensors"
    head = load_file(path)["model.embed_tokens.weight"].clone()
    tensor("lm_head.weight", head)(tmp_path)
    store = BlobStore(tmp_path / "store")
    assert create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store).manifest.start
    head[-1, -1] += 1
    tensor("lm_head.weight", head)(tmp_path)
    with pytest.raises(ConfigError, match=r"lm_head.weight is not .* tie_word_embeddings to false"):
        create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store)
    changed("tie_word_embeddings", False)(tmp_path)
    value = create_manifest(tmp_path / "warm.toml", owner=peer("owner"), blobs=store).manifest
    assert not value.model.tied


def test_every_key_that_transformers_writes_is_known(transformers: ModuleType) -> None:
    written = set(transformers.LlamaConfig().to_dict())
    assert written <= READ | HARMLESS | set(ONLY)
    assert not (READ & HARMLESS or READ & set(ONLY) or HARMLESS & set(ONLY))
