"""What a lease starts from, brought into the blob store by the cheapest way.

A state that this node lacks is made from an earlier version that it holds and the packed updates
in between, where the run packs them (docs/method.md 7.2); else it is fetched whole. The digest in
the lease is the proof either way.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import Advance, Advanced
from dipaco.node.network.exchange import Exchange
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull
from dipaco.node.verification.tokenizer import obtain_tokenizer
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.wire.digest import Digest
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Lease
from dipaco.protocol.work.run_state import RunState

log = logging.getLogger(__name__)

LEDGER_SECONDS = 3.0  # for our copy of the ledger to reach the lease; a whole state takes longer

OnBytes = Callable[[int, int], None]
"""Called with the bytes that are here, and with those of all."""


@contextmanager
def _away_in_words() -> Iterator[None]:
    try:
        yield
    except DiskFull:
        raise
    except Unavailable as away:
        raise InputsAway(str(away)) from away


def silent(_done: int, _total: int) -> None:
    """Ignore the progress."""


class InputsAway(Unavailable):
    """Nobody who is connected has an input of the work; the scheduler may well answer."""


@dataclass(frozen=True)
class Way:
    """How a state is made here."""

    start: Digest
    updates: tuple[Digest, ...]


def way_to(
    view: RunState, module: ModuleId, version: int, has: Callable[[Digest], bool]
) -> Way | None:
    """Return the shortest way to a version from one that this node `has`; None: there is none."""
    updates: list[Digest] = []
    for update, before in view.back_from(module, version):
        updates.insert(0, update)
        if has(before):
            return Way(before, tuple(updates))
    return None


@dataclass(frozen=True)
class Inputs:
    """Brings the inputs of one run's leases."""

    record: RunRecord
    run_store: RunStore
    blobs: BlobStore
    exchange: Exchange
    worker: JobRunner
    holder: PeerId
    """Who is asked for blobs first."""

    async def fetch(self, lease: Lease, on_bytes: OnBytes) -> None:
        """Have all inputs of `lease` in the store, the tokenizer too; raises InputsAway, DiskFull.

        on_bytes   is called at least whenever bytes have arrived.
        """
        await self.tokenizer()
        with _away_in_words():
            await self._fetch(lease, on_bytes)

    async def tokenizer(self) -> None:
        """Have the tokenizer in the store: no shard is made without it. Raises as `fetch`."""
        with _away_in_words():
            await obtain_tokenizer(self.record.manifest, self.exchange)

    async def _fetch(self, lease: Lease, on_bytes: OnBytes) -> None:
        manifest, top = self.record.manifest, self.record.state.topology
        await self._catch_up(lease)
        states = [(ModuleId(each.module), each.digest) for each in lease.modules]
        carried = [(ModuleId(each.module), each.digest) for each in lease.carried]
        moments = [
            (
                digest,
                carried_bytes(manifest.training.deltas, top.elements(m), manifest.by_muon(m)),
            )
            for m, digest in carried
        ]
        total = sum(top.state_bytes(m) for m, _ in states) + sum(length for _, length in moments)
        done = 0

        def got(received: int, _length: int = 0) -> None:
            on_bytes(done + received, total)

        for module, digest in states:
            got(0)
            await self._bring(module, lease.base_version, digest, got)
            done += top.state_bytes(module)
        for digest, length in moments:
            got(0)
            await self._get(digest, length, got)
            done += length

    async def ahead(self, path: int) -> bool:
        """Bring a new state of one of `path`'s modules, while its lease waits for the others.

        Returns whether there was one. What goes wrong here goes wrong again, and is told, when a
        lease needs it.
        """
        view = self.record.state
        for module in view.topology.path_modules[path]:
            version = view.version(module)
            if version > 0 and not self.blobs.has(view.states[module][version]):
                with suppress(Unavailable):
                    await self._bring(module, version, view.states[module][version], silent)
                    return True
        return False

    async def _catch_up(self, lease: Lease) -> None:
        """Wait a little until our copy of the ledger tells of the lease's versions."""
        if self.record.manifest.training.updates == "f32":
            return
        view, version = self.record.state, lease.base_version
        with trio.move_on_after(LEDGER_SECONDS):
            while any(view.version(ModuleId(each.module)) < version for each in lease.modules):
                await self.run_store.changed.wait()

    async def _bring(
        self, module: ModuleId, version: int, digest: Digest, on_bytes: OnBytes
    ) -> None:
        length = self.record.state.topology.state_bytes(module)
        if self.blobs.has(digest, length) or await self._made(module, version, digest, on_bytes):
            return
        await self._get(digest, length, on_bytes)

    async def _made(
        self, module: ModuleId, version: int, digest: Digest, on_bytes: OnBytes
    ) -> bool:
        """Make a state from an earlier one; returns whether that is possible and came out right."""
        view = self.record.state
        if version < 1 or view.version(module) < version:
            return False
        way = way_to(view, module, version, self.blobs.has)
        if way is None:
            return False
        training, elements = self.record.manifest.training, view.topology.elements(module)
        try:
            for update in way.updates:
                await self._get(update, encoded_bytes(training.updates, elements), on_bytes)
        except Unavailable as away:
            log.info("no update of %s: %s", module, away)
            return False
        answer = await self.worker.run(
            Advance(
                manifest=self.record.manifest, module=module, state=way.start, updates=way.updates
            ),
            lambda progress: None,
        )
        if isinstance(answer, Advanced) and answer.state == digest:
            return True
        log.warning("module %s version %d does not come out of its updates", module, version)
        return False

    async def _get(self, digest: Digest, length: int, on_bytes: OnBytes) -> None:
        await self.exchange.fetch(digest, length=length, holders=(self.holder,), progress=on_bytes)
