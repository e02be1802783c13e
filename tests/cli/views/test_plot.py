"""Rules of this file: the results are made up; the picture is looked at as matplotlib has it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from dipaco.cli.views.plot import STYLES, draw, figure_of
from dipaco.node.compare.variants import METHODS
from tests.node.compare.made_up import comparison


@pytest.fixture
def figure() -> Iterator[Figure]:
    yield figure_of(comparison())


def test_curves_are_means_over_the_runs_against_steps_and_against_tokens(figure: Figure) -> None:
    left, right = figure.axes
    labels = [
        *("dense at equal steps (283)", "flat MoE (110, 1 run)", "DiPaCo, shared stem (155)"),
    ]
    assert [line.get_label() for line in left.get_lines()] == labels
    assert left.get_xlabel() == "steps per path"
    assert right.get_xlabel().startswith("tokens trained on, all paths together")
    assert left.get_ylabel() == "routed validation perplexity"
    for axes, places in ((left, [10, 20, 30]), (right, [1.0, 2.0, 3.0])):
        *_, dipaco = axes.get_lines()
        assert np.asarray(dipaco.get_xdata()).tolist() == places
        assert np.asarray(dipaco.get_ydata()).tolist() == pytest.approx([900.0, 450.0, 160.0])
        band = np.asarray(axes.collections[2].get_paths()[0].vertices)
        assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((120.0, 900.0))


def test_the_picture_says_what_equal_compute_gives_and_how_many_runs(figure: Figure) -> None:
    said = " ".join(figure.get_supxlabel().split())
    assert "DiPaCo buys wall clock and memory, not FLOPs" in said
    assert "Mean of 2 runs; bands are their range." in said


def test_the_picture_is_a_png_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(comparison(), tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (1210, 594)


def test_every_method_has_a_style_of_its_own() -> None:
    assert set(STYLES) == set(METHODS)
    assert len(set(STYLES.values())) == len(STYLES)
