"""Rules of this file: every bound is tried on both sides, every rule between fields by breaking
it alone; the message names the field."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from dipaco.protocol.errors import RemoteProtocolError
from dipaco.protocol.routing.seeds import Split, split_of
from dipaco.protocol.run.manifest import (
    MAX_NODES_LISTED,
    Capacity,
    Manifest,
    Reshard,
    Scheduling,
    run_id,
)
from dipaco.protocol.run.model_shape import MAX_BLOCKS, MAX_PATHS, Grid, Level
from dipaco.protocol.run.source import MAX_FILES, SourceFile
from dipaco.protocol.wire.canonical import Wire, decode, encode
from dipaco.protocol.wire.digest import sha256
from dipaco.protocol.wire.signed import MAX_BODY
from tests.values import digest, manifest, peer

FILE = SourceFile(name="a.parquet", size=10, sha256=digest("a"), rows=400)
ONE_FILE: dict[str, Any] = {"kind": "files", "files": (FILE,)}
HUB = ONE_FILE | {
    "kind": "hub",
    "revision": "0" * 39 + "f",
    "dataset": "owner/books",
    "config": "default",
    "split": "train",
}
PLAIN = manifest()


def with_parts(**parts: dict[str, Any]) -> Manifest:
    """Return the plain manifest with fields of its parts replaced."""
    return replace(PLAIN, **{name: replace(getattr(PLAIN, name), **f) for name, f in parts.items()})


def large(documents: int, window: int) -> Manifest:
    return with_parts(source={"documents": documents, "window": window})


def resharding(plain: Manifest | None = None, **changes: Any) -> Manifest:
    """Return a run of two windows that re-shards after round 1; `changes` of it or its router."""
    plain = plain or large(400, 200)
    own = {k: v for k, v in changes.items() if k in Reshard.__struct_fields__}
    reshard = Reshard(**{"after_round": 1, "windows": 2} | own)
    others = {k: v for k, v in changes.items() if k not in own}
    routing = replace(plain.routing, **{"router_bp": 500, "reshard": reshard} | others)
    return replace(plain, routing=routing)


def levels(*experts: int, blocks: int = 1) -> Grid:
    return Grid(
        levels=tuple(Level(experts=e, blocks=blocks) for e in experts), path_specific_blocks=()
    )


def test_the_run_id_is_the_digest_of_the_whole_manifest() -> None:
    assert run_id(PLAIN) == sha256(encode(PLAIN))
    assert decode(encode(PLAIN), Manifest, limit=MAX_BODY) == PLAIN


def test_two_manifests_that_differ_in_any_number_are_two_runs() -> None:
    changed = [*one_number_changed(PLAIN)]
    assert len({run_id(PLAIN), *map(run_id, changed)}) == len(changed) + 1 > 25


def one_number_changed(plain: Manifest) -> Iterator[Manifest]:
    for part in msgspec.structs.fields(Manifest):
        held = getattr(plain, part.name)
        fields = msgspec.structs.fields(type(held)) if isinstance(held, Wire) else ()
        for field in fields:
            given = getattr(held, field.name)
            if isinstance(given, int | float) and not isinstance(given, bool):
                yield replace(plain, **{part.name: changed_number(held, field.name, given)})


def changed_number(part: Wire, name: str, given: float) -> Wire:
    for changed in (given + 1, given - 1, given / 2, given * 2, given + 8):
        try:
            return replace(part, **{name: changed})
        except ValueError:
            continue
    raise AssertionError(f"{type(part).__name__}.{name} has no other value")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: with_parts(source={"files": (FILE,)}), "files: a synthetic source has none"),
        (lambda: with_parts(source={"kind": "files"}), "every other at least one"),
        (lambda: with_parts(source={"kind": "embedded"}), "every other at least one"),
        (lambda: with_parts(source={"window": 401}), r"window: \d+ documents, more than"),
        (lambda: with_parts(source={"kind": "cloud", "files": (FILE,)}), "kind"),
        (
            lambda: with_parts(source={"documents": 401, **ONE_FILE}),
            r"documents: \d+, but the files hold",
        ),
        (lambda: with_parts(source={"split": "train"}), "dataset, config, split: .* has none"),
        (lambda: with_parts(source=HUB | {"revision": "main"}), "revision: not a commit of 40"),
        (lambda: with_parts(source=HUB | {"revision": "A" * 40}), "revision: not a commit of 40"),
        (lambda: with_parts(source=HUB | {"dataset": "books"}), "dataset: not owner/name"),
        (lambda: with_parts(source=HUB | {"dataset": "a/../b"}), "dataset: not owner/name"),
        (lambda: with_parts(source=HUB | {"config": ""}), "config, split"),
        (lambda: with_parts(source=HUB | {"split": "train[:9]"}), "config, split"),
        (lambda: with_parts(source=HUB | {"files": (replace(FILE, name="../a"),)}), "no path in"),
        (lambda: with_parts(source=HUB | {"files": (replace(FILE, name="/a"),)}), "no path in"),
        (lambda: with_parts(tokenizer={"end_of_text": 4096}), "end_of_text"),
        (lambda: with_parts(model={"heads": 3}), "heads: 3 do not divide d_model 16"),
        (lambda: with_parts(model={"heads": 16, "kv_heads": 16}), "rotary"),
        (lambda: with_parts(model={"kv_heads": 3}), "kv_heads: 3 do not divide heads 2"),
        (
            lambda: with_parts(model={"context": 32}),
            r"context: \d+, not longer than routing.prefix",
        ),
        (lambda: with_parts(routing={"min_tokens": 39}), r"min_tokens: \d+, below prefix"),
        (
            lambda: with_parts(routing={"min_tokens": 42, "scored_from": 35}),
            r"min_tokens: 42, below scored_from \+ 8 \(43\)",
        ),
        (lambda: with_parts(routing={"scored_from": 32}), r"scored_from: 32, not above prefix"),
        (lambda: with_parts(routing={"scored_from": 1}), "scored_from"),
        (lambda: replace(Capacity(num=5, den=4), unit="documents"), "unit"),  # is to be left out
        (
            lambda: with_parts(
                routing={"min_tokens": 72, "scored_from": 64}, model={"context": 64}
            ),
            "context: 64, not longer than routing.scored_from, 64",
        ),
        (lambda: with_parts(routing={"prefix_bytes": 63}), "prefix_bytes"),
        (lambda: with_parts(routing={"prefix_bytes": 64, "min_tokens": 65}), "min_tokens: above"),
        (lambda: with_parts(routing={"max_tokens": 39}), "max_tokens: below min_tokens"),
        (lambda: with_parts(routing={"max_bytes": 255}), "max_bytes: below prefix_bytes"),
        (lambda: with_parts(routing={"counts": "some"}), "counts"),
        (
            lambda: with_parts(routing={"validation_bp": 5000, "router_bp": 5000}),
            "validation_bp, router_bp: together they leave no training documents",
        ),
        (
            lambda: with_parts(routing={"dimension": 256, "norm_bits": 12, "scale_bits": 10}),
            "norm_bits, scale_bits: 12 and 10 leave exact arithmetic at a dimension of 256",
        ),
        (
            lambda: with_parts(routing={"featurizer": "idf-svd-v1", "dimension": 72}),
            "dimension: 72, at most 64 with featurizer idf-svd-v1",
        ),
        (lambda: with_parts(routing={"sample": 3}), r"sample: \d+, below the number of paths, 4"),
        (lambda: with_parts(routing={"overlap": 5}), "overlap: above the number of paths, 4"),
        (lambda: resharding(kind="round_robin"), "reshard: needs kind kmeans, and a router_bp"),
        (lambda: resharding(router_bp=0), "reshard: needs kind kmeans, and a router_bp above 0"),
        (lambda: resharding(after_round=2), "routing.reshard.after_round: no round of 2 follows"),
        (lambda: resharding(after_round=0), "after_round"),
        (lambda: resharding(windows=3), "routing.reshard.windows: the source has 2"),
        (lambda: resharding(candidates=1), "candidates"),
        (lambda: resharding(scorers=4), "scorers"),
        (lambda: resharding(tolerance=0), "tolerance"),
        (
            lambda: resharding(replace(PLAIN, grid=levels(1, 1)), windows=1),
            "routing.reshard: needs at least 2 paths",
        ),
        (
            lambda: resharding(large(1 << 27, 1 << 24), router_bp=5000),
            "routing.reshard.windows: with routing.router_bp they may have",
        ),
        (
            lambda: resharding(large(1 << 20, 16), windows=1025),
            "routing.reshard.windows: 1025 windows times 4 paths are more than 4096 score sheets",
        ),
        (lambda: with_parts(routing={"dimension": 60}), "multiple of 8"),
        (lambda: with_parts(routing={"dimension": 264}), "dimension"),
        (lambda: with_parts(routing={"validation_bp": 5001}), "validation_bp"),
        (lambda: with_parts(routing={"beacon": bytes(65)}), "beacon"),
        (lambda: with_parts(schedule={"schedulers": ()}), "schedulers"),
        (lambda: with_parts(schedule={"schedulers": ("nobody",)}), "schedulers"),
        (lambda: with_parts(schedule={"lease_ttl": 4}), "lease_ttl"),
        (lambda: with_parts(training={"rounds": 0}), "rounds"),
        (lambda: with_parts(training={"inner_state": "merge"}), "inner_state"),
        (lambda: with_parts(training={"precision": "f16"}), "precision"),
        (
            lambda: with_parts(training={"early_stopping": True}, routing={"validation_bp": 0}),
            "early_stopping: needs held-out documents, a routing.validation_bp above 0",
        ),
        (
            lambda: with_parts(training={"deltas": "topk", "inner_state": "reset"}),
            "topk carries what it leaves out",
        ),
        (lambda: replace(PLAIN, format=3), "format"),
        (lambda: replace(PLAIN, name=""), "name"),
        (lambda: replace(PLAIN, name="../etc"), "name"),
        (lambda: replace(PLAIN, name="a b"), "name"),
        (lambda: replace(PLAIN, name="tiny\n"), "name"),
        (lambda: replace(PLAIN, name="a" * 65), "name"),
        (lambda: replace(PLAIN, seed=-1), "seed"),
        (lambda: replace(PLAIN, owner="me"), "owner"),
        (lambda: Capacity(num=3, den=4), "num: below den"),
        (lambda: replace(FILE, size=-1), "size"),
        (lambda: replace(FILE, sha256=bytes(31)), "sha256"),
    ],
)
def test_what_cannot_be_is_refused_by_the_fields_name(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("specific", [(1, 0), (0, 0), (2,), (-1,)])
def test_path_specific_blocks_are_ascending_indices_of_blocks(specific: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="path_specific_blocks"):
        replace(levels(2, 2), path_specific_blocks=specific)
    assert replace(levels(2, 2), path_specific_blocks=(0, 1)).blocks == 2


def test_a_grid_has_at_most_so_many_paths() -> None:
    assert levels(32, 32).paths == MAX_PATHS
    with pytest.raises(ValueError, match="1056 paths, at most 1024"):
        levels(32, 33)
    with pytest.raises(ValueError, match="levels"):
        levels(*[256] * 8)
    with pytest.raises(ValueError, match="levels"):
        levels(*[1] * 9)


@pytest.mark.parametrize(
    ("documents", "window", "windows"), [(400, 400, 1), (401, 400, 2), (800, 400, 2), (5, 1, 5)]
)
def test_windows_cover_all_documents(documents: int, window: int, windows: int) -> None:
    source = replace(PLAIN.source, documents=documents, window=window)
    assert source.windows == windows


def test_a_row_is_named_by_its_file() -> None:
    files = tuple(
        SourceFile(name=n, size=1, sha256=digest(n), rows=r) for n, r in (("a", 3), ("b", 2))
    )
    source = replace(PLAIN.source, kind="files", files=files, documents=5, window=5)
    assert [source.place(index) for index in (2, 3, 4)] == ["a: row 2", "b: row 0", "b: row 1"]
    assert PLAIN.source.place(7) == "row 7", "a synthetic source has no files"


def test_the_largest_manifest_fits_its_envelope() -> None:
    """Of the longest lists with texts of usual length; the signature's limit bounds the rest."""
    name = "data/train/a-rather-long-name-of-a-part-00000-of-04096.parquet"
    files = tuple(replace(FILE, name=name, size=1 << 40) for _ in range(MAX_FILES))
    largest = with_parts(
        source={"kind": "files", "files": files},
        schedule={"members": (peer("a"),) * MAX_NODES_LISTED},
    )
    assert len(encode(largest)) < Manifest.MOST_BYTES // 2


def test_a_run_is_routed_anew_from_the_round_after_the_re_sharding() -> None:
    assert [resharding().epoch_of(round_) for round_ in range(3)] == [0, 0, 1]
    assert [PLAIN.epoch_of(round_) for round_ in range(3)] == [0, 0, 0]
    assert Reshard(after_round=1, tolerance=6).margin == 24


def test_a_window_has_far_fewer_router_documents_than_it_may_have() -> None:
    plain = resharding(large(1 << 16, 1 << 15))
    assert plain.most_scored == 2 * ((1 << 15) // 20) + 256
    splits = [split_of(digest("s"), d, validation_bp=0, router_bp=500) for d in range(1 << 15)]
    assert 2 * splits.count(Split.ROUTER) < plain.most_scored + 256
    assert resharding().most_scored == 200  # all that a small window has


def test_a_split_of_the_hub_is_a_source() -> None:
    source = with_parts(source=HUB).source
    assert (source.dataset, source.config, source.split) == ("owner/books", "default", "train")


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\nb", "\u202eb", "a\x9bm", "a\u2028b", "\u200b"])
@pytest.mark.parametrize("field", ["revision", "dataset", "config", "split", "text_field"])
def test_texts_of_a_source_can_be_printed(field: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: the text .* cannot be printed") as caught:
        replace(PLAIN.source, **{field: text})
    assert str(caught.value).isprintable()
    with pytest.raises(ValueError, match=r"name: the text .* cannot be printed"):
        replace(FILE, name=text)
    data = encode(PLAIN).replace(b"jtext_fielddtext", b"jtext_fieldd\x1b[2J", 1)
    assert data != encode(PLAIN)
    with pytest.raises(RemoteProtocolError, match="text_field"):
        decode(data, Manifest)


def test_letters_of_all_alphabets_are_names() -> None:
    assert replace(FILE, name="книга/本-1 (é).txt").name == "книга/本-1 (é).txt"


def test_a_module_and_a_run_have_at_most_so_many_parameters() -> None:
    with pytest.raises(ValueError, match=r"model: a module has .* at most 3900000000"):
        with_parts(model={"d_model": 16384, "d_ff": 65536})
    wide = replace(levels(256, 4), path_specific_blocks=(0,))
    with pytest.raises(ValueError, match=r"model: all modules have .* at most 1099511627776"):
        replace(PLAIN, grid=wide, model=replace(PLAIN.model, d_model=16384, d_ff=53248))


def test_a_grid_has_at_most_so_many_blocks() -> None:
    assert Grid(levels=(Level(experts=2, blocks=256),)).blocks == MAX_BLOCKS
    with pytest.raises(ValueError, match="257 blocks, at most 256"):
        Grid(levels=(Level(experts=2, blocks=256), Level(experts=2, blocks=1)))


def kept(count: int, **fields: Any) -> Scheduling:
    keepers = tuple(peer(f"keeper {number}") for number in range(count))
    return replace(PLAIN.schedule, **({"keepers": keepers} | fields))


@pytest.mark.parametrize(
    ("keepers", "quorum", "copies"), [(1, 1, 1), (2, 2, 2), (3, 2, 2), (4, 3, 2), (15, 8, 2)]
)
def test_a_quorum_is_more_than_half_of_the_keepers_and_two_hold_a_blob(
    keepers: int, quorum: int, copies: int
) -> None:
    schedule = kept(keepers)
    assert (schedule.keeper_quorum, schedule.blob_copies) == (quorum, copies)
    assert len(schedule.named_keepers) == keepers


def test_a_run_may_name_a_larger_quorum_and_other_copies() -> None:
    for quorum in (4, 5):
        for copies in (1, 3, 5):
            schedule = kept(5, quorum=quorum, copies=copies)
            assert (schedule.keeper_quorum, schedule.blob_copies) == (quorum, copies)
            made = replace(PLAIN, schedule=schedule)
            assert decode(encode(made), Manifest) == made


def test_a_run_of_before_keepers_has_none_and_keeps_its_bytes() -> None:
    schedule = PLAIN.schedule
    assert (schedule.named_keepers, schedule.keeper_quorum, schedule.blob_copies) == ((), 0, 0)
    for field in (b"keepers", b"quorum", b"copies"):
        assert field not in encode(schedule)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keepers": ()}, "keepers: an empty list"),
        ({"keepers": tuple(peer(f"{n}") for n in range(16))}, "keepers: .* 16"),
        ({"keepers": (peer("a"), peer("b"), peer("a"))}, "keepers: a peer is named twice"),
        ({"quorum": 4}, "quorum: 4, above the number of keepers, 3"),
        ({"quorum": 1}, "quorum: 1 of 3 keepers, not more than half"),
        ({"quorum": 0}, "quorum: 0"),
        ({"quorum": 2}, "quorum: 2 is what 3 keepers have if it is left out"),
        ({"copies": 4}, "copies: 4, above the number of keepers, 3"),
        ({"copies": 0}, "copies: 0"),
        ({"copies": 2}, "copies: 2 is what 3 keepers have if it is left out"),
        ({"keepers": msgspec.UNSET, "quorum": 1}, "quorum: the run has no keepers"),
        ({"keepers": msgspec.UNSET, "copies": 1}, "copies: the run has no keepers"),
    ],
)
def test_keepers_that_cannot_be_are_refused_by_the_fields_name(
    fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        kept(3, **fields)
