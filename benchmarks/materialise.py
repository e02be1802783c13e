"""Materialising a window, compared with its minimum: reading and tokenising the documents.

The limit streams the same files with `datasets` and gives the same documents, cut alike, to
`tokenizers`, in one thread as ours; it routes, writes and hashes nothing. Ours does all of it, from
the pinned files to a group in the cache. Each sample has a new process, and the sides alternate.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.corpus import corpus_files
from benchmarks.measure import Result, in_turns, versus
from benchmarks.runs import derived, quiet, sixteen_paths
from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.data.library import import_datasets
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.routing.shards import Shards
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.routing.documents import cut
from dipaco.protocol.routing.recipe import recipe_of
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.run.manifest import Manifest

SAMPLES, FILES, SAMPLE = 5, 1, 500
BATCH = 256  # documents that the limit tokenises at once
MARK = 0.85


def run() -> list[Result]:
    """Measure tokens per second of both."""
    sides = ("ours", "encode_batch", "encode_batch_fast")
    calls = {side: ("materialise", "sample", side) for side in sides}
    rates = {
        side: [tokens / seconds for seconds, tokens in found]
        for side, found in in_turns("materialise", SAMPLES, calls).items()
    }
    plain, fast = (
        versus(f"materialise / datasets + {peer}", rates["ours"], rates[peer], "tokens/s")
        for peer in ("encode_batch", "encode_batch_fast")
    )
    plain["mark"] = MARK
    return [plain, fast]


def sample(side: str) -> tuple[float, int]:
    """Return the seconds of one pass of `side`, and the tokens it saw if it is not ours."""
    files = corpus_files()[:FILES]
    with tempfile.TemporaryDirectory(prefix="dipaco-bench-") as folder:
        deps = SourceDeps(BlobStore(Path(folder) / "blobs"), Access(local_sources=True))
        manifest = sixteen_paths(pin_files(files), sample=SAMPLE)
        if side == "ours":
            return _ours(manifest, deps, Path(folder) / "cache"), 0
        return _limit(manifest, files, side)


def _ours(manifest: Manifest, deps: SourceDeps, folder: Path) -> float:
    spec = derived(manifest, deps)
    shards = Shards(ShardCache(folder, 1 << 33), deps, max_shards=4)
    start = time.perf_counter()
    shards.materialise(manifest, spec, 0, quiet)
    return time.perf_counter() - start


def _limit(manifest: Manifest, files: list[Path], function: str) -> tuple[float, int]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    encode = getattr(tokenizers.Tokenizer.from_file(str(path)), function)
    wanted = _wanted(manifest, files)
    stream = _streamed(files)
    tokens = row = 0
    start = time.perf_counter()
    for batch in stream.iter(batch_size=BATCH):
        lengths = wanted[row : row + BATCH]
        row += len(lengths)
        texts = [text[:n] for text, n in zip(batch["text"], lengths, strict=True) if n]
        tokens += sum(len(each.ids) for each in encode(texts, add_special_tokens=False))
    return time.perf_counter() - start, tokens


def _wanted(manifest: Manifest, files: list[Path]) -> list[int]:
    """Return for each row the characters that ours tokenises; 0 for a row of the router."""
    recipe = recipe_of(manifest)
    splits = (Split.TRAINING, Split.VALIDATION)
    lengths = []
    for row, example in enumerate(_streamed(files)):
        text = cut(example["text"].encode(), recipe.params.max_bytes).decode()
        lengths.append(len(text) if recipe.split(row) in splits else 0)
    return lengths


def _streamed(files: list[Path]) -> Any:
    names = [str(path) for path in files]
    datasets = import_datasets()
    return datasets.load_dataset("parquet", data_files=names, split="train", streaming=True)
