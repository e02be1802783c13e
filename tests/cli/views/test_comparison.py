"""Rules of this file: the results are made up."""

import msgspec
from rich.console import Console

from dipaco.cli.views.comparison import (
    label_table,
    main_table,
    markdown,
    order_table,
    print_comparison,
    rate_table,
    reroute_table,
    shard_table,
)
from dipaco.node.compare.summary import summarise
from tests.node.compare.made_up import comparison, result, start


def test_the_main_table_says_rates_runs_units_and_ratios_with_intervals() -> None:
    head, seed_model, dense, flat, dipaco = main_table(comparison())
    assert head[5:] == [
        *("rates", "runs", "perplexity (of 4,096)", "range", "bits per byte"),
        *("/ dense, equal steps", "/ DiPaCo"),
    ]
    assert seed_model[4:8] == ["1M", "", "2", "900.0"]
    assert dense[5:10] == ["0.001", "2", "282.8", "200.0 to 400.0", "2.715"]
    assert dense[10] == "1" and dipaco[11] == "1"
    assert dipaco[1:6] == ["4x", "2.11M", "1.32M", "3M", "0.001, 0.7"]
    assert dipaco[10].startswith("0.548 (0.") and not dipaco[10].endswith("=")
    assert flat[8] == "-" and flat[10].startswith("0.275 (0.")


def test_what_cannot_be_told_apart_is_said_in_the_cell() -> None:
    same = [result(method, seed, 100.0) for method in ("dense", "dipaco") for seed in (0, 1)]
    *_, dipaco = main_table(summarise("x", [start(0), start(1)], same))
    assert dipaco[10] == "1.000 (1.000 to 1.000) ="


def test_a_ratio_over_fewer_runs_than_the_row_has_says_over_how_many() -> None:
    results = [result("dense", 0, 400.0), result("dipaco", 0, 200.0), result("dipaco", 1, 90.0)]
    *_, dipaco = main_table(summarise("x", [start(0), start(1)], results))
    assert dipaco[10].endswith(" (1 of 2)")


def test_rates_that_were_tried_stand_in_a_table_of_their_own() -> None:
    tried = [
        result("dipaco", 0, 100.0, lr=1e-3, choice=300.0),
        result("dipaco", 0, 120.0, lr=2e-3, choice=200.0),
    ]
    found = summarise("x", [start(0)], [*tried, result("dense", 0, 90.0)])
    assert rate_table(found)[1:] == [
        ["DiPaCo, shared stem", "0.001, 0.7", "300.0", ""],
        ["DiPaCo, shared stem", "0.002, 0.7", "200.0", "yes"],
    ]
    assert main_table(found)[-1][5] == "0.002, 0.7*", "at the edge of the rates tried"
    assert rate_table(comparison())[1:] == []


def test_labels_have_rows_and_methods_columns() -> None:
    head, news, code = label_table(comparison())
    assert head[:4] == ["domain", "documents", "bytes", "dense at equal steps"]
    assert news[:3] == ["news", "2", "300"] and code[:3] == ["code", "1", "150"]
    assert news[3:] == code[3:], "the made-up losses do not differ by document"


def test_the_spread_by_order_is_shown_where_it_was_measured() -> None:
    results = [result("dipaco", 0, 100.0), result("dipaco", 0, 110.0, repeat=1)]
    (row,) = order_table(summarise("x", [start(0)], results))[1:]
    assert row == ["DiPaCo, shared stem", "2", "6.74 %"]


def test_rerouting_is_held_against_once_in_the_same_seeds() -> None:
    head, once, wide, narrow = reroute_table(comparison())
    assert head == ["method", "path chosen", "seed 0", "seed 1", "mean", "range", "/ once"]
    name = "DiPaCo, shared stem"
    assert once == [name, "once", "200.0", "-", "200.0 (1 of 2)", "-", "1.000"]
    assert wide[1:3] == ["every 128 tokens", "200.0"]
    assert narrow[1:] == ["every 64 tokens", "220.0", "-", "220.0 (1 of 2)", "-", "1.100"]


def test_the_shards_of_every_method_are_shown() -> None:
    rows = [line[0] for line in shard_table(comparison())[1:]]
    assert rows[:3] == ["dense at equal steps", "flat MoE", "DiPaCo, shared stem"]


def test_no_table_is_shown_without_its_caption() -> None:
    console = Console(record=True, width=400)
    print_comparison(comparison(), console)
    for text in (console.export_text(), markdown(comparison())):
        words = " ".join(text.split())
        assert words.count("DiPaCo buys wall clock and memory, not FLOPs") == 4
        assert words.count("cannot be told apart from it: the interval holds 1") == 1
    untouched = msgspec.structs.replace(comparison(), reroute_rows=())
    assert "within a document" not in markdown(untouched)


def test_markdown_tables_are_rectangular() -> None:
    for part in markdown(comparison()).split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1
