"""Which blobs stay: real files, and claims of several runs on one store."""

from pathlib import Path

import pytest

from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.claims import Claims
from dipaco.protocol.wire.digest import Digest


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def here(blobs: BlobStore, *digests: Digest) -> list[bool]:
    return [blobs.has(digest) for digest in digests]


def test_what_a_run_gives_up_goes_unless_another_run_needs_it(blobs: BlobStore) -> None:
    first, shared, next_ = (blobs.write(text) for text in (b"first", b"shared", b"next"))
    claims = Claims(blobs)
    claims.claim("slow", {shared})
    claims.claim("quick", {first, shared})
    claims.claim("quick", {next_})
    assert here(blobs, first, shared, next_) == [False, True, True]
    claims.claim("slow", {next_})
    assert here(blobs, shared, next_) == [False, True]


def test_a_blob_that_was_never_claimed_goes_when_it_is_passed(blobs: BlobStore) -> None:
    refused, needed, unknown = (blobs.write(text) for text in (b"refused", b"needed", b"unknown"))
    claims = Claims(blobs)
    claims.claim("run", {needed}, passed={refused, needed})
    assert here(blobs, refused, needed, unknown) == [False, True, True]


def test_what_is_kept_for_the_person_is_never_given_up(blobs: BlobStore) -> None:
    result, other = blobs.write(b"local result"), blobs.write(b"other")
    claims = Claims(blobs, lambda: {result})
    claims.claim("run", {result, other})
    claims.claim("run", set())
    assert here(blobs, result, other) == [True, False]
    assert claims.claimed() == {result}
