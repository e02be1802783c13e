"""What a lease starts from, brought into the blob store by the cheapest way.

A state that this node lacks is made from an earlier version that it holds and the packed updates
in between, where the run packs them (docs/method.md 7.2); else it is fetched whole. The digest in
the lease is the proof either way.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from dipaco.node.jobs.runner import JobRunner
from dipaco.node.jobs.values import Advance, Advanced
from dipaco.node.network.exchange import Exchange
from dipaco.node.network.finding import Finder, OnBytes, Wanted
from dipaco.node.runs.record import RunRecord
from dipaco.node.runs.store import RunStore
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import DiskFull
from dipaco.node.verification.tokenizer import obtain_tokenizer
from dipaco.protocol.errors import Unavailable
from dipaco.protocol.run.modules import ModuleId
from dipaco.protocol.tensors.delta import encoded_bytes
from dipaco.protocol.tensors.feedback import carried_bytes
from dipaco.protocol.wire.digest import Digest, short
from dipaco.protocol.wire.identity import PeerId
from dipaco.protocol.work.kinds import Lease
from dipaco.protocol.work.run_state import RunState

log = logging.getLogger(__name__)

LEDGER_SECONDS = 3.0  # for our copy of the ledger to reach the lease; a whole state takes longer


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


Versions = Sequence[tuple[ModuleId, Digest]]
"""Modules with the digests of their states at one version."""


@dataclass(frozen=True)
class Inputs:
    """Brings the inputs of one run's leases."""

    record: RunRecord
    run_store: RunStore
    blobs: BlobStore
    exchange: Exchange
    finder: Finder
    worker: JobRunner

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

    async def ahead(self, path: int) -> bool:
        """Bring a new state of one of `path`'s modules, while its lease waits for the others.

        Returns whether there was one. What goes wrong here goes wrong again, and is told, when a
        lease needs it.
        """
        view = self.record.state
        for module in view.topology.path_modules[path]:
            version = view.version(module)
            if version > 0 and not self.blobs.has(state := view.states[module][version]):
                with suppress(Unavailable):
                    await self._make(((module, state),), version, silent)
                    await self._get(self._lacking(((module, state),)), silent)
                    return True
        return False

    async def _fetch(self, lease: Lease, on_bytes: OnBytes) -> None:
        await self._catch_up(lease)
        states = tuple((ModuleId(each.module), each.digest) for each in lease.modules)
        moments = tuple(self._moments(lease))
        top = self.record.state.topology
        total = sum(top.state_bytes(m) for m, _ in states) + sum(each.length for each in moments)

        def got(done: int, of: int) -> None:
            on_bytes(max(0, total - of) + done, total)  # what is not asked for is here

        on_bytes(0, total)
        await self._make(states, lease.base_version, lambda done, _: on_bytes(done, total))
        await self._get([*self._lacking(states), *moments], got)

    def _moments(self, lease: Lease) -> Iterator[Wanted]:
        manifest, top = self.record.manifest, self.record.state.topology
        for each in lease.carried:
            module = ModuleId(each.module)
            sizes = top.elements(module), manifest.by_muon(module)
            length = carried_bytes(manifest.training.deltas, *sizes)
            if not self.blobs.has(each.digest, length):
                yield Wanted(each.digest, length, "moments")

    def _lacking(self, states: Versions) -> list[Wanted]:
        sizes = self.record.state.topology.state_bytes
        wanted = (Wanted(digest, sizes(module), "state") for module, digest in states)
        return [each for each in wanted if not self.blobs.has(each.digest, each.length)]

    async def _catch_up(self, lease: Lease) -> None:
        """Wait a little until our copy of the ledger tells of the lease's versions."""
        if self.record.manifest.training.updates == "f32":
            return
        view, version = self.record.state, lease.base_version
        with trio.move_on_after(LEDGER_SECONDS):
            while any(view.version(ModuleId(each.module)) < version for each in lease.modules):
                await self.run_store.changed.wait()

    async def _make(self, states: Versions, version: int, on_bytes: OnBytes) -> None:
        """Make those of the states that packed updates lead to; others are fetched whole."""
        view = self.record.state
        ways: dict[ModuleId, tuple[Digest, Way]] = {}
        lacking = {each.digest for each in self._lacking(states)}
        for module, digest in states:
            if digest in lacking and 1 <= version <= view.version(module):
                way = way_to(view, module, version, self.blobs.has)
                if way is not None:
                    ways[module] = (digest, way)
        try:
            await self._get(list(self._updates(ways)), on_bytes)
        except DiskFull:
            raise
        except Unavailable as away:
            log.info("no update: %s", away)
        for module, (digest, way) in ways.items():
            if all(map(self.blobs.has, way.updates)):
                await self._advance(module, digest, way)

    def _updates(self, ways: Mapping[ModuleId, tuple[Digest, Way]]) -> Iterator[Wanted]:
        packing = self.record.manifest.training.updates
        for module, (_, way) in ways.items():
            length = encoded_bytes(packing, self.record.state.topology.elements(module))
            for update in way.updates:
                if not self.blobs.has(update, length):
                    yield Wanted(update, length, "update")

    async def _advance(self, module: ModuleId, digest: Digest, way: Way) -> None:
        """Make a state from an earlier one; a wrong one is fetched whole afterwards."""
        answer = await self.worker.run(
            Advance(
                manifest=self.record.manifest, module=module, state=way.start, updates=way.updates
            ),
            lambda progress: None,
        )
        if not isinstance(answer, Advanced) or answer.state != digest:
            log.warning("state %s of %s does not come out of its updates", short(digest), module)

    async def _get(self, wanted: Sequence[Wanted], on_bytes: OnBytes) -> None:
        if wanted:
            peers = members(self.record, self.run_store)
            await self.finder.bring(
                wanted,
                peers,
                on_bytes,
                keepers=self.record.manifest.schedule.named_keepers,
                last=(self.record.scheduler,),
            )


def members(record: RunRecord, run_store: RunStore) -> Iterator[PeerId]:
    """Yield the peers that are likely to hold a run's blobs: those whose work counted first."""
    yield from dict.fromkeys(record.state.contributors.values())
    yield from run_store.offering(record.run)
