"""The text of the measurements: parquet files with a column `text`, or the embedded corpus.

DIPACO_BENCH_DATA in the environment names the folder; `make bench DATA=folder` and `python -m
benchmarks --data folder` set it. Without a folder the embedded corpus is repeated: speeds are then
of the same order, but not comparable with those of docs/benchmarks.md.
"""

import os
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from dipaco.node.data.sources.embedded import CORPUS_PATH

VARIABLE = "DIPACO_BENCH_DATA"
REPEATED = 8  # times the embedded corpus, which has 1,800 documents


def corpus_files() -> list[Path]:
    """Return the files, in order."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return [_repeated()]
    files = sorted(Path(folder).resolve().glob("*.parquet"))
    if not files:
        raise SystemExit(f"{VARIABLE}: no .parquet files in {folder}")
    return files


def described() -> str:
    """Return one line that names the corpus."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return (
            f"corpus: the embedded one {REPEATED} times over, since {VARIABLE} is not set "
            "(make bench DATA=folder)"
        )
    return f"corpus: {len(corpus_files())} parquet files of {folder}"


@cache
def _repeated() -> Path:
    """Write the embedded corpus `REPEATED` times into one parquet file; returns its path."""
    column = pq.read_table(CORPUS_PATH, columns=["text"])["text"].to_pylist()
    folder = Path(tempfile.gettempdir()) / f"dipaco-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"embedded-{REPEATED}.parquet"
    if not target.exists():
        rows = [text for _ in range(REPEATED) for text in column]
        draft = target.with_suffix(f".{os.getpid()}")
        pq.write_table(pa.table({"text": rows}), draft, row_group_size=1000)
        draft.replace(target)
    return target
