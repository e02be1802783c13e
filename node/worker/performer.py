"""The performer of jobs: it maps each kind of job to the function that does it.

The same object is used in a worker process and in the single-process reference. torch is imported
with the first training job, so that a process that only inspects results and takes outer steps
never loads it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from dipaco.node.aggregation.inspection import wrong_moments
from dipaco.node.aggregation.outer import advance_state, take_outer_step
from dipaco.node.data.downloads import Downloads
from dipaco.node.data.library import use_scratch_of
from dipaco.node.data.sources.interface import Access
from dipaco.node.jobs.values import (
    MAX_WRONG,
    Advance,
    Answer,
    Derive,
    DerivedAnswer,
    Describe,
    Inspected,
    InspectMoments,
    InspectResult,
    Job,
    Materialise,
    OuterStep,
    PerformLease,
    ProbeMemory,
    Rescore,
)
from dipaco.node.kinds.table import kind_of
from dipaco.node.routing.derive import SourceDeps, derive
from dipaco.node.routing.reshard import derive_resharded
from dipaco.node.routing.shards import Shards
from dipaco.node.storage.blobs import BlobStore
from dipaco.node.storage.files import Home
from dipaco.node.storage.shard_cache import ShardCache
from dipaco.node.storage.stored import besides, nothing
from dipaco.protocol.errors import NoDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from dipaco.node.jobs.settings import WorkerSettings
    from dipaco.node.jobs.values import Progress
    from dipaco.node.training.trainer import Trainer
    from dipaco.protocol.routing.verdict import Derivation
    from dipaco.protocol.work.kinds import Result


def tools_of(settings: WorkerSettings, *, whole_home: bool = False) -> SourceDeps:
    """Return the blob store and the access to sources in the home that `settings` name.

    whole_home   as for `Performer`.
    """
    home = Home.at(settings.folder)
    use_scratch_of(home)
    most = settings.storage.cache_max
    access = Access(
        local_sources=settings.run.local_sources,
        whole_files=settings.run.whole_files,
        downloads=Downloads(
            home.sources, most, besides=besides(home, home.sources) if whole_home else nothing
        ),
    )
    return SourceDeps(BlobStore(home.blobs), access)


def shards_of(settings: WorkerSettings, deps: SourceDeps, *, whole_home: bool = False) -> Shards:
    """Return the shards of that home; missing ones are computed through `deps`."""
    storage, home = settings.storage, Home.at(settings.folder)
    others = besides(home, home.shards) if whole_home else nothing
    cache = ShardCache(home.shards, storage.cache_max, besides=others)
    return Shards(cache, deps, max_shards=storage.max_shards)


class Performer:
    """Does jobs on one home's blob store and shard cache."""

    def __init__(self, settings: WorkerSettings, *, whole_home: bool = False) -> None:
        """Take the settings of one home.

        whole_home   whether `cache_max` bounds all that the home stores, as in a daemon's; a
                     reference and a comparison keep every state, and it bounds their shards alone.
        """
        self._settings = settings
        self._deps = tools_of(settings, whole_home=whole_home)
        self._shards = shards_of(settings, self._deps, whole_home=whole_home)
        self._made_trainer: Trainer | None = None

    @property
    def blobs(self) -> BlobStore:
        """The blob store that daemon and worker share."""
        return self._deps.blobs

    @property
    def shards(self) -> Shards:
        """The shards of the home; missing ones are computed."""
        return self._shards

    def perform(self, job: Job, on_progress: Callable[[Progress], None]) -> Answer:
        """Do `job`; raises DipacoError, or the error of a bug."""
        match job:
            case PerformLease(lease=lease):
                result: Result = kind_of(lease).perform(job, lease, self, on_progress)
                return result
            case InspectResult(lease=lease):
                wrong = kind_of(lease).inspect(job, lease, job.result, self)
                return Inspected(wrong=wrong[:MAX_WRONG])
            case InspectMoments():
                wrong = wrong_moments(self.blobs, job.manifest, job.lease, job.moments)
                return Inspected(wrong=wrong[:MAX_WRONG])
            case Rescore(manifest=manifest, spec=spec, lease=lease, rows=rows):
                scored = self._shards.router_documents(manifest, spec, lease.window, on_progress)
                return self.trainer().score(manifest, lease, scored, on_progress, rows=rows)
            case Derive():
                return DerivedAnswer(derivation=self._derive(job, on_progress))
            case Materialise():
                return self._shards.materialise(job.manifest, job.spec, job.window, on_progress)
            case OuterStep():
                return take_outer_step(self.blobs, job)
            case Advance():
                return advance_state(self.blobs, job)
            case Describe():
                return self.trainer().describe()
            case ProbeMemory():
                return self.trainer().probe_memory(job)

    def _derive(self, job: Derive, on_progress: Callable[[Progress], None]) -> Derivation:
        if job.previous is None:
            return derive(job.manifest, self._deps, on_progress)
        return derive_resharded(job, job.previous, self._deps, on_progress)

    def trainer(self) -> Trainer:
        """Return the trainer; the first call imports torch and constructs it. Raises NoDevice."""
        if self._made_trainer is None:
            try:
                from dipaco.node.training.trainer import Trainer
            except (ImportError, OSError) as error:  # OSError: of a library that torch loads
                raise NoDevice(f"torch cannot be loaded: {error}") from error

            self._made_trainer = Trainer(
                self.blobs,
                self._settings.compute,
                tell=partial(print, file=sys.stderr, flush=True),
            )
        return self._made_trainer
