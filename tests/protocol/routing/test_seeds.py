"""Rules of this file: seeds depend on everything they should, and on nothing else."""

from collections import Counter
from dataclasses import replace

import pytest

from dipaco.protocol.routing.seeds import (
    Split,
    featurizer_seed,
    kmeans_seed,
    router_root,
    source_digest,
    split_of,
    split_residue,
)
from dipaco.protocol.wire.digest import Digest, TaggedU64, sha256, tagged, u64
from tests.protocol.routing.doubles import PARAMS

SOURCE = source_digest("files", "r1", [("a", 1, sha256(b"a")), ("b", 2, sha256(b"b"))])
TOKENIZER = sha256(b"tokenizer")


def test_a_source_is_its_kind_revision_and_files_in_order() -> None:
    a, b = ("a", 1, sha256(b"a")), ("b", 2, sha256(b"b"))
    others = {
        source_digest("embedded", "r1", [a, b]),
        source_digest("files", "r2", [a, b]),
        source_digest("files", "r1", [b, a]),
        source_digest("files", "r1", [a]),
        source_digest("files", "r1", [("a", 2, sha256(b"a")), b]),
        source_digest("files", "r1", [("a", 1, sha256(b"x")), b]),
        source_digest("files", "r1", [("c", 1, sha256(b"a")), b]),
    }
    assert len(others | {SOURCE}) == 8
    assert source_digest("files", "r1", iter([a, b])) == SOURCE


@pytest.mark.parametrize(
    "name",
    [
        "paths",
        "sample",
        "prefix",
        "norm_bits",
        "scale_bits",
        "max_updates",
        "restarts",
        "prefix_bytes",
        "min_tokens",
        "validation_bp",
        "router_bp",
    ],
)
def test_every_routing_number_moves_the_root(name: str) -> None:
    moved = replace(PARAMS, **{name: getattr(PARAMS, name) + 1})
    assert router_root(SOURCE, TOKENIZER, moved, b"") != router_root(SOURCE, TOKENIZER, PARAMS, b"")


def test_source_tokenizer_dimension_and_beacon_move_the_root() -> None:
    roots = {
        router_root(SOURCE, TOKENIZER, PARAMS, b""),
        router_root(TOKENIZER, SOURCE, PARAMS, b""),
        router_root(SOURCE, TOKENIZER, replace(PARAMS, dimension=40), b""),
        router_root(SOURCE, TOKENIZER, PARAMS, b"beacon"),
    }
    assert len(roots) == 4


def test_epochs_and_restarts_have_seeds_of_their_own() -> None:
    root = router_root(SOURCE, TOKENIZER, PARAMS, b"")
    seeds = {kmeans_seed(root, epoch, restart) for epoch in range(3) for restart in range(3)}
    assert len(seeds | {featurizer_seed(root), root}) == 11


def test_splits_have_their_shares_and_follow_the_residue() -> None:
    shares = Counter(split_of(SOURCE, i, validation_bp=1000, router_bp=500) for i in range(20_000))
    assert 1850 < shares[Split.VALIDATION] < 2150
    assert 900 < shares[Split.ROUTER] < 1100
    for i in range(200):
        residue = split_residue(SOURCE, i)
        validation = split_of(SOURCE, i, validation_bp=residue + 1, router_bp=0)
        router = split_of(SOURCE, i, validation_bp=residue, router_bp=1)
        training = split_of(SOURCE, i, validation_bp=0, router_bp=residue)
        assert (validation, router, training) == (Split.VALIDATION, Split.ROUTER, Split.TRAINING)


def test_the_split_is_salted_by_the_source() -> None:
    other = Digest(bytes(32))
    assert [split_residue(SOURCE, i) for i in range(9)] != [
        split_residue(other, i) for i in range(9)
    ]


def test_a_tag_with_a_counter_is_the_tag_with_its_parts() -> None:
    for part in (b"", b"x", bytes(32)):
        counted = TaggedU64("dipaco/1/split", part)
        for value in (0, 1, 255, 1 << 40, (1 << 64) - 1):
            assert counted(value) == tagged("dipaco/1/split", part, u64(value))
