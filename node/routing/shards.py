"""Shards: the documents that each path trains on and is evaluated on, in one window of the source.

One streaming pass over a window routes all its documents and leaves every path's shard in the
disk cache. The parts are written during the pass, so memory depends neither on the corpus nor on
the window. Manifest, spec and source alone determine the bytes of a shard; the cache decides only
when they are made again. Source: docs/method.md, 2.2, 2.5 and 2.6.

Parts of a group, token ids little-endian in the width that the vocabulary needs:
    train.{path}     training documents in stream order, an end of text after each
    train.dense      the same of all paths together, for the seed phase
    heldout.{path}   validation documents, at most `context` ids each; lengths.{path}: theirs, u32;
                     indices.{path}: their rows of the source, u64
    id.bytes         of every token id, the bytes of text that it stands for, u32
    router           where they are scored, router documents, at most `context` ids each;
                     router.lengths: theirs, u32; router.paths: their candidates, u16, best first
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dipaco.node.data.sources.dispatch import rows
from dipaco.node.data.tokenizers import load_tokenizer
from dipaco.node.jobs.meter import Meter, OnProgress
from dipaco.node.jobs.values import Materialised, Progress
from dipaco.node.routing.derive import SourceDeps
from dipaco.node.routing.documents import Document, document_batches
from dipaco.node.storage.shard_cache import (
    DamagedGroup,
    GroupFacts,
    GroupWriter,
    ShardCache,
    ShardGroup,
)
from dipaco.protocol.errors import LocalProtocolError, Unavailable
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.documents import prefix_of
from dipaco.protocol.routing.recipe import RouterRecipe, recipe_of
from dipaco.protocol.routing.seeds import Split
from dipaco.protocol.routing.spec import RouterSpec, spec_digest
from dipaco.protocol.run.batches import DENSE
from dipaco.protocol.run.manifest import Manifest, run_id
from dipaco.protocol.wire.digest import Digest

T = TypeVar("T")
Ids = NDArray[np.int64]
WAITING = Progress(stage="wait", done=0, total=0)
"""Another pass is making the window."""


class ShardMissing(Unavailable):
    """The window's shards are not in the cache: materialise it."""


class TokenShard:
    """Training rows of `context` + 1 ids, cut from the stream without overlap, the tail dropped.

    A stream that is shorter than one row, but not empty, is repeated to make one.
    """

    def __init__(self, stream: NDArray[np.integer], context: int) -> None:
        self._stream, self._length = stream, context + 1

    @property
    def rows(self) -> int:
        """How many rows there are; 0 only if the path has no document here."""
        return max(len(self._stream) // self._length, min(len(self._stream), 1))

    def row(self, index: int) -> Ids:
        """Return one row, (context + 1,); raises IndexError."""
        if not 0 <= index < self.rows:
            raise IndexError(f"row {index} of {self.rows}")
        if len(self._stream) < self._length:
            return np.resize(self._stream, self._length).astype(np.int64)
        start = index * self._length
        return self._stream[start : start + self._length].astype(np.int64)


class HeldOut(Sequence[Ids]):
    """Documents to score: ids, (n,) each, n at most the context."""

    def __init__(self, stream: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        self._stream = stream
        self.lengths = lengths
        self._ends = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Ids: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ids]: ...
    def __getitem__(self, index: int | slice) -> Ids | list[Ids]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        start = int(self._ends[index - 1]) if index else 0
        return self._stream[start : int(self._ends[index])].astype(np.int64)


class Validation(HeldOut):
    """Validation documents of one path."""

    def __init__(
        self,
        stream: NDArray[np.integer],
        lengths: NDArray[np.integer],
        *,
        indices: NDArray[np.integer],
        id_bytes: NDArray[np.integer],
    ) -> None:
        super().__init__(stream, lengths)
        self.indices = indices
        """Of each document, its row of the source, (documents,)."""
        self.id_bytes = id_bytes
        """Of each token id, the bytes of text that it stands for, (vocabulary,)."""


@dataclass(frozen=True)
class RouterDocuments:
    """The router documents of one window, in stream order."""

    documents: HeldOut
    """Ids, (n,) each, n at most the context."""
    candidates: NDArray[np.integer]
    """(documents, c): the paths that score each."""

    def scored_by(self, path: int, first: int) -> NDArray[np.intp]:
        """Return the rows that a path scores: those with a token at position `first`."""
        rows = np.flatnonzero((self.candidates == path).any(axis=1))
        return rows[self.documents.lengths[rows] > first]


class Shards:
    """The shards of a node: reads them from the cache, and makes those that are missing."""

    def __init__(self, cache: ShardCache, deps: SourceDeps, *, max_shards: int) -> None:
        """max_shards: number of training shards kept open; the least recently used is closed."""
        self._cache, self._deps, self._max_shards = cache, deps, max_shards
        self._open: OrderedDict[tuple[Digest, int, int], tuple[TokenShard, ShardGroup]] = (
            OrderedDict()
        )

    def materialise(
        self, manifest: Manifest, spec: RouterSpec, window: int, on_progress: OnProgress
    ) -> Materialised:
        """Make all shards of `window`, unless they are in the cache.

        While another call makes the window, in this process or another of the same home, this one
        waits and uses its result. Raises the errors of reading the source, ConfigError if the
        cache is too small, and DiskFull.
        """
        digest = spec_digest(spec)
        group = self._cache.open(digest, window)
        if group is None:
            self._close_all()  # a group with an open shard cannot be evicted
            with self._cache.turn(digest, window, lambda: on_progress(WAITING)):
                group = self._cache.open(digest, window)
                if group is None:
                    with self._cache.build(digest, window) as writer:
                        write_window(manifest, spec, window, self._deps, writer, on_progress)
            group = group or self._cache.open(digest, window)
            if group is None:
                raise Unavailable("the shard cache lost a window while it was made")
        facts = group.facts
        group.close()
        return Materialised(documents=facts.documents, tokens=facts.tokens)

    def training(
        self,
        manifest: Manifest,
        spec: RouterSpec,
        window: int,
        path: int,
        on_progress: OnProgress,
    ) -> TokenShard:
        """Return the training shard of a path, or of `DENSE`; made if it is missing or damaged."""
        read = partial(self.training_shard, spec_digest(spec), window, path)
        return self._read_or_make(read, manifest, spec, window, on_progress)

    def validation(
        self,
        manifest: Manifest,
        spec: RouterSpec,
        window: int,
        path: int,
        on_progress: OnProgress,
    ) -> Validation:
        """Return the held-out documents of a path; made if they are missing or damaged."""
        read = partial(self.validation_shard, spec_digest(spec), window, path)
        return self._read_or_make(read, manifest, spec, window, on_progress)

    def router_documents(
        self, manifest: Manifest, spec: RouterSpec, window: int, on_progress: OnProgress
    ) -> RouterDocuments:
        """Return the router documents of a window; made if they are missing or damaged.

        spec    of epoch 0: its best paths are a document's candidates.
        """
        if not _is_scored(manifest, spec, window):
            raise LocalProtocolError(f"window {window} is not scored by this spec")
        candidates = candidates_of(manifest)
        read = partial(self._router_documents, spec_digest(spec), window, candidates)
        return self._read_or_make(read, manifest, spec, window, on_progress)

    def _read_or_make(
        self,
        read: Callable[[], T],
        manifest: Manifest,
        spec: RouterSpec,
        window: int,
        on_progress: OnProgress,
    ) -> T:
        try:
            return read()
        except ShardMissing:
            self.materialise(manifest, spec, window, on_progress)
            return read()

    def training_shard(self, spec: Digest, window: int, path: int) -> TokenShard:
        """Return a training shard that is in the cache; raises ShardMissing."""
        key = (spec, window, path)
        if key not in self._open:
            group = self._group(spec, window)
            try:
                stream = group.array(_train_part(path), _dtype(group.facts.token_bytes))
            except DamagedGroup as error:
                raise ShardMissing(str(error)) from error
            self._open[key] = TokenShard(stream, group.facts.context), group
            while len(self._open) > self._max_shards:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(key)
        return self._open[key][0]

    def validation_shard(self, spec: Digest, window: int, path: int) -> Validation:
        """Return held-out documents that are in the cache; raises ShardMissing."""
        with self._reading(spec, window) as group:
            return Validation(
                group.array(f"heldout.{path}", _dtype(group.facts.token_bytes)),
                group.array(f"lengths.{path}", "<u4"),
                indices=group.array(f"indices.{path}", "<u8"),
                id_bytes=group.array("id.bytes", "<u4"),
            )

    def _router_documents(self, spec: Digest, window: int, candidates: int) -> RouterDocuments:
        with self._reading(spec, window) as group:
            stream = group.array("router", _dtype(group.facts.token_bytes))
            documents = HeldOut(stream, group.array("router.lengths", "<u4"))
            paths = group.array("router.paths", "<u2").reshape(-1, candidates)
        return RouterDocuments(documents, paths)

    @contextmanager
    def _reading(self, spec: Digest, window: int) -> Iterator[ShardGroup]:
        group = self._group(spec, window)
        try:
            yield group
        except DamagedGroup as error:
            raise ShardMissing(str(error)) from error
        finally:
            group.close()

    def _group(self, spec: Digest, window: int) -> ShardGroup:
        group = self._cache.open(spec, window)
        if group is None:
            raise ShardMissing(f"window {window} is not in the shard cache")
        return group

    def _close_all(self) -> None:
        for _, group in self._open.values():
            group.close()
        self._open.clear()


@dataclass
class _Pass:
    """The state of one pass over a window."""

    recipe: RouterRecipe
    router: Router
    writer: GroupWriter
    end_of_text: int
    context: int
    token_bytes: int
    candidates: int
    """Number of paths that score a router document; 0: this window is not scored."""
    documents: int = 0
    tokens: int = 0

    def take(self, batch: list[Document]) -> None:
        """Route a batch and write it out."""
        tops = {
            Split.TRAINING: self.recipe.params.overlap,
            Split.VALIDATION: 1,
            Split.ROUTER: self.candidates,
        }
        for split, top in tops.items():
            chosen = [each for each in batch if each.eligible and each.split is split]
            if not chosen or not top:
                continue
            for document, paths in zip(chosen, self._route(chosen, top), strict=True):
                assert document.tokens is not None
                if split is Split.TRAINING:
                    self._train(document.tokens, paths)
                elif split is Split.VALIDATION:
                    kept = f"heldout.{paths[0]}", f"lengths.{paths[0]}"
                    self._hold_out(document.tokens, *kept)
                    index = document.index.to_bytes(8, "little")
                    self.writer.append(f"indices.{paths[0]}", index)
                else:
                    self._hold_out(document.tokens, "router", "router.lengths")
                    self.writer.append("router.paths", np.array(paths, dtype="<u2").tobytes())
            self.documents += len(chosen)

    def _route(self, documents: list[Document], top: int) -> list[list[int]]:
        length = self.recipe.params.prefix
        prefixes = np.array([prefix_of(each.head or [], length) for each in documents])
        indices = np.array([each.index for each in documents], dtype=np.int64)
        paths: list[list[int]] = self.router.route(prefixes, indices, top=top).tolist()
        return paths

    def _train(self, tokens: list[int], paths: list[int]) -> None:
        data = self._bytes([*tokens, self.end_of_text])
        self.tokens += len(tokens) + 1
        for path in (*paths, DENSE):
            self.writer.append(_train_part(path), data)

    def _hold_out(self, tokens: list[int], part: str, lengths: str) -> None:
        kept = tokens[: self.context]
        self.writer.append(part, self._bytes(kept))
        self.writer.append(lengths, len(kept).to_bytes(4, "little"))

    def _bytes(self, tokens: list[int]) -> bytes:
        return np.array(tokens, dtype=_dtype(self.token_bytes)).tobytes()


def write_window(
    manifest: Manifest,
    spec: RouterSpec,
    window: int,
    deps: SourceDeps,
    writer: GroupWriter,
    on_progress: OnProgress,
) -> None:
    """Route every document of `window` and append it to its shards, in one pass."""
    if spec.manifest != run_id(manifest):
        raise LocalProtocolError("the spec is of another run than the manifest")
    source = manifest.source
    if window >= source.windows:
        raise LocalProtocolError(f"no window {window}: the source has {source.windows}")
    encoder = load_tokenizer(manifest.tokenizer, deps.blobs)
    recipe = recipe_of(manifest)
    state = _Pass(
        recipe=recipe,
        router=Router(spec),
        writer=writer,
        end_of_text=encoder.end_of_text,
        context=manifest.model.context,
        token_bytes=2 if encoder.vocabulary <= 1 << 16 else 4,
        candidates=candidates_of(manifest) if _is_scored(manifest, spec, window) else 0,
    )
    start = window * source.window
    stop = min(start + source.window, source.documents)
    dataset = rows(source, start=start, stop=stop, access=deps.access, on_progress=on_progress)
    writer.append("id.bytes", encoder.bytes_per_id.astype("<u4").tobytes())
    meter = Meter(on_progress, "route", stop - start)
    wanted = {Split.TRAINING, Split.VALIDATION} | ({Split.ROUTER} if state.candidates else set())
    for batch in document_batches(dataset, recipe, encoder, splits=wanted, place=source.place):
        state.take(batch)
        meter.at(batch[-1].index + 1 - start)
    writer.finish(
        GroupFacts(
            context=state.context,
            token_bytes=state.token_bytes,
            documents=state.documents,
            tokens=state.tokens,
        )
    )


def candidates_of(manifest: Manifest) -> int:
    """Return how many paths score a router document; 0 where none is scored."""
    reshard = manifest.routing.reshard
    return 0 if reshard is None else min(reshard.candidates, manifest.paths)


def _is_scored(manifest: Manifest, spec: RouterSpec, window: int) -> bool:
    reshard = manifest.routing.reshard
    return reshard is not None and spec.epoch == 0 and window < reshard.windows


def _train_part(path: int) -> str:
    return "train.dense" if path == DENSE else f"train.{path}"


def _dtype(token_bytes: int) -> str:
    return f"<u{token_bytes}"
