"""`eval`, `generate` and `ckpt` in this process, on a module export of made-up states."""

import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dipaco.cli.commands.generate import MAX_PROMPT
from dipaco.cli.exits import Exit
from dipaco.cli.main import run
from dipaco.cli.views.generation import parts_of
from dipaco.node.jobs.meter import silent
from dipaco.node.models.module_export import write_module_export
from tests.node.training.checkpointed import checkpointed, tokenizer


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    before = dict(os.environ)  # the verbs set their process up as a worker's
    monkeypatch.setenv("DIPACO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DIPACO_COMPUTE_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    write_module_export(checkpointed(tmp_path / "blobs"), tokenizer(), tmp_path / "saved", silent)
    yield "saved"
    os.environ.clear()
    os.environ.update(before)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that succeeds; returns its stdout."""
    capsys.readouterr()
    code = run(arguments)
    found = capsys.readouterr()
    assert code == Exit.OK, found.err
    return found.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that ends with code 2; returns its one line."""
    capsys.readouterr()
    assert run(arguments) == Exit.USAGE
    line = capsys.readouterr().err
    assert line.startswith("dipaco-node: ") and line.count("\n") == 1, line
    return line


def test_text_goes_on_the_same_for_the_same_seed(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("generate", export, "The sea", "--max-tokens", "8", "--seed")
    first = said(capsys, *asked, "1")
    assert len(first.strip()) > 0 and first.endswith("\n")
    assert said(capsys, *asked, "1") == first != said(capsys, *asked, "2")


def test_a_generated_text_is_one_json_object_if_asked(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("generate", export, "The sea", "--max-tokens", "60", "--seed", "3", "--reroute", "8")
    text = said(capsys, *asked)
    report = json.loads(said(capsys, *asked, "--json"))
    assert report["text"] + "\n" == text and report["prompt"] == "The sea"
    assert report["tokens"] == sum(part["tokens"] for part in report["parts"]) == 60
    assert report["parts"] == [{"path": 0, "experts": [0, 0], "version": 2, "tokens": 60}]
    assert (report["seed"], report["end"]) == (3, "max tokens") and report["seconds"] > 0


def test_the_parts_of_a_text_are_its_paths_in_order(tmp_path: Path) -> None:
    found = parts_of(checkpointed(tmp_path), [2, 2, 0, 2])
    assert [(part.path, part.tokens) for part in found] == [(2, 2), (0, 1), (2, 1)]
    assert parts_of(checkpointed(tmp_path), []) == ()


def test_the_prompt_is_read_from_stdin(
    export: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Das Stra\u00df\n".encode())))
    asked = ("generate", export, "-", "--max-tokens", "3", "--seed", "1", "--json")
    assert json.loads(said(capsys, *asked))["prompt"] == "Das Stra\u00df"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9 au lait", "stdin is not UTF-8: byte 4 is 0xe9"),
        (b"x" * (MAX_PROMPT + 1), "stdin has more than 1,048,576 bytes"),
    ],
)
def test_a_prompt_of_stdin_is_bounded_and_text(
    data: bytes, reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert reason in refused(capsys, "generate", "saved", "-")


@pytest.mark.parametrize("prompt", ["", "a\x00b\r\n", "sea " * 250_000, "\ufffd"])
def test_a_prompt_may_be_any_text(
    export: str, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    asked = ("generate", export, prompt, "--max-tokens", "3", "--seed", "1", "--json")
    report = json.loads(said(capsys, *asked))
    assert report["prompt"] == prompt and report["tokens"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "saved", "caf\udce9"), r"argument 3: 'caf\xe9' is not UTF-8"),
        (("generate", "saved", "x", "--path=\udcff"), r"argument 4: '--path=\xff' is not UTF-8"),
        (("eval", "saved", "--text-field", "\udcff"), "argument 4: "),
        (("ckpt", "list", "\udcff"), "argument 3: "),
        (("status", "--home", "\udcff"), "argument 3: "),
        (("run", "create", "\udcff.toml", "--out", "x.run"), "argument 3: "),
        (("\udcff",), "argument 1: "),
        (("generate", "saved", "caf\ud800" * 99), r"\ud800"),
    ],
)
def test_an_argument_that_is_not_utf8_is_refused_in_one_line(
    export: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    line = refused(capsys, *arguments)
    assert words in line and len(line) < 200


def test_a_variable_that_is_not_utf8_is_refused_by_its_name(
    export: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPACO_RUN_ID", "\udce9")
    assert r"DIPACO_RUN_ID: '\xe9' is not UTF-8" in refused(capsys, "status")


def test_utf8_under_a_locale_that_is_not_names_the_locale(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "generate", export, "caf\udcc3\udca9")
    assert "is UTF-8, but the locale is not: set LC_ALL=C.UTF-8" in line


def test_a_file_is_scored_document_by_document(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["the sea and the sky " * 20, "short", "a ship that sails " * 20]
    rows = [{"body": text, "kind": text.split()[1]} for text in texts[::2]]
    rows.insert(1, {"body": texts[1], "kind": "left out"})
    Path("own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked: tuple[str, ...] = ("eval", export, "--data", "own.jsonl", "--text-field", "body")
    asked = (*asked, "--reroute", "8")
    assert "column 'body': row 0" in refused(capsys, *asked, "--domain-field", "body")
    asked = (*asked, "--domain-field", "kind")
    report = json.loads(said(capsys, *asked, "--json"))
    once, again = report["passes"]
    assert (once["reroute"], again["reroute"]) == (None, 8)
    assert report["left_out"] == 1
    for each in (once, again):
        assert each["documents"] == 2 == sum(path["documents"] for path in each["paths"])
        assert [domain["domain"] for domain in each["domains"]] == ["sea", "ship"]
        for name in ("tokens", "bytes"):
            assert each[name] == once[name]
            for parts in (each["paths"], each["domains"]):
                assert each[name] == sum(part[name] for part in parts)
        nll = sum(domain["nll"] for domain in each["domains"])
        assert each["nll"] == pytest.approx(nll)
        assert each["bits_per_byte"] == pytest.approx(nll / math.log(2) / each["bytes"])
    table = said(capsys, *asked)
    assert f"(vocabulary {report['vocabulary']:,})" in table
    assert f"{once['bits_per_byte']:.3f}" in table and "by domain" in table
    assert f"{once['perplexity']:.2f}" in table and "1 row left out" in table


def test_a_module_export_is_exported_and_listed_again(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "ckpt", "export", export, "--format", "safetensors", "--out", "copy")
    listed = said(capsys, "ckpt", "list", "copy", "--json")
    assert listed == said(capsys, "ckpt", "list", export, "--json")
    assert all(module["here"] for module in json.loads(listed)["modules"])
    names = {path.name for path in Path(export).iterdir()}
    assert {path.name for path in Path("copy").iterdir()} == names


def test_what_is_no_run_is_refused_in_one_line(
    export: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "ckpt", "export", export, "--format", "hf", "--path", "0,1", "--out", "one")
    Path("my.toml").write_text("")
    for name, words in (
        ("one", "one path for transformers"),
        ("my.toml", "my.toml is a TOML file"),
        ("nowhere", "nowhere is not here"),
        ("nowhere.run", "cannot read nowhere.run"),
    ):
        assert words in refused(capsys, "eval", name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "saved", "x", "--temperature", "nan"), "nan is not a number"),
        (("generate", "saved", "x", "--path", "9"), "--path: 9 is not on the grid"),
        (("generate", "saved", "x", "--path", "0", "--reroute", "8"), "exclude each other"),
        (("eval", "saved", "--at", "1"), "--at: an export has one version"),
        (("eval", "saved", "--data", "nothing.txt"), "'nothing.txt' does not exist"),
        (("eval", "saved", "--data", "short.txt"), "none of its rows (1) is long enough"),
        (("eval", "saved", "--data", "saved/router.spec"), "--data: router.spec: not a"),
        (("ckpt", "export", "saved", "--format", "hf", "--out", "o"), "--path"),
        (
            ("ckpt", "export", "saved", "--format", "safetensors", "--out", "saved"),
            "exists already",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(
    export: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    Path("short.txt").write_text("short\n")
    assert words in refused(capsys, *arguments)


def test_a_home_without_runs_says_so(export: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ckpt", "list"]) == Exit.OK
    assert "knows no run" in capsys.readouterr().err
