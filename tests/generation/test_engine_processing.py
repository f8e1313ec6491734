"""Penalties, biases, min-p, log-probabilities and pauses of single rows, against a loop without an engine."""

from __future__ import annotations

import math
import random

import pytest
import torch

from instructgpt.errors import ConfigError
from instructgpt.generation.engine import Completion, Engine, Request, generate
from instructgpt.generation.prompt_logprobs import prompt_logprobs
from instructgpt.generation.sampling import keyed_uniform, sample
from instructgpt.generation.shapes import fill_up, round_up
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model

VOCABULARY = 37


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": 64, "tied": False}
    made = new_language_model(ModelConfig.llama(vocab_size=VOCABULARY, **sizes), 5)
    with torch.no_grad():
        made.unembedding.mul_(6)
    return made


def last_logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
        return model.logits(hidden[-1:])


def slow(model: LanguageModel, request: Request) -> list[int]:
    """OpenAI's definition, id by id: logit - count * frequency - (count > 0) * presence + bias; a draw."""
    ids: list[int] = []
    while len(ids) < request.max_new:
        logits = last_logits(model, [*request.prompt_ids, *ids]).clone()
        for index in range(VOCABULARY):
            count = ids.count(index)
            logits[0, index] -= count * request.frequency_penalty
            logits[0, index] -= request.presence_penalty if count > 0 else 0.0
        for index, value in request.logit_bias:
            logits[0, index] += value
        uniform = keyed_uniform(torch.tensor([request.key]), torch.tensor([len(ids)]))
        settings = (request.temperature, request.top_k, request.top_p, request.min_p)
        ids.append(int(sample(logits, uniform, *settings)[0]))
        if ids[-1] in request.stop_ids:
            break
    return ids


def wishes(count: int) -> list[Request]:
    rng = random.Random(0)
    settings: list[dict[str, object]] = [
        {},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.8, "temperature": 0.0},
        {"logit_bias": ((3, 5.0), (7, -100.0))},
        {"min_p": 0.2, "temperature": 1.4},
        {"presence_penalty": -0.7, "frequency_penalty": 1.1, "logit_bias": ((1, 2.0),), "top_k": 9},
        {"top_p": 0.7, "min_p": 0.05, "temperature": 0.7},
    ]
    made = []
    for index in range(count):
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9)))
        made.append(Request(prompt, 50 + index, rng.randint(1, 20), **settings[index % 7]))  # type: ignore[arg-type]
    return made


def test_wishes_of_rows_are_kept_apart(model: LanguageModel) -> None:
    asked = wishes(21)
    expected = [slow(model, request) for request in asked]
    for slots in (1, 4, 32):
        assert [c.ids for c in generate(model, asked, max_active=slots)] == expected
    plain = [slow(model, Request(r.prompt_ids, r.key, r.max_new)) for r in asked]
    assert expected != plain


def test_a_bias_of_100_forces_and_bans(model: LanguageModel) -> None:
    forced = Request((1, 2), 0, 5, logit_bias=((9, 100.0),))
    assert generate(model, [forced])[0].ids == [9] * 5
    everything_but = tuple((index, -100.0) for index in range(VOCABULARY) if index != 4)
    assert generate(model, [Request((1, 2), 0, 5, logit_bias=everything_but)])[0].ids == [4] * 5


def test_ids_of_the_prompt_are_not_penalised(model: LanguageModel) -> None:
    bias = ((5, 60.0), (6, 59.0))
    alone = Request((5, 5, 5, 6), 0, 4, 0.0, logit_bias=bias)
    logits = last_logits(model, [5, 5, 5, 6])[0]
    first = 5 if logits[5] + 60 > logits[6] + 59 else 6
    assert generate(model, [alone])[0].ids[0] == first
    penalised = Request((5, 5, 5, 6), 0, 1, 0.0, logit_bias=bias, presence_penalty=50.0)
    assert generate(model, [penalised])[0].ids == [first]


def test_reported_logprobs_are_the_models_own(model: LanguageModel) -> None:
    """Field fault 42: temperature, filters and biases change the draw and not what is reported of it."""
    asked = [
        Request((1, 2, 3), 7, 6, 0.5, top_k=3, logit_bias=((2, 3.0),), top_logprobs=4),
        Request((4,), 8, 6),
        Request((9, 1), 9, 4, 0.0, top_logprobs=0),
    ]
    engine = Engine(model, 3, want_tokens=True)
    for request in asked:
        engine.submit(request)
    ids: dict[int, list[int]] = {0: [], 1: [], 2: []}
    seen = 0
    while engine.busy:
        step = engine.step()
        assert not set(step.logprobs) & {1}
        for number, index in step.tokens:
            if number in step.logprobs:
                before = [*asked[number].prompt_ids, *ids[number]]
                expected = torch.log_softmax(last_logits(model, before)[0].double(), -1)
                view = step.logprobs[number]
                assert view.logprob == pytest.approx(float(expected[index]), abs=1e-5)
                top = sorted(range(VOCABULARY), key=lambda i: -float(expected[i]))[
                    : asked[number].top_logprobs
                ]
                assert [i for i, _ in view.top] == top
                assert [p for _, p in view.top] == pytest.approx([float(expected[i]) for i in top], abs=1e-5)
                assert dict(view.top).get(index, view.logprob) == view.logprob
                seen += 1
            ids[number].append(index)
    assert seen == 10


def test_a_paused_row_goes_on_where_it_was(model: LanguageModel) -> None:
    asked = [*wishes(7), Request((1, 2, 3), 3, 20, stop_ids=frozenset({0, 1, 2}))]
    expected = generate(model, asked)
    engine = Engine(model, 3)
    waiting = {engine.submit(request): place for place, request in enumerate(asked)}
    found: dict[int, Completion] = {}
    rng = random.Random(4)
    pauses = 0
    while engine.busy:
        for number, completion in engine.step().finished:
            found[waiting.pop(number)] = completion
        active = [number for number, _ in engine._active]
        if active and rng.random() < 0.5:
            number = rng.choice(active)
            waiting[engine.submit(engine.pause(number))] = waiting.pop(number)
            pauses += 1
    assert pauses > 5
    assert [found[place].ids for place in range(len(asked))] == [c.ids for c in expected]
    assert [found[place].stopped for place in range(len(asked))] == [c.stopped for c in expected]
    for place, completion in enumerate(expected):
        assert found[place].logprobs == pytest.approx(completion.logprobs, abs=1e-5)
    with pytest.raises(KeyError):
        engine.pause(12345)


def test_free_slots(model: LanguageModel) -> None:
    engine = Engine(model, 3)
    assert engine.free == 3
    numbers = [engine.submit(Request((1,), 0, 9)) for _ in range(2)]
    assert engine.free == 1
    engine.step()
    engine.cancel(numbers[0])
    assert engine.free == 2


@pytest.mark.parametrize("min_p", [-0.1, 1.1, math.nan])
def test_min_p_has_bounds(min_p: float) -> None:
    with pytest.raises(ConfigError, match="min_p"):
        Request((1,), 0, 1, min_p=min_p)


def test_prompt_logprobs_are_those_of_each_prefix(model: LanguageModel) -> None:
    prompts = [[1, 5, 9, 2], [3], [8, 8, 30, 1, 0, 36]]
    found = prompt_logprobs(model, prompts, [2, 1, 0])
    assert [len(scores) for scores in found] == [4, 1, 6]
    assert all(scores[0] is None for scores in found)
    for prompt, scores, top in zip(prompts, found, [2, 1, 0], strict=True):
        for place in range(1, len(prompt)):
            expected = torch.log_softmax(last_logits(model, prompt[:place])[0].double(), -1)
            score = scores[place]
            assert score is not None
            assert score.logprob == pytest.approx(float(expected[prompt[place]]), abs=1e-5)
            assert [i for i, _ in score.top] == expected.topk(top).indices.tolist()


def test_prompt_logprobs_in_small_pieces(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[1, 5, 9, 2], [3, 4], [8, 8, 30, 1, 0, 36]]
    whole = prompt_logprobs(model, prompts, [1, 1, 1])
    monkeypatch.setattr("instructgpt.generation.prompt_logprobs.CHUNK_ELEMENTS", 2 * VOCABULARY)
    pieces = prompt_logprobs(model, prompts, [1, 1, 1])
    for one, other in zip(whole, pieces, strict=True):
        for a, b in zip(one[1:], other[1:], strict=True):
            assert a is not None and b is not None
            assert a.logprob == pytest.approx(b.logprob, abs=1e-5)


def test_round_numbers_of_tokens() -> None:
    assert [round_up(n) for n in (1, 8, 9, 17, 33, 64, 65, 128, 257)] == [8, 8, 16, 32, 64, 64, 72, 128, 320]
    assert fill_up([[1, 2, 3], [4]], 64) == (0,) * 4 and fill_up([[1] * 8], 64) == ()
    assert fill_up([[1] * 257], 40) == ()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_filling_up_changes_no_reply(family: str) -> None:
    sizes = {"width": 16, "layers": 2, "heads": 2, "context": 64, "vocab_size": VOCABULARY}
    config = ModelConfig.gpt2(**sizes) if family == "gpt2" else ModelConfig.llama(**sizes)
    made, asked = new_language_model(config, 5), wishes(21)
    engine = Engine(made, 5, few_shapes=True)
    numbers = [engine.submit(request) for request in asked]
    found: dict[int, Completion] = {}
    while engine.busy:
        found |= dict(engine.step().finished)
    expected = generate(made, asked)
    assert [found[number].ids for number in numbers] == [completion.ids for completion in expected]
