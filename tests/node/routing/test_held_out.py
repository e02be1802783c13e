"""Rules of this file: documents are routed here one by one, with the router's own plain calls."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from dipaco.node.data.tokenizers import TextEncoder, load_tokenizer
from dipaco.node.jobs.values import Progress
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.routing.held_out import of_file, of_run
from dipaco.node.routing.shards import Shards
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.spec import RouterSpec
from dipaco.protocol.run.manifest import Manifest
from tests.node.data.corpora import (
    no_progress,
    small_manifest,
    spec_in,
    synthetic,
    texts,
    write_jsonl,
    write_parquet,
)

RUN = small_manifest(synthetic(160))
SHORT = "too short"
TEXTS = [*texts(30), SHORT, "", *texts(60)[30:]]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> SourceDeps:
    return SourceDeps(BlobStore(tmp_path_factory.mktemp("blobs")))


@pytest.fixture(scope="module")
def spec(tools: SourceDeps) -> RouterSpec:
    return spec_in(derive(RUN, tools, no_progress))


@pytest.fixture(scope="module")
def encoder(tools: SourceDeps) -> TextEncoder:
    return load_tokenizer(RUN.tokenizer, tools.blobs)


def expected(spec: RouterSpec, encoder: TextEncoder) -> dict[int, list[list[int]]]:
    """Return the ids of the texts by path, each text alone."""
    router, size = Router(spec), RUN.routing.prefix_bytes
    found: dict[int, list[list[int]]] = {}
    for index, text in enumerate(TEXTS):
        head = encoder.plainly([text.encode()[:size].decode(errors="ignore")])[0]
        if len(head) >= RUN.routing.min_tokens:
            prefix = np.array([head[: spec.prefix]])
            path = int(router.route(prefix, np.array([index]))[0, 0])
            found.setdefault(path, []).append(encoder.plainly([text])[0][: RUN.model.context])
    return found


def write_txt(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{' '.join(line.split())}\n" for line in lines), encoding="utf-8")
    return path


def test_every_row_that_is_long_enough_goes_to_the_path_of_its_prefix(
    spec: RouterSpec, encoder: TextEncoder, tmp_path: Path
) -> None:
    due, told = expected(spec, encoder), list[Progress]()
    assert len(due) > 1
    for file in (
        write_jsonl(tmp_path / "a.jsonl", TEXTS),
        write_parquet(tmp_path / "a.parquet", TEXTS),
    ):
        found = of_file(file, None, RUN, spec, encoder, told.append)
        assert {path: [list(ids) for ids in own] for path, own in found.by_path.items()} == due
        assert list(found.by_path) == sorted(due) == list(found.indices)
        domains = found.labelled({row: TEXTS[row] for row in found.rows()})
        for path, own in domains.items():
            first = [encoder.plainly([text])[0][: RUN.model.context] for text in own]
            assert first == due[path]
        assert found.id_bytes is encoder.bytes_per_id
        assert found.left_out == len(TEXTS) - sum(map(len, due.values())) == 2
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("read", len(TEXTS), len(TEXTS))


def test_the_text_s_name_is_the_run_s_unless_another_is_given(
    spec: RouterSpec, encoder: TextEncoder, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    body = replace(RUN, source=replace(RUN.source, text_field="body"))
    with pytest.raises(ConfigError, match=r"^--data: .*body"):
        of_file(file, None, body, spec, encoder, no_progress)
    named = of_file(file, "text", body, spec, encoder, no_progress)
    assert named.left_out == 2


def test_a_txt_file_has_text_alone_whatever_the_run_calls_it(
    spec: RouterSpec, encoder: TextEncoder, tmp_path: Path
) -> None:
    body = replace(RUN, source=replace(RUN.source, text_field="body"))
    file = write_txt(tmp_path / "a.txt", TEXTS)
    assert of_file(file, None, body, spec, encoder, no_progress).left_out == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.csv", r"a\.csv: not a \.parquet"), ("a.parquet", r"a\.parquet"), ("a.jsonl", "row 0")],
)
def test_a_file_that_is_no_such_thing_is_the_operator_s_fault(
    name: str, words: str, spec: RouterSpec, encoder: TextEncoder, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"no data\n")
    with pytest.raises(ConfigError, match=f"^--data: .*{words}"):
        of_file(tmp_path / name, None, RUN, spec, encoder, no_progress)


@pytest.mark.parametrize("rows", [[SHORT, SHORT], [""]])
def test_a_file_with_nothing_to_score_is_refused_with_its_rows(
    rows: list[str], spec: RouterSpec, encoder: TextEncoder, tmp_path: Path
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=rf"none of its rows \({len(rows)}\) is long enough"):
        of_file(file, None, RUN, spec, encoder, no_progress)


def test_the_run_s_own_are_its_validation_shards_without_the_empty_ones(
    spec: RouterSpec, tools: SourceDeps, tmp_path: Path
) -> None:
    shards = Shards(ShardCache(tmp_path, 1 << 24), tools, max_shards=4)
    found = of_run(RUN, spec, shards, no_progress)
    due = validation(RUN, spec, shards)
    assert found.left_out == 0 and sum(map(len, due)) > 5
    assert set(found.by_path) == {path for path, own in enumerate(due) if own}
    corpus, encoder = texts(160), load_tokenizer(RUN.tokenizer, tools.blobs)
    for path, own in found.by_path.items():
        assert [list(ids) for ids in own] == due[path]
        of_rows = encoder.encode([corpus[row] for row in found.indices[path]])
        assert [ids[: RUN.model.context] for ids in of_rows] == due[path]
    assert found.id_bytes.tolist() == encoder.bytes_per_id.tolist()


def validation(run: Manifest, spec: RouterSpec, shards: Shards) -> list[list[list[int]]]:
    return [
        [list(ids) for ids in shards.validation(run, spec, 0, path, no_progress)]
        for path in range(run.paths)
    ]
