"""Small valid values for tests: a 2x2 run of a tiny model; keys that never change."""

import hashlib

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dipaco.protocol.run.manifest import Manifest, Routing, Scheduling
from dipaco.protocol.run.model_shape import Grid, Level, Model
from dipaco.protocol.run.source import Source, Tokenizer
from dipaco.protocol.run.training import Adam, Nesterov, Training
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId, peer_id

TOKENIZER = b"a tokenizer file of no use" * 40


def key(name: str) -> Ed25519PrivateKey:
    """Return the key of the node or owner called `name`."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def peer(name: str) -> PeerId:
    """Return the PeerID of `key(name)`."""
    return peer_id(key(name))


def digest(name: str) -> Digest:
    """Return a digest that stands for the blob called `name`."""
    return sha256(name.encode())


def manifest(**changes: object) -> Manifest:
    """Return a manifest of two levels with two experts each; `changes` replace whole fields."""
    plain = Manifest(
        name="tiny",
        owner=peer("owner"),
        source=Source(kind="synthetic", revision="1", files=(), documents=400, window=400),
        tokenizer=Tokenizer(
            sha256=sha256(TOKENIZER), size=len(TOKENIZER), vocabulary=4096, end_of_text=0
        ),
        model=Model(d_model=16, heads=2, kv_heads=2, d_ff=32, context=48),
        grid=Grid(
            levels=(Level(experts=2, blocks=1), Level(experts=2, blocks=1)),
            path_specific_blocks=(),
        ),
        routing=Routing(sample=128, featurizer="bag-sign-v1", dimension=64),
        training=Training(
            seed_steps=2,
            rounds=2,
            inner_steps=2,
            batch=2,
            inner=Adam(warmup=1),
            outer=Nesterov(),
            deltas="f32",
            updates="f32",
        ),
        schedule=Scheduling(schedulers=(peer("scheduler"),), members=()),
        seed=0,
    )
    return msgspec.structs.replace(plain, **changes)
