"""Rules of this file: labels are read from real files, through the kinds of sources."""

import json
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from dipaco.node.data.sources.embedded import embedded_source
from dipaco.node.data.sources.files import pin_files
from dipaco.node.data.sources.interface import Access
from dipaco.node.data.sources.labels import MAX_LABEL, MAX_LABELS, labels_of_file, labels_of_source
from dipaco.node.jobs.values import Progress
from dipaco.protocol.errors import ConfigError
from tests.node.data.corpora import no_progress, synthetic

LOCAL = Access(local_sources=True)


def parquet(path: Path, labels: list[str | None]) -> Path:
    texts = [f"text {i}" for i in range(len(labels))]
    pq.write_table(pa.table({"text": texts, "domain": pa.array(labels, pa.string())}), path)
    return path


def jsonl(path: Path, labels: list[object]) -> Path:
    rows = [{"text": f"text {i}", "domain": label} for i, label in enumerate(labels)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_labels_are_those_of_the_rows_over_all_files_of_a_source(tmp_path: Path) -> None:
    files = [
        parquet(tmp_path / "a.parquet", ["law", "code", "law"]),
        jsonl(tmp_path / "b.jsonl", ["blog", "code"]),
    ]
    source, told = pin_files(files), list[Progress]()
    assert labels_of_source(source, "domain", [4, 1, 2], LOCAL, told.append) == {
        1: "code",
        2: "law",
        4: "code",
    }
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("labels", 5, 5)
    assert labels_of_source(source, "domain", [], LOCAL, no_progress) == {}
    assert labels_of_file(files[1], "domain", [0], no_progress) == {0: "blog"}


def test_the_packaged_corpus_has_eight_domains() -> None:
    found = labels_of_source(embedded_source(), "domain", range(1810), Access(), no_progress)
    assert len(found) == 1810 and len(set(found.values())) == 8


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    source = pin_files([parquet(tmp_path / "a.parquet", ["law"])])
    with pytest.raises(ConfigError) as found:
        labels_of_source(source, "topic", [0], LOCAL, no_progress)
    text = str(found.value)
    assert text.startswith("column 'topic': ") and text.count("topic") == 2
    assert text.endswith("has no column 'topic', only: 'text', 'domain'")
    with pytest.raises(ConfigError, match="column 'domain': a synthetic source has text alone"):
        labels_of_source(synthetic(10), "domain", [0], LOCAL, no_progress)
    with pytest.raises(ConfigError, match="column '': text_field: "):
        labels_of_source(source, "", [0], LOCAL, no_progress)
    (tmp_path / "a.txt").write_text("a line\n")
    with pytest.raises(ConfigError, match=r"column 'domain': .*its rows are its lines"):
        labels_of_file(tmp_path / "a.txt", "domain", [0], no_progress)


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        (None, "row 1 has no text"),
        (7, "row 1 holds no text in 'domain'"),
        ("", "row 1: '' is no label"),
        ("a\nb", "row 1: 'a b' is no label"),
        ("x" * (MAX_LABEL + 1), f"row 1: '{'x' * MAX_LABEL}' is no label"),
    ],
)
def test_a_value_that_is_no_label_is_refused_with_its_row(
    label: object, fault: str, tmp_path: Path
) -> None:
    file = jsonl(tmp_path / "a.jsonl", ["x" * MAX_LABEL, label])
    assert labels_of_file(file, "domain", [0], no_progress) == {0: "x" * MAX_LABEL}
    with pytest.raises(ConfigError, match=f"column 'domain': .*{fault}"):
        labels_of_file(file, "domain", [0, 1], no_progress)


def test_a_column_of_too_many_labels_is_no_column_of_labels(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [f"label {i}" for i in range(MAX_LABELS + 1)])
    assert len(labels_of_file(file, "domain", range(MAX_LABELS), no_progress)) == MAX_LABELS
    with pytest.raises(ConfigError, match=f"more than {MAX_LABELS} different labels"):
        labels_of_file(file, "domain", range(MAX_LABELS + 1), no_progress)
