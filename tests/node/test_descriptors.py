"""Rules of this file: the limit of this process is set, and put back."""

import resource
from collections.abc import Iterator

import pytest

from dipaco.node.descriptors import LEAST, WANTED, raise_limit, shortage


@pytest.fixture(autouse=True)
def limit_as_it_was() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_is_raised_and_a_high_one_is_kept() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert raise_limit() == WANTED == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED + 1, hard))
    assert raise_limit() == WANTED + 1


def test_a_limit_below_what_a_node_needs_is_told_with_its_cure() -> None:
    assert shortage(LEAST) is None
    assert "only 511 files may be open" in str(shortage(LEAST - 1))
    assert "ulimit -n" in str(shortage(LEAST - 1))
