"""A checkpoint of made-up states: every module differs from every other, nothing is trained."""

from pathlib import Path

import numpy as np
from msgspec.structs import replace

from dipaco.node.data.embedded_tokenizer import embedded_tokenizer, embedded_tokenizer_path
from dipaco.node.runs.checkpoint import Checkpoint, checkpoint_of
from dipaco.node.runs.files import sign_manifest
from dipaco.node.storage.blobs import BlobStore
from dipaco.protocol.routing.spec import spec_digest
from dipaco.protocol.run.initial import initial_module
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.work.run_state import RunState
from tests.node.training.small import any_spec, small_manifest
from tests.values import key

VERSIONS = 3


def checkpointed(blobs: Path, value: Manifest | None = None) -> Checkpoint:
    """Return where a run of `small_manifest` and the embedded tokenizer stands, at version 2."""
    value = value or small_manifest(tokenizer=embedded_tokenizer())
    store, view, chance = BlobStore(blobs), RunState(value), np.random.default_rng(0)
    states: dict[ModuleId, list[Digest]] = {}
    for place, module in enumerate(value.topology.modules):
        start = initial_module(replace(value, seed=place), module)
        noise = chance.normal(size=(VERSIONS, len(start))).astype(np.float32) / 8
        states[module] = [store.write_array(start + each) for each in noise]
    view.restore([spec_digest(any_spec(value))], states, [])
    run = sign_manifest(value, key("owner"))
    return checkpoint_of(run, [any_spec(value)], view, store)


def tokenizer() -> bytes:
    """Return the file of the embedded tokenizer."""
    path = embedded_tokenizer_path(embedded_tokenizer().sha256)
    assert path is not None
    return path.read_bytes()
