"""Re-routing is held against an oracle that takes one token at a time, alone, by the definition."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from dipaco.node.models.rerouted import HeldOut, evaluate_rerouted, route_chunks
from dipaco.node.training.evaluation import evaluate
from dipaco.node.training.model import PathModel, load
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from dipaco.protocol.routing.spec import RouterSpec, int32_bytes, int64_bytes
from dipaco.protocol.run.manifest import Manifest
from dipaco.protocol.work.kinds import Evaluation
from tests.node.training.small import CONTEXT, VOCABULARY, initial_states, small_manifest

PREFIX = 8
PATHS = 4
Ids = NDArray[np.int64]
ID_BYTES = np.random.default_rng(7).integers(1, 9, VOCABULARY)
"""By token id, the bytes of text that it stands for, made up."""


def run() -> Manifest:
    """Return a run of a short prefix, so that a context of 48 holds many chunks."""
    plain = small_manifest()
    return small_manifest(routing=replace(plain.routing, prefix=PREFIX, min_tokens=16))


def spec_of(value: Manifest) -> RouterSpec:
    """Return a router whose centroids are random: texts of chance spread over its paths."""
    plain = unfitted_spec(recipe_of(value))
    centroids = np.random.default_rng(3).integers(-90_000, 90_000, (PATHS, plain.dimension))
    return replace(
        plain,
        kind="kmeans",
        mean=int32_bytes(np.zeros(plain.dimension, np.int32)),
        centroids=int32_bytes(centroids.astype(np.int32)),
        bias=int64_bytes([0] * PATHS),
    )


def held_out(router: Router) -> dict[int, list[Ids]]:
    """Return documents of chance, of many lengths, by the path of their prefix."""
    chance = np.random.default_rng(5)
    found: dict[int, list[Ids]] = {}
    for length in (48, 9, 30, 8, 47, 16, 17, 41, 25, 48):
        document = chance.integers(0, VOCABULARY, length)
        found.setdefault(path_after(router, document, PREFIX), []).append(document)
    return found


def path_after(router: Router, document: Ids, end: int) -> int:
    seen = document[None, end - PREFIX : end]
    return int(router.route(seen, np.zeros(1, np.int64))[0, 0])


class Models:
    """All paths' models; notes which were asked for, in order."""

    def __init__(self, value: Manifest) -> None:
        self.asked: list[int] = []
        self._models = {}
        for path in range(PATHS):
            model = PathModel(value, torch.device("cpu"))
            states = initial_states(replace(value, seed=path), 0)
            names = zip(value.topology.path_modules[path], states.values(), strict=True)
            load(model, value, dict(names))
            self._models[path] = model

    def __call__(self, path: int) -> PathModel:
        self.asked.append(path)
        return self._models[path]


Sums = dict[int | str, tuple[int, int, float]]
"""By path and by label: tokens, bytes, loss."""


def by_the_definition(
    documents: HeldOut, router: Router, models: Callable[[int], PathModel], first: int, window: int
) -> Sums:
    """Return the sums token by token."""
    found: Sums = dict.fromkeys((*range(PATHS), *LABELS), (0, 0, 0.0))
    named = (
        (document, label)
        for path, own in documents.items()
        for document, label in zip(own, labels_of(documents)[path], strict=True)
    )
    for document, label in named:
        for position in range(first, len(document)):
            chunk = (position - PREFIX) // window
            path = path_after(router, np.asarray(document), PREFIX + chunk * window)
            model = models(path)
            with torch.inference_mode():
                features = model(torch.from_numpy(document[:position])[None])[0, -1]
                logs = (features @ model.head.T).log_softmax(-1)
            for place in (path, label):
                tokens, size, nll = found[place]
                own_bytes = int(ID_BYTES[document[position]])
                lost = nll - logs[document[position]].item()
                found[place] = tokens + 1, size + own_bytes, lost
    return found


LABELS = ("law", "code")


def labels_of(documents: HeldOut) -> dict[int, list[str]]:
    """Return labels that do not follow the paths."""
    return {
        path: [LABELS[len(document) % 2] for document in own] for path, own in documents.items()
    }


@pytest.mark.parametrize("window", [1, 5, 8, 16])
@pytest.mark.parametrize(
    ("first", "max_batch", "scored"), [(PREFIX, 0, 9), (PREFIX, 3, 9), (18, 0, 6)]
)
def test_every_token_is_scored_by_the_path_of_its_chunk(
    window: int, first: int, max_batch: int, scored: int
) -> None:
    value = run()
    router, models = Router(spec_of(value)), Models(value)
    documents = held_out(router)
    done: list[tuple[int, int]] = []
    found = evaluate_rerouted(
        documents,
        router,
        models,
        first_scored=first,
        id_bytes=ID_BYTES,
        labels=labels_of(documents),
        window=window,
        max_batch=max_batch,
        on_batch=lambda *counts: done.append(counts),
    )
    asked = list(models.asked)
    assert asked == sorted(set(asked)) and len(asked) > 1, "each model once, one after the other"
    assert done[-1][0] == done[-1][1]
    expected = by_the_definition(documents, router, models, first, window)
    every: dict[int | str, Evaluation] = dict(found.paths.items())
    every.update(found.labels.items())
    for place, (tokens, size, nll) in expected.items():
        if place in every:
            assert (every[place].tokens, every[place].bytes) == (tokens, size)
            assert every[place].nll == pytest.approx(nll, rel=1e-5)
        else:
            assert not tokens
    for sums in (found.paths, found.labels):
        assert sum(each.documents for each in sums.values()) == scored, "others are too short"
    assert list(found.labels) == sorted(LABELS)


@pytest.mark.parametrize("window", [None, CONTEXT, 10 * CONTEXT])
@pytest.mark.parametrize("first", [PREFIX, 20])
def test_a_window_of_the_context_is_routing_once(window: int | None, first: int) -> None:
    value = run()
    router, models = Router(spec_of(value)), Models(value)
    documents = held_out(router)
    found = evaluate_rerouted(
        documents,
        router,
        models,
        first_scored=first,
        id_bytes=ID_BYTES,
        window=window,
        max_batch=0,
        on_batch=lambda *counts: None,
    )
    assert set(found.paths) == set(documents) and not found.labels
    for path, own in documents.items():
        once = evaluate(
            models(path),
            own,
            first=first,
            id_bytes=ID_BYTES,
            max_batch=0,
            on_batch=lambda count: None,
        )
        assert found.paths[path] == once


def test_a_round_robin_router_keeps_a_document_on_its_path() -> None:
    value = run()
    value = replace(value, routing=replace(value.routing, kind="round_robin"))
    router = Router(unfitted_spec(recipe_of(value)))
    passages = route_chunks({2: [np.arange(30)]}, router, first_scored=PREFIX, window=4)
    assert {path: [each.spans for each in own] for path, own in passages.items()} == {
        2: [((PREFIX, 30),)]
    }
