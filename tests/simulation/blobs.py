"""A node's blobs on the simulated disk."""

from collections.abc import Generator, Iterable

from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.wire.digest import Digest, sha256
from dipaco.protocol.wire.identity import PeerId
from tests.simulation import toy
from tests.simulation.calls import Content, Fetch, Lacks
from tests.simulation.disk import Disk
from tests.simulation.oracle import Oracle
from tests.simulation.world import Ask, Pause

TABLE = "blobs"


def most_blobs(manifest: Manifest) -> int:
    """Return how many blobs a node may hold that removes the old ones."""
    return 96 * len(manifest.topology.modules)


class Blobs:
    """What is stored, by digest."""

    def __init__(self, disk: Disk, oracle: Oracle) -> None:
        self._disk, self._oracle = disk, oracle

    def has(self, digest: Digest) -> bool:
        """Return whether a blob is here."""
        return (digest,) in self._disk.rows(TABLE)

    def number(self, digest: Digest) -> int:
        """Return the number in a blob; raises Unavailable if it is not here."""
        data = self._disk.rows(TABLE).get((digest,))
        if data is None:
            raise Unavailable("a blob is not here")
        return toy.number(data)

    def put(self, data: bytes) -> Digest:
        """Store a blob; raises DiskFull."""
        digest = sha256(data)
        if not self.has(digest):
            self._oracle.blob(digest, data)
            self._disk.commit([(TABLE, (digest,), data)])
        return digest

    def write(self, numbers: Iterable[int]) -> list[Digest]:
        """Store the blobs of numbers; raises DiskFull."""
        return [self.put(toy.blob(each)) for each in numbers]

    def answer(self, request: Fetch) -> Content | Lacks:
        """Return what a peer asked for."""
        data = self._disk.rows(TABLE).get((request.digest,))
        return Lacks() if data is None else Content(data)

    def fetch(
        self, digest: Digest, holders: Iterable[PeerId]
    ) -> Generator[Ask | Pause, object, bool]:
        """Fetch a blob from the first of its holders that answers; False: none did."""
        for holder in holders:
            if self.has(digest):
                break
            reply = yield Ask(holder, Fetch(digest), 5.0)
            if isinstance(reply, Content) and sha256(reply.data) == digest:
                self.put(reply.data)
        return self.has(digest)

    def keep_only(self, needed: set[Digest]) -> None:
        """Remove all others."""
        rows = self._disk.rows(TABLE)
        gone = [key for key in rows if key[0] not in needed]
        if gone:
            self._disk.commit([(TABLE, key, None) for key in gone])

    def __len__(self) -> int:
        return len(self._disk.rows(TABLE))
