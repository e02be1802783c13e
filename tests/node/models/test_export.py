"""Exports are held against the real transformers, imported once: it takes seconds."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tokenizers
import torch
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer
from dipaco.node.data.tokenizers import checked_tokenizer, pin_tokenizer
from dipaco.node.jobs.meter import silent
from dipaco.node.models.export import export_path, plain_tokenizer
from dipaco.node.models.path_models import PathModels
from dipaco.node.runs.checkpoint import Checkpoint
from dipaco.node.storage.blobs import BlobMissing, BlobStore
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.model_shape import Model
from tests.node.data.test_tokenizers import embedded, made, unigram, word_level, words
from tests.node.training.checkpointed import checkpointed, tokenizer
from tests.node.training.small import small_manifest

TEXTS = (
    "The sea was calm, and the ship — a naïve café of 42 guns — lay still.",
    " def f(x):\n\treturn x ** 2  # <|endoftext|> 日本語 😀",
    "",
)


@pytest.fixture(scope="module")
def transformers() -> Iterator[ModuleType]:
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    import transformers

    yield transformers
    patch.undo()


def logits(checkpoint: Checkpoint, path: int, ids: torch.Tensor) -> torch.Tensor:
    model = PathModels(checkpoint, device="cpu", threads=1)(path)
    with torch.inference_mode():
        found: torch.Tensor = model(ids) @ model.head.T
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 4, "kv_heads": 2, "tied": True},
        {"heads": 4, "kv_heads": 1, "tied": False, "rope_theta": 5e5, "norm_eps": 1e-3},
        {"heads": 2, "kv_heads": 2, "tied": False},
    ],
)
def test_transformers_computes_the_same_logits(
    transformers: ModuleType, tmp_path: Path, changes: dict[str, object]
) -> None:
    model = replace(small_manifest().model, **changes)
    value = small_manifest(tokenizer=embedded_tokenizer(), model=model)
    checkpoint = checkpointed(tmp_path / "blobs", value)
    export_path(checkpoint, 2, tokenizer(), tmp_path / "out", silent)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True)
    assert theirs.dtype == torch.float32
    ids = torch.randint(0, 4096, (3, model.context), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = theirs(ids).logits
    ours = logits(checkpoint, 2, ids)
    assert ours.std() > 0.1, "or any two models would agree"
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


def test_transformers_reads_the_same_ids(transformers: ModuleType, tmp_path: Path) -> None:
    checkpoint = checkpointed(tmp_path / "blobs")
    export_path(checkpoint, 0, tokenizer(), tmp_path / "out", silent)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert [theirs(text).input_ids for text in TEXTS] == embedded().plainly(TEXTS)
    assert theirs.eos_token_id == checkpoint.manifest.tokenizer.end_of_text
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert config.eos_token_id == checkpoint.manifest.tokenizer.end_of_text


def test_a_tokenizer_that_adds_and_cuts_is_exported_without_that() -> None:
    given = word_level(truncate=True)
    text = "a b c a b"
    plain = tokenizers.Tokenizer.from_str(plain_tokenizer(given, 0).decode())
    assert plain.encode(text).ids == [1, 2, 3, 1, 2]
    assert tokenizers.Tokenizer.from_str(given.decode()).encode(text).ids != [1, 2, 3, 1, 2]
    assert plain_tokenizer(tokenizer(), 0) == tokenizer(), "one that does neither stays as it is"


def test_an_end_of_text_that_is_not_special_is_ordinary_text_in_the_export_too(
    transformers: ModuleType, tmp_path: Path
) -> None:
    table = json.loads(tokenizer())
    added = table["added_tokens"][0]
    more = {"id": 4096, "content": "ship", "special": False, "normalized": True}
    table["added_tokens"] = [{**added, "special": False}, {**added, **more}]
    (tmp_path / "t.json").write_text(json.dumps(table))
    pinned, data = pin_tokenizer(tmp_path / "t.json")
    checkpoint = checkpointed(tmp_path / "blobs", small_manifest(tokenizer=pinned))
    export_path(checkpoint, 0, data, tmp_path / "out", silent)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert [theirs(text).input_ids for text in TEXTS] == embedded().plainly(TEXTS)
    assert checked_tokenizer(data, pinned).encode(TEXTS) == embedded().plainly(TEXTS)


@pytest.mark.parametrize("model", [unigram(unknown=0), words()], ids=["piece", "word"])
def test_an_end_of_text_that_the_model_spells_is_ordinary_text_in_the_export_too(
    transformers: ModuleType, tmp_path: Path, model: tokenizers.models.Model
) -> None:
    given = made(model, special=True)
    (tmp_path / "t.json").write_bytes(given)
    pinned, data = pin_tokenizer(tmp_path / "t.json")
    checkpoint = checkpointed(tmp_path / "blobs", small_manifest(tokenizer=pinned))
    export_path(checkpoint, 0, data, tmp_path / "out", silent)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    texts = ["a <|endoftext|> b", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", "a <|end"]
    ids = checked_tokenizer(data, pinned).encode(texts)
    assert [theirs(text).input_ids for text in texts] == ids
    assert not any(pinned.end_of_text in each for each in ids)
    plain = tokenizers.Tokenizer.from_str(data.decode())
    assert plain.encode("a <|endoftext|> b").ids[1] == pinned.end_of_text


def test_the_folder_says_what_it_is(tmp_path: Path) -> None:
    checkpoint = checkpointed(tmp_path / "blobs")
    export_path(checkpoint, 2, tokenizer(), tmp_path / "out", silent)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        checkpoint.run.id.hex(),
        "(1,0)",
        "stem v2",
        "L1.E1 v2",
        "licence",
        "does not read the text",
    ):
        assert fact in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_parameters"]["rope_theta"] == config["rope_theta"] == 10000.0


def test_nothing_is_written_over_and_nothing_half(tmp_path: Path) -> None:
    checkpoint = checkpointed(tmp_path / "blobs")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_path(checkpoint, 0, tokenizer(), out, silent)
    assert list(out.iterdir()) == []
    out.rmdir()
    BlobStore(tmp_path / "blobs").remove(checkpoint.paths[0][1].digest)
    with pytest.raises(BlobMissing):
        export_path(checkpoint, 0, tokenizer(), out, silent)
    assert [path.name for path in tmp_path.iterdir()] == ["blobs"]


def test_what_the_model_is_does_not_hang_on_defaults_of_transformers(
    transformers: ModuleType, tmp_path: Path
) -> None:
    model = Model(d_model=16, heads=4, kv_heads=2, d_ff=24, context=40, norm_eps=1e-4)
    value = small_manifest(tokenizer=embedded_tokenizer(), model=model)
    export_path(checkpointed(tmp_path / "blobs", value), 0, tokenizer(), tmp_path / "out", silent)
    config = transformers.LlamaConfig.from_pretrained(tmp_path / "out")
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (16, 24, 4)
    assert (config.max_position_embeddings, config.rms_norm_eps) == (40, 1e-4)
    assert config.tie_word_embeddings is True and config.vocab_size == 4096
