"""The table of kinds against the wire's unions, and against the rest of the product."""

import ast
from pathlib import Path
from typing import get_args

import pytest

import dipaco.node.daemon
from dipaco.node.kinds.base import Kind
from dipaco.node.kinds.table import KINDS, kind_of, work_of
from dipaco.protocol.work.kinds import Lease, Result
from tests.golden.values import values

ROOT = Path(dipaco.node.daemon.__file__).parent.parent
LEASES = {
    type(lease): lease for each in values().values() for lease in each if isinstance(lease, Lease)
}


def test_every_kind_of_lease_and_result_has_its_place() -> None:
    assert {kind.lease_type for kind in KINDS} == set(get_args(Lease)) == set(LEASES)
    assert {kind.result_type for kind in KINDS} == set(get_args(Result))
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.name))
def test_a_lease_leads_to_its_kind_and_its_work(kind: Kind) -> None:  # type: ignore[type-arg]
    lease = LEASES[kind.lease_type]
    assert kind_of(lease) is kind and work_of(lease).kind is kind
    assert kind.text(lease)


def test_no_kind_is_compared_by_its_name() -> None:
    """A string of a kind's name stands where the kind is defined, and is compared nowhere."""
    names = {kind.name for kind in KINDS}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for top in ("node", "protocol")
        for path in sorted((ROOT / top).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(part, ast.Attribute) and part.attr in ("kind", "name")
            for part in (node.left, *node.comparators)
        )
        and any(
            isinstance(constant, ast.Constant) and constant.value in names
            for part in (node.left, *node.comparators)
            for constant in ast.walk(part)
        )
    ]
    assert not wrong
