"""Rules of this file: results are made up; what follows from them was done by hand."""

from math import inf
from pathlib import Path

import pytest
from msgspec.structs import replace

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.results import (
    Comparison,
    Loss,
    MethodResult,
    Start,
    by_size,
    caption,
    perplexity,
    read_result,
    summarise,
    write_result,
)
from dipaco.protocol.errors import ConfigError
from tests.node.compare.made_up import TITLES, comparison, loss, point, result, start
from tests.values import manifest


def test_perplexity_is_weighted_by_tokens_over_all_shards() -> None:
    assert perplexity([loss(0, 100.0, 300), loss(1, 10.0, 100)]) == pytest.approx(10**1.75)
    assert loss(0, 100.0).perplexity == pytest.approx(100.0)


def test_nothing_scored_is_no_perplexity_and_no_crash() -> None:
    assert perplexity([]) == inf
    assert Loss(shard=0, documents=0, tokens=0, nll=0.0).perplexity == inf
    assert perplexity([Loss(shard=0, documents=1, tokens=1, nll=1e9)]) < inf


def test_a_row_has_mean_range_and_the_ratio_to_dense_within_each_seed() -> None:
    dense, dipaco, flat = comparison().rows
    assert [row.method for row in (dense, dipaco, flat)] == ["dense", "dipaco", "flat-moe"]
    assert dipaco.perplexities == pytest.approx({0: 200.0, 1: 120.0})
    assert (dipaco.mean, dipaco.lowest, dipaco.highest) == pytest.approx((160.0, 120.0, 200.0))
    assert dipaco.ratios == pytest.approx({0: 0.5, 1: 0.6})
    assert dense.ratios == {0: 1.0, 1: 1.0}
    assert list(flat.perplexities) == [1]


def test_without_dense_there_is_no_ratio() -> None:
    found = summarise("x", TITLES, [start(0), start(1)], [result("dipaco", 0, 50.0)])
    assert [row.ratios for row in found.rows] == [{}]


def test_no_figure_is_shown_without_what_equal_compute_gives() -> None:
    assert "was not trained here" in comparison().caption
    (row,) = summarise(
        "x", {"dense-compute": "dense"}, [start(0)], [result("dense-compute", 0, 90.0)]
    ).rows
    assert caption([row]).startswith("Dense at equal compute reaches 90.0: DiPaCo buys wall clock")


def test_shards_are_ranked_by_size_because_their_numbers_mean_nothing_across_seeds() -> None:
    assert by_size(start(0).shards) == [1, 0]
    assert by_size(start(0, tokens=(5, 5)).shards) == [0, 1]
    first = replace(result("dipaco", 0), points=(point(2, loss(0, 10.0), loss(1, 20.0)),))
    second = replace(result("dipaco", 1), points=(point(2, loss(0, 40.0), loss(1, 50.0)),))
    starts = [start(0, tokens=(1, 2)), start(1, tokens=(2, 1))]
    (row,) = summarise("x", TITLES, starts, [first, second]).rows
    assert row.shards == pytest.approx(((20.0 + 40.0) / 2, (10.0 + 50.0) / 2))


def test_a_method_with_a_router_of_its_own_is_ranked_by_its_own_shards() -> None:
    own = start(0, tokens=(1, 2)).shards
    found = replace(
        result("dipaco", 0), points=(point(2, loss(0, 10.0), loss(1, 20.0)),), shards=own
    )
    (row,) = summarise("x", TITLES, [start(0, tokens=(2, 1))], [found]).rows
    assert row.shards == pytest.approx((20.0, 10.0))


def test_rerouting_stands_beside_routing_once_on_the_same_seeds() -> None:
    once, wide, narrow = comparison().reroute_rows
    assert [row.window for row in (once, wide, narrow)] == [None, 128, 64]
    assert once.perplexities == pytest.approx({0: 200.0}), "seed 1 was not re-routed"
    assert wide.ratios == pytest.approx({0: 1.0})
    assert narrow.ratios == pytest.approx({0: 1.1})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_result(tmp_path / "a", comparison())
    assert read_result(tmp_path / "a", Comparison) == comparison()


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"run": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dense.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"dense\.json: not a result of a comparison"):
        read_result(tmp_path / "dense.json", MethodResult)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = SeedFolder(tmp_path, manifest())
    assert folder.start() is None
    write_result(folder.start_file, start(0))
    with pytest.raises(ConfigError, match=r"start\.json is of another run \(abababab\)"):
        folder.start()
    write_result(folder.method_file("dense"), result("dense", 0, 10.0))
    with pytest.raises(ConfigError, match="choose another folder"):
        folder.result("dense")


def test_the_kind_of_a_file_is_checked(tmp_path: Path) -> None:
    write_result(tmp_path / "a", result("dense", 0, 10.0))
    with pytest.raises(ConfigError, match="not a result"):
        read_result(tmp_path / "a", Start)
