"""Rules of this file: what `run init` writes is compared with the manifest's own types."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dipaco.node.jobs.settings import reproducible_settings
from dipaco.node.reference.run import run_reference
from dipaco.node.runs.create import create_manifest
from dipaco.node.runs.tables import known_fields
from dipaco.node.runs.template import Data, data_of, name_of, parse_grid, run_template
from dipaco.protocol.errors import ConfigError
from dipaco.protocol.run.manifest import run_id
from dipaco.protocol.run.training import Adam, Muon, Training
from dipaco.protocol.wire.identity import PeerId
from tests.values import peer

HUB = {f"source.{name}" for name in ("dataset", "config", "split", "revision")}
MUON = {f"training.inner.{name}" for name in ("momentum", "nesterov", "adamw_lr")}
EXAMPLES = (  # fields whose line shows an example, since their default is nothing or a fact
    *("source.", "tokenizer.", "model.checkpoint", "routing.router_bp", "routing.reshard"),
    *("routing.capacity", "routing.scored_from", "schedule.schedulers", "training.batch_order"),
    *("training.inner.kind", "training.quorum"),
    *("schedule.keepers", "schedule.quorum", "schedule.copies"),
)


BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
OWNER = PeerId("12D3KooWAjsnkGtvJuzp3cpyKdAzQb7Lk5p3yPKFtQmZkpKB7n4f")
CHAOS = "7d39bda93752cb0c5b6af5ca7d341a3c179af5627a27ccc909fd8eb600b9597d"


def tables(text: str, *, whole: bool) -> dict[str, Any]:
    """Return the template's tables; whole: with what stands behind a #."""
    return tomllib.loads(re.sub(r"^# (?=[a-z_0-9]+ = )", "", text, flags=re.M) if whole else text)


def places(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        yield f"{prefix}{name}", value
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                yield from places(inner, f"{prefix}{name}.")


def test_the_template_has_every_field_and_no_other() -> None:
    shown = {place for place, _ in places(tables(run_template("a", (2, 2), None), whole=True))}
    inner = {f"routing.reshard.{n}" for n in ("tolerance", "scorers", "candidates", "windows")}
    assert shown <= known_fields()
    assert known_fields() - shown == HUB | MUON | inner  # which docs/runs.md describes


FEATURIZER, DIMENSION = '# featurizer = "idf-svd-v1"', "# dimension = 64 "


@pytest.mark.parametrize(
    ("featurizer", "dimension", "columns"),
    [(None, None, 64), (None, 32, 32), ("bag-sign-v1", None, 256), ("bag-sign-v1", 32, 32)],
)
def test_random_signs_have_256_columns_and_a_basis_64_unless_the_file_says_otherwise(
    featurizer: str | None, dimension: int | None, columns: int, tmp_path: Path
) -> None:
    text = run_template("a", (2, 2), None)
    assert FEATURIZER in text and DIMENSION in text
    if featurizer:
        text = text.replace(FEATURIZER, f'featurizer = "{featurizer}"')
    if dimension:
        text = text.replace(DIMENSION, f"dimension = {dimension} ")
    (tmp_path / "a.toml").write_text(text)
    routing = create_manifest(tmp_path / "a.toml", owner=peer("owner")).manifest.routing
    assert (routing.featurizer, routing.dimension) == (featurizer or "idf-svd-v1", columns)


def test_a_dimension_that_only_random_signs_have_is_refused_with_the_featurizer(
    tmp_path: Path,
) -> None:
    text = run_template("a", (2, 2), None).replace(DIMENSION, "dimension = 256 ")
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"routing.*256, at most 64 .* idf-svd-v1; bag-sign-v1"):
        create_manifest(tmp_path / "a.toml", owner=peer("owner"))


def test_a_file_that_names_what_was_the_default_makes_the_run_of_before() -> None:
    """The id was taken before packed updates and the fitted basis were the defaults."""
    made = create_manifest(BENCHMARKS / "chaos.toml", owner=OWNER).manifest
    assert run_id(made).hex() == CHAOS


@pytest.mark.parametrize("name", ["compare-dev", "compare-reshard"])
def test_the_files_of_the_comparisons_name_what_was_measured(name: str) -> None:
    table = tomllib.loads((BENCHMARKS / f"{name}.toml").read_text("utf-8"))
    routing, training = table["routing"], table["training"]
    assert (routing["featurizer"], routing["dimension"]) == ("bag-sign-v1", 256)
    assert (training["deltas"], training["updates"]) == ("f32", "f32")


def test_a_value_behind_a_mark_is_the_default(tmp_path: Path) -> None:
    text = run_template("a", (2, 2), None)
    (tmp_path / "a.toml").write_text(text)
    made = create_manifest(tmp_path / "a.toml", owner=peer("owner")).manifest
    default = dict(places(msgspec.to_builtins(made, builtin_types=(bytes,))))
    active = dict(places(tables(text, whole=False)))
    behind = [
        (place, value)
        for place, value in places(tables(text, whole=True))
        if place not in active and not isinstance(value, dict) and not place.startswith(EXAMPLES)
    ]
    assert len(behind) > 25
    for place, value in behind:
        found = default[place]
        shown = found.hex() if isinstance(found, bytes) else found
        assert (list(shown) if isinstance(shown, tuple) else shown) == value, place


def test_what_the_template_says_of_muon_are_its_defaults() -> None:
    text, muon = run_template("a", (2, 2), None), Muon()
    said = "momentum = 0.95, nesterov = true, and adamw_lr = 1e-3"
    assert said in text and (muon.momentum, muon.nesterov, muon.adamw_lr) == (0.95, True, 1e-3)


def test_an_inner_optimizer_is_named_by_its_kind(tmp_path: Path) -> None:
    text = run_template("a", (2, 2), None)
    for lines, inner in (
        ('kind = "adamw"\nlr = 2e-3', Adam(lr=2e-3)),
        ('kind = "muon"\nlr = 2e-3\nadamw_lr = 3e-3', Muon(lr=2e-3, adamw_lr=3e-3)),
    ):
        (tmp_path / "a.toml").write_text(
            text.replace("[training.inner]", f"[training.inner]\n{lines}")
        )
        made = create_manifest(tmp_path / "a.toml", owner=peer("owner")).manifest
        assert made.training.inner == inner


@pytest.mark.parametrize("grid", ["4", "2x2", "3x1x2", "32x32"])
def test_the_template_of_any_grid_makes_a_run(grid: str, tmp_path: Path) -> None:
    levels = parse_grid(grid)
    (tmp_path / "a.toml").write_text(run_template("a", levels, None))
    made = create_manifest(tmp_path / "a.toml", owner=peer("owner")).manifest
    assert tuple(level.experts for level in made.grid.levels) == levels


@pytest.mark.slow
def test_the_template_of_local_files_trains_as_it_stands(tmp_path: Path) -> None:
    """Rounds and steps are cut, since a test has less time than a person."""
    words = ["house", "river", "stone", "cloud", "train", "field", "bread"]
    rows = [" ".join(words[(row * step) % 7] for step in range(1, 81)) for row in range(60)]
    (tmp_path / "my rows.txt").write_text("\n".join(rows))
    data = data_of([tmp_path / "my rows.txt"], "text", tmp_path, 2)
    assert data == Data(("my rows.txt",), "text", 30)
    (tmp_path / "a.toml").write_text(run_template("a", (2,), data))
    made = create_manifest(tmp_path / "a.toml", owner=peer("owner"), rounds=1).manifest
    short = msgspec.structs.replace(made.training, seed_steps=1, inner_steps=1, batch=1)
    manifest = msgspec.structs.replace(made, training=short)
    result = run_reference(
        manifest, reproducible_settings(tmp_path, "cpu"), lambda job, progress: None
    )
    assert len(result.states) == 3


def test_tables_whose_fields_all_have_defaults_may_be_left_out(tmp_path: Path) -> None:
    text = run_template("a", (2, 2), None)
    for name in ("tokenizer", "training.inner", "training.outer", "schedule"):
        text, count = re.subn(rf"^\[{re.escape(name)}\].*$", "", text, flags=re.M)
        assert count == 1
    (tmp_path / "a.toml").write_text(text)
    made = create_manifest(tmp_path / "a.toml", owner=peer("owner")).manifest
    plain = Training(seed_steps=40, rounds=5, inner_steps=25, batch=8)
    assert made.training == plain and made.schedule.members == ()


@pytest.mark.parametrize(
    "text", ["", "x", "2x", "2,2", "-1", "0", "257", "2x2x2x2x2x2x2x2x2", "64x64"]
)
def test_a_grid_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--grid: "):
        parse_grid(text)


def test_files_that_no_run_can_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("hello\n" * 99)
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "body.jsonl").write_text('{"body": "x"}\n')
    for name, words in (
        (
            "short.txt",
            "2 paths need at least 4 documents of 160 bytes or more; of 99 0 are as long",
        ),
        ("a.csv", "not a .parquet"),
        ("body.jsonl", r"only: 'body' \(--text-field; 'text' now\)"),
        ("nope.txt", "is not there"),
        (".", "is a folder"),
    ):
        with pytest.raises(ConfigError, match=rf"^--data: .*{words}"):
            data_of([tmp_path / name], "text", tmp_path, 2)


def test_files_beside_the_template_keep_their_names_and_others_their_paths(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("out.txt", "in/in.txt"):
        (tmp_path / name).write_text(("word " * 50 + "\n") * 4)
    data = data_of([tmp_path / "in/in.txt", tmp_path / "out.txt"], "text", tmp_path / "in", 1)
    assert data.files == ("in.txt", str(tmp_path / "out.txt"))


@pytest.mark.parametrize(
    ("file", "name"),
    [("my.toml", "my"), ("My Run.toml", "my-run"), ("_x.toml", "x"), ("\u00e4.toml", "my-run")],
)
def test_a_run_is_named_after_its_file(file: str, name: str) -> None:
    assert name_of(Path(file)) == name
