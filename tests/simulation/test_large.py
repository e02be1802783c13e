"""The large universe, made small; `python -m tests.simulation --large` runs it whole."""

from tests.simulation.large import measure


def test_a_universe_with_nodes_that_die_is_measured() -> None:
    found = measure(1, nodes=21, grid=(1, 2), rounds=2)
    assert (found.nodes, found.paths, found.gone) == (21, 2, 2)
    assert found.leases >= 1 + 2 * 2 and found.scheduler_cpu_seconds > 0
    assert found.unavailable == "" and f"{found.leases} leases" in found.text()
