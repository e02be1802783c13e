"""Rules of this file: results are made up; what follows from them was done by hand."""

from math import inf, log, log2

import pytest
from msgspec.structs import replace

from dipaco.node.compare.results import TrialResult
from dipaco.node.compare.summary import (
    Row,
    by_size,
    caption,
    mean_if_scored,
    runs_of,
    summarise,
)
from tests.node.compare.made_up import comparison, loss, point, result, start


def row_of(*results: TrialResult, method: str = "dipaco") -> Row:
    (found,) = (
        row for row in summarise("x", [start(0), start(1)], results).rows if row.method == method
    )
    return found


def test_a_row_has_every_run_its_geometric_mean_and_its_range() -> None:
    dense, flat, dipaco = comparison().rows
    assert [row.method for row in (dense, flat, dipaco)] == ["dense", "flat-moe", "dipaco"]
    assert [run.perplexity for run in dipaco.runs] == pytest.approx([200.0, 120.0])
    assert dipaco.perplexity == pytest.approx((200.0 * 120.0) ** 0.5)
    assert (dipaco.lowest, dipaco.highest) == pytest.approx((120.0, 200.0))
    assert [run.seed for run in flat.runs] == [0]


def test_bits_per_byte_count_the_bytes_that_the_scored_tokens_stand_for() -> None:
    assert row_of(result("dipaco", 0, 64.0)).bits_per_byte == pytest.approx(log2(64.0) / 3)


def test_labels_have_their_own_bits_per_byte_the_one_with_most_bytes_first() -> None:
    found = comparison()
    assert [(e.label, e.documents, e.bytes) for e in found.labels] == [
        ("news", 2, 300),
        ("code", 1, 150),
    ]
    row = found.rows[0]
    mean = (log(400.0) + log(200.0)) / 2
    assert row.labels == pytest.approx({"news": mean / log(2) / 3, "code": mean / log(2) / 3})


def test_a_ratio_is_of_common_runs_and_the_reference_has_none_to_itself() -> None:
    dense, flat, dipaco = comparison().rows
    assert dipaco.ratios["dense"].mean == pytest.approx((0.5 * 0.6) ** 0.5)
    assert dipaco.ratios["dense"].runs == 2
    assert flat.ratios["dense"].runs == 1
    assert flat.ratios["dense"].mean == pytest.approx(110 / 400)
    assert "dense" not in dense.ratios and "dipaco" in dense.ratios
    assert row_of(result("dipaco", 0, 50.0)).ratios == {}


def test_rates_are_chosen_once_and_only_runs_at_them_are_shown() -> None:
    row = row_of(
        result("dipaco", 0, 100.0, lr=1e-3, choice=300.0),
        result("dipaco", 0, 120.0, lr=2e-3, choice=200.0),
        result("dipaco", 0, 130.0, lr=4e-3, choice=250.0),
        result("dipaco", 1, 140.0, lr=2e-3, choice=900.0),
        result("dipaco", 1, 10.0, lr=1e-3, choice=1.0),
    )
    assert row.lr == 2e-3
    assert [run.perplexity for run in row.runs] == pytest.approx([120.0, 140.0])
    assert [each.perplexity for each in row.tried] == pytest.approx([300.0, 200.0, 250.0])
    assert not row.at_edge


@pytest.mark.parametrize(("rates", "edge"), [((1e-3,), False), ((1e-3, 2e-3), True)])
def test_the_best_of_the_rates_at_an_edge_is_marked(rates: tuple[float, ...], edge: bool) -> None:
    tried = [result("dipaco", 0, 100.0 + i, lr=lr) for i, lr in enumerate(rates)]
    assert row_of(*tried).at_edge is edge


def test_the_best_outer_rate_at_an_edge_is_marked_too() -> None:
    tried = [result("dipaco", 0, 100.0 + i, outer_lr=o) for i, o in enumerate((0.4, 0.7))]
    assert row_of(*tried).at_edge


def test_the_spread_by_order_is_within_a_seed() -> None:
    row = row_of(
        result("dipaco", 0, 100.0),
        result("dipaco", 0, 110.0, repeat=1),
        result("dipaco", 1, 200.0),
        result("dipaco", 1, 220.0, repeat=1),
    )
    assert row.order_spread == pytest.approx(log(1.1) / 2**0.5)
    assert row_of(result("dipaco", 0, 1.0), result("dipaco", 1, 9.0)).order_spread is None


def test_a_method_without_a_result_in_the_first_seed_has_no_row() -> None:
    found = summarise("x", [start(0), start(1)], [result("dipaco", 1, 90.0)])
    assert found.rows == ()
    assert runs_of("dipaco", [result("dipaco", 1, 90.0)], [start(0), start(1)]) == []


def test_no_figure_is_shown_without_what_equal_compute_gives() -> None:
    assert "was not trained here" in comparison().caption
    row = row_of(result("dense-compute", 0, 90.0), method="dense-compute")
    assert caption([row]).startswith("Dense at equal compute reaches 90.0: DiPaCo buys wall clock")


def test_a_shard_without_a_held_out_document_has_no_perplexity() -> None:
    assert mean_if_scored([20.0, inf, 40.0]) == 30.0
    assert mean_if_scored([inf, inf]) is None


def test_shards_are_ranked_by_size_because_their_numbers_mean_nothing_across_seeds() -> None:
    assert by_size(start(0).shards) == [1, 0]
    assert by_size(start(0, tokens=(5, 5)).shards) == [0, 1]
    first = replace(result("dipaco", 0, 1.0), points=(point(2, loss(0, 10.0), loss(1, 20.0)),))
    second = replace(result("dipaco", 1, 1.0), points=(point(2, loss(0, 40.0), loss(1, 50.0)),))
    starts = [start(0, tokens=(1, 2)), start(1, tokens=(2, 1))]
    (row,) = summarise("x", starts, [first, second]).rows
    assert row.shards == pytest.approx(((20.0 + 40.0) / 2, (10.0 + 50.0) / 2))


def test_a_method_with_a_router_of_its_own_is_ranked_by_its_own_shards() -> None:
    own = start(0, tokens=(1, 2)).shards
    found = replace(
        result("dipaco", 0, 1.0), points=(point(2, loss(0, 10.0), loss(1, 20.0)),), shards=own
    )
    (row,) = summarise("x", [start(0, tokens=(2, 1))], [found]).rows
    assert row.shards == pytest.approx((20.0, 10.0))


def test_rerouting_stands_beside_routing_once_on_the_same_seeds() -> None:
    once, wide, narrow = comparison().reroute_rows
    assert [row.window for row in (once, wide, narrow)] == [None, 128, 64]
    assert once.perplexities == pytest.approx({0: 200.0}), "seed 1 was not re-routed"
    assert wide.ratios == pytest.approx({0: 1.0})
    assert narrow.ratios == pytest.approx({0: 1.1})
