"""Rules of this file: the results are made up."""

import msgspec
from rich.console import Console

from dipaco.cli.views.comparison import (
    main_table,
    markdown,
    print_comparison,
    reroute_table,
    shard_table,
)
from dipaco.node.compare.results import summarise
from tests.node.compare.made_up import TITLES, comparison, result, start


def test_the_main_table_has_every_seed_and_says_what_is_missing() -> None:
    head, seed_model, dense, dipaco, flat = main_table(comparison())
    assert head[5:] == ["seed 0", "seed 1", "mean", "range", "/ dense, equal steps"]
    assert seed_model[5:8] == ["900.0", "900.0", "900.0"]
    assert dense[5:] == ["400.0", "200.0", "300.0", "200.0 to 400.0", "1.000 (1.000 to 1.000)"]
    assert dipaco[1:5] == ["4x", "2.11M", "1.32M", "3M"]
    assert dipaco[5:] == ["200.0", "120.0", "160.0", "120.0 to 200.0", "0.550 (0.500 to 0.600)"]
    assert flat[5:] == ["-", "110.0", "110.0 (1 of 2)", "-", "0.550"]


def test_every_figure_over_some_of_the_seeds_says_over_how_many() -> None:
    results = [result("dense", 0, 400.0), result("dipaco", 0, 200.0), result("dipaco", 1, 90.0)]
    results.append(result("dense-compute", 1, 80.0))
    titles = {**TITLES, "dense-compute": "dense at equal compute"}
    partial = summarise("x", titles, [start(0), start(1)], results)
    _, _, dense, dipaco, _ = main_table(partial)
    assert dense[-3:] == ["400.0 (1 of 2)", "-", "1.000"]
    assert dipaco[-3:] == ["145.0", "90.0 to 200.0", "0.500 (1 of 2)"]
    assert [line[0] for line in shard_table(partial)[1:3]] == [
        "dense at equal steps (1 of 2)",
        "DiPaCo",
    ]
    assert "Dense at equal compute reaches 80.0 over 1 of the seeds: DiPaCo" in partial.caption


def test_rerouting_is_held_against_once_in_the_same_seeds() -> None:
    head, once, wide, narrow = reroute_table(comparison())
    assert head == ["method", "path chosen", "seed 0", "seed 1", "mean", "range", "/ once"]
    assert once == ["DiPaCo", "once", "200.0", "-", "200.0 (1 of 2)", "-", "1.000"]
    assert wide[1:3] == ["every 128 tokens", "200.0"]
    assert narrow[1:] == ["every 64 tokens", "220.0", "-", "220.0 (1 of 2)", "-", "1.100"]


def test_no_table_is_shown_without_its_caption() -> None:
    console = Console(record=True, width=400)
    print_comparison(comparison(), console)
    for text in (console.export_text(), markdown(comparison())):
        words = " ".join(text.split())
        assert words.count("DiPaCo buys wall clock and memory, not FLOPs") == 3
    untouched = msgspec.structs.replace(comparison(), reroute_rows=())
    assert "within a document" not in markdown(untouched)


def test_markdown_tables_are_rectangular() -> None:
    for part in markdown(comparison()).split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1
