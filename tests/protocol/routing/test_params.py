"""Rules of this file: bounds are the recipe's; each must be refused by the field's name."""

from dataclasses import fields, replace
from typing import Any

import pytest

from dipaco.protocol.routing.params import MAX_DOCUMENT_BYTES, MAX_SAMPLE, RouterParams
from dipaco.protocol.run.exactness import EXACT_FLOAT64
from tests.protocol.routing.doubles import PARAMS

DEFAULTS = replace(PARAMS, paths=16, sample=1 << 20, prefix=32, dimension=256, min_tokens=40)


@pytest.mark.parametrize(
    "field", [field.name for field in fields(RouterParams) if "capacity" not in field.name]
)
@pytest.mark.parametrize("value", [-1, 10**12])
def test_a_number_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PARAMS, **{field: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dimension": 12}, "dimension 12 is not a multiple of 8"),
        ({"min_tokens": 5}, "min_tokens 5 is below the prefix of 6"),
        ({"max_tokens": 13}, "max_tokens 13 is below min_tokens 14"),
        ({"max_bytes": 99}, "max_bytes 99 is below prefix_bytes"),
        ({"validation_bp": 9500}, "leave no training documents"),
        ({"overlap": 5}, "overlap 5 is above the 4 paths"),
        ({"capacity": (4, 5)}, "capacity 4/5"),
        ({"capacity": (1, 0)}, "capacity 1/0"),
        ({"capacity": (2000, 1)}, "capacity 2000/1"),
        ({"capacity_in_tokens": True}, "capacity_in_tokens without a capacity"),
        ({"dimension": 72, "featurizer": "idf-svd-v1"}, "dimension 72 is above 64"),
        ({"dimension": 256, "norm_bits": 12, "scale_bits": 10}, "leave exact arithmetic"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(PARAMS, **changes)


def test_the_defaults_stay_below_every_bound_of_exactness() -> None:
    d, x, s, n = 256, 1 << 10, 1 << 8, 1 << 20
    assert (DEFAULTS.bound, DEFAULTS.scale) == (x, s)
    assert DEFAULTS.max_score == d * (s * x) ** 2 + 2 * s * d * x * (s * x) == 3 << 44
    assert DEFAULTS.max_score + DEFAULTS.max_bias < EXACT_FLOAT64 == 2**53
    assert n * x < 2**53
    assert 2 * s * n * x < 2**63
    assert n * 4 * d * x**2 < 2**63
    assert MAX_SAMPLE * (MAX_DOCUMENT_BYTES + 1) < 2**53  # weights of a capacity in tokens


def test_the_96_bytes_of_the_seed_hold_every_number_in_order() -> None:
    packed = DEFAULTS.pack()
    numbers = [int.from_bytes(packed[i : i + 8], "little") for i in range(0, 96, 8)]
    assert len(packed) == 96
    assert numbers == [16, 1 << 20, 32, 256, 10, 8, 20, 3, 100, 40, 1000, 500]
