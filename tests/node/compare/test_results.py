"""Rules of this file: results are made up; they are written, read back, and refused."""

from math import inf
from pathlib import Path

import pytest

from dipaco.node.compare.folder import SeedFolder
from dipaco.node.compare.results import (
    Loss,
    Start,
    TrialResult,
    chosen,
    perplexity,
    read_result,
    write_result,
)
from dipaco.node.compare.summary import Comparison
from dipaco.protocol.errors import ConfigError
from tests.node.compare.made_up import comparison, loss, result, start, trial
from tests.values import manifest


def test_perplexity_is_weighted_by_tokens_over_all_shards() -> None:
    assert perplexity([loss(0, 100.0, 300), loss(1, 10.0, 100)]) == pytest.approx(10**1.75)
    assert loss(0, 100.0).perplexity == pytest.approx(100.0)


def test_nothing_scored_is_no_perplexity_and_no_crash() -> None:
    assert perplexity([]) == inf
    assert Loss(shard=0, documents=0, tokens=0, nll=0.0).perplexity == inf
    assert perplexity([Loss(shard=0, documents=1, tokens=1, nll=1e9)]) < inf


def test_rates_are_chosen_by_the_half_that_no_table_shows() -> None:
    low, high = (
        result("dipaco", 0, 100.0, lr=1e-3, choice=300.0),
        result("dipaco", 0, 150.0, lr=2e-3, choice=200.0),
    )
    assert chosen([low, high]) == high


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_result(tmp_path / "a", comparison())
    assert read_result(tmp_path / "a", Comparison) == comparison()


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b'{"run": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dense.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"dense\.json: not a result of a comparison"):
        read_result(tmp_path / "dense.json", TrialResult)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = SeedFolder(tmp_path, manifest())
    assert folder.start() is None and folder.results() == []
    write_result(folder.start_file, start(0))
    with pytest.raises(ConfigError, match=r"start\.json is of another run \(abababab\)"):
        folder.start()
    write_result(folder.trial_file(trial("dense")), result("dense", 0, 10.0))
    with pytest.raises(ConfigError, match="choose another folder"):
        folder.result(trial("dense"))


def test_the_kind_of_a_file_is_checked(tmp_path: Path) -> None:
    write_result(tmp_path / "a", result("dense", 0, 10.0))
    with pytest.raises(ConfigError, match="not a result"):
        read_result(tmp_path / "a", Start)
