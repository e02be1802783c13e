"""Golden vectors of every wire type, and the schema.

They are the protocol: a change here means that old and new nodes no longer understand each other,
or that digests and signatures of what old nodes hold are no longer right.
"""

import json
from pathlib import Path
from typing import TypedDict

from dipaco.protocol.wire.canonical import encode
from dipaco.protocol.wire.digest import sha256
from tests.golden.cddl import schema
from tests.golden.values import values

VECTORS = Path(__file__).parent / "wire.json"
SCHEMA = Path(__file__).parents[2] / "docs/protocol.cddl"


class Vector(TypedDict):
    """One value: its type, its one encoding in hex, and the SHA-256 of that."""

    type: str
    encoding: str
    sha256: str


def vectors() -> list[Vector]:
    """Return the vectors that the code gives today."""
    encoded = ((name, encode(value)) for name, each in values().items() for value in each)
    return [
        {"type": name, "encoding": data.hex(), "sha256": sha256(data).hex()}
        for name, data in encoded
    ]


def saved() -> list[Vector]:
    """Return the vectors that are committed."""
    loaded: list[Vector] = json.loads(VECTORS.read_text())
    return loaded


def write() -> None:
    """Write both files."""
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
    SCHEMA.write_text(schema())


if __name__ == "__main__":
    write()
