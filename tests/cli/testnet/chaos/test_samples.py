"""Rules of this file: samples are made up; no process is measured."""

import pytest

from dipaco.cli.testnet.chaos.samples import BOUNDS, ends, growths
from dipaco.cli.views.chaos import Sample


def sample(time: float, *, start: int = 1, daemon: float = 1e8, journal: float = 0.0) -> Sample:
    return Sample(
        time=time,
        node="node-1",
        start=start,
        daemon=round(daemon),
        worker=0,
        descriptors=20,
        threads=5,
        journal=round(journal),
        blobs=0,
        cache=0,
        sent=0,
        received=0,
    )


def not_flat(samples: list[Sample], records: int = 0) -> list[str]:
    found = list(growths(samples, least_seconds=900.0, records=records))
    assert len(found) == len(BOUNDS) + 1
    return [each.what for each in found if not each.flat]


def test_what_grows_beyond_its_bound_is_named() -> None:
    leak = 2 * BOUNDS["daemon"] / 1200  # bytes a second; the settled part lasts 1,200 s
    samples = [sample(10.0 * n, daemon=1e8 + leak * 10.0 * n) for n in range(181)]
    assert not_flat(samples) == ["daemon"]
    samples = [sample(10.0 * n, daemon=1e8 + 0.4 * leak * 10.0 * n) for n in range(181)]
    assert not_flat(samples) == []


def test_filling_up_at_the_start_and_a_peak_are_no_growth() -> None:
    samples = [sample(10.0 * n, daemon=1e8 + min(n, 50) * 1e6) for n in range(181)]
    samples[-1] = sample(1810.0, daemon=9e9)
    assert not_flat(samples) == []


def test_the_journal_may_grow_with_the_ledger() -> None:
    samples = [sample(10.0 * n, journal=1e5 * n) for n in range(181)]
    assert not_flat(samples, records=2000) == []
    assert not_flat(samples, records=20) == ["journal"]


def test_a_process_that_ran_for_a_short_time_is_not_judged() -> None:
    short = [sample(10.0 * n, start=2, daemon=1e9 * n) for n in range(60)]
    assert list(growths(short, least_seconds=900.0, records=0)) == []


def test_the_fitted_line_goes_through_the_points() -> None:
    points = [(float(n), 3.0 * n + 1.0) for n in range(1000)]
    assert ends(points) == pytest.approx((1.0, 2998.0))
