"""The names of modules, and the digests of their blobs."""

from collections.abc import Iterable
from typing import Annotated, NewType

from msgspec import Meta

from dipaco.protocol.wire.canonical import Wire
from dipaco.protocol.wire.digest import Digest, DigestField

MAX_MODULES = 64  # of one path: 10 (stem, 8 levels, its own), and spare ones for finer cuts
# Of a run: a stem, the experts of 8 levels (1,024 paths allow 256 + 4 + 6 x 1), one for each path.
MAX_RUN_MODULES = 1 + 266 + 1024

ModuleId = NewType("ModuleId", str)
ModuleName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=16,
        pattern=r"^[a-zA-Z0-9.]+\Z",
        description="a module such as stem, L1.E0 or p0",
    ),
]


class ModuleDigest(Wire, frozen=True, kw_only=True):
    """One module and the digest of a blob of it: a state, a pseudo-gradient, or moments."""

    module: ModuleName
    digest: DigestField


ModuleDigests = Annotated[tuple[ModuleDigest, ...], Meta(max_length=MAX_MODULES)]
"""The digests of one path's modules, in the topology's order."""


def digest_of(module: str, named: Iterable[ModuleDigest]) -> Digest:
    """Return the digest of `module`'s blob; raises LookupError if `named` lacks the module."""
    for each in named:
        if each.module == module:
            return each.digest
    raise LookupError(module)
