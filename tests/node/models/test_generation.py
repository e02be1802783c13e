"""Generation is held against models that read everything again for every token."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from dipaco.node.models.generation import Generation, Reader, Sampling
from dipaco.node.training.model import PathModel
from dipaco.protocol.routing.assign import Router
from dipaco.protocol.routing.recipe import recipe_of, unfitted_spec
from tests.node.models.test_rerouted import PREFIX, Models, path_after, run, spec_of
from tests.node.training.small import CONTEXT, VOCABULARY, small_manifest

GREEDY = Sampling(temperature=0, top_k=0, seed=0)
NO_END = VOCABULARY
"""No token: the text never ends by itself."""


def logits_of(model: PathModel, text: list[int]) -> Tensor:
    """Return the next token's logits, (V,), by reading all of `text` at once."""
    with torch.inference_mode():
        found: Tensor = model(torch.tensor([text]))[0, -1] @ model.head.T
    return found


def some_text(length: int) -> list[int]:
    text: list[int] = np.random.default_rng(length).integers(1, VOCABULARY, length).tolist()
    return text


def generation(
    models: Callable[[int], PathModel], prompt: list[int], **changes: object
) -> Generation:
    plain: dict[str, object] = {
        "router": None,
        "reroute": None,
        "sampling": GREEDY,
        "max_tokens": 20,
        "end_of_text": NO_END,
    }
    return Generation(prompt, 0, models, **(plain | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [(48,), (1,) * 48, (20, 1, 1, 7, 19)])
@pytest.mark.parametrize("changes", [{}, {"tied": False, "kv_heads": 4}])
def test_logits_with_kept_keys_and_values_are_the_model_s(
    parts: tuple[int, ...], changes: dict[str, object]
) -> None:
    value = small_manifest(model=replace(small_manifest().model, **changes))
    model = Models(value)(0)
    reader, text, done = Reader(model), some_text(CONTEXT), 0
    for count in parts:
        found = reader.read(text[done : done + count])
        done += count
        torch.testing.assert_close(found, logits_of(model, text[:done]), rtol=0, atol=1e-4)
    assert reader.length == reader.context == CONTEXT


def test_the_likeliest_token_follows_as_if_all_were_read_again() -> None:
    models = Models(small_manifest())
    text = some_text(5)
    steps = list(generation(models, text))
    for step in steps:
        assert step.token == int(logits_of(models(0), text).argmax())
        text = [*text, step.token]
    assert len(steps) == 20 and not any(step.slid for step in steps)


def test_a_full_context_lets_its_earlier_half_go() -> None:
    models = Models(small_manifest())
    text = some_text(CONTEXT - 2)
    steps = list(generation(models, text, max_tokens=CONTEXT))
    assert [place for place, step in enumerate(steps) if step.slid] == [3, 3 + CONTEXT // 2 + 1]
    start = 0
    for step in steps:
        if step.slid:
            start = len(text) - CONTEXT // 2
        assert step.token == int(logits_of(models(0), text[start:]).argmax())
        text = [*text, step.token]


def test_a_prompt_beyond_the_context_is_read_from_its_later_half_context() -> None:
    models = Models(small_manifest())
    text = some_text(3 * CONTEXT)
    (step,) = generation(models, text, max_tokens=1)
    assert step.slid
    assert step.token == int(logits_of(models(0), text[-CONTEXT // 2 :]).argmax())


@pytest.mark.parametrize("prompt", [3, PREFIX, 14, 21])
def test_the_path_is_chosen_anew_where_a_chunk_begins(prompt: int) -> None:
    value, window = run(), 5
    router, models = Router(spec_of(value)), Models(value)
    sampling = Sampling(temperature=1.0, top_k=0, seed=4)
    text = some_text(prompt)
    made = generation(models, text, router=router, reroute=window, sampling=sampling, max_tokens=24)
    paths = []
    for step in made:
        chunk = max(0, (len(text) - PREFIX) // window)
        due = path_after(router, np.array(text), PREFIX + chunk * window) if chunk else 0
        assert step.path == due
        text = [*text, step.token]
        paths.append(step.path)
    assert made.text == text and len(set(paths)) > 1


def test_after_a_change_of_path_the_new_path_has_read_all_the_text() -> None:
    value = run()
    router, models = Router(spec_of(value)), Models(value)
    made = generation(models, some_text(20), router=router, reroute=3, max_tokens=CONTEXT - 20)
    text, seen = some_text(20), set()
    for step in made:
        assert step.token == int(logits_of(models(step.path), text).argmax())
        text = [*text, step.token]
        seen.add(step.path)
    assert len(seen) > 1


def test_a_router_that_looks_at_no_text_chooses_nothing_anew() -> None:
    value = run()
    value = replace(value, routing=replace(value.routing, kind="round_robin"))
    router = Router(unfitted_spec(recipe_of(value)))
    made = generation(Models(value), some_text(30), router=router, reroute=1)
    assert {step.path for step in made} == {0}


def test_the_end_of_text_ends_it_and_is_not_given() -> None:
    models = Models(small_manifest())
    free = [step.token for step in generation(models, some_text(5))]
    end = free[7]
    made = generation(models, some_text(5), end_of_text=end)
    assert [step.token for step in made] == free[: free.index(end)]
    assert made.end == "end of text"
    longer = generation(models, some_text(5))
    assert len(list(longer)) == 20 and longer.end == "max tokens"


def test_an_empty_prompt_begins_after_an_end_of_text() -> None:
    models = Models(small_manifest())
    (step,) = generation(models, [], end_of_text=7, max_tokens=1)
    assert step.token == int(logits_of(models(0), [7]).argmax())


def test_a_seed_gives_the_same_text_again() -> None:
    models = Models(small_manifest())

    def made(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.5, top_k=10, seed=seed)
        return [s.token for s in generation(models, some_text(5), sampling=sampling)]

    assert made(1) == made(1) != made(2)


def test_tokens_are_drawn_from_the_likeliest_k_by_their_chances() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0, -1.0])
    choose = Sampling(temperature=0.5, top_k=3, seed=0).chooser()
    counts = np.bincount([choose(logits) for _ in range(4000)], minlength=5) / 4000
    expected = np.exp(np.array([-np.inf, 3.0, 2.0, 1.0, -np.inf]) / 0.5)
    np.testing.assert_allclose(counts, expected / expected.sum(), atol=0.03)
    assert counts[0] == counts[4] == 0
    assert Sampling(temperature=0.0, top_k=0, seed=0).chooser()(logits) == 1
