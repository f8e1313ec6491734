"""Continuous batching against a plain loop: one request at a time, the whole sequence at every step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from instructgpt.errors import ConfigError, DataError
from instructgpt.generation import engine
from instructgpt.generation.engine import Completion, Engine, Request, generate
from instructgpt.generation.room import engine_dtype
from instructgpt.generation.sampling import keyed_uniform, sample
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model

VOCABULARY = 61
CONTEXT = 48
STOPS = frozenset({0, 1, 2, 3})


def tiny_model(family: str = "llama") -> LanguageModel:
    sizes = {
        "vocab_size": VOCABULARY,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "context": CONTEXT,
        "tied": False,
    }
    config = ModelConfig.gpt2(**sizes) if family == "gpt2" else ModelConfig.llama(**sizes, kv_heads=2)
    model = new_language_model(config, 3)
    with torch.no_grad():  # sharper distributions than those of a fresh model
        model.unembedding.mul_(10)
    return model


def requests(count: int, seed: int = 0, **more: object) -> list[Request]:
    """Ragged prompts and budgets; every third prompt is asked twice (another key)."""
    rng = random.Random(seed)
    made: list[Request] = []
    for index in range(count):
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 20)))
        if index % 3 == 2:
            prompt = made[-1].prompt_ids
        settings: dict[str, object] = {"stop_ids": STOPS, **more}
        made.append(Request(prompt, 1000 + index, rng.randint(1, 25), **settings))  # type: ignore[arg-type]
    return made


@torch.no_grad()
def plain_loop(model: LanguageModel, request: Request) -> Completion:
    """No cache, no batch: the definition of what a reply is."""
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < request.max_new:
        sequence = torch.tensor([*request.prompt_ids, *ids])
        hidden = model(sequence, torch.arange(len(sequence)), [len(sequence)])
        uniform = keyed_uniform(torch.tensor([request.key]), torch.tensor([len(ids)]))
        drawn, logprob = sample(
            model.logits(hidden[-1:]), uniform, request.temperature, request.top_k, request.top_p
        )
        ids.append(int(drawn))
        logprobs.append(float(logprob))
        if ids[-1] in request.stop_ids:
            return Completion(ids, logprobs, True)
    return Completion(ids, logprobs, False)


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    assert [c.ids for c in found] == [c.ids for c in expected]
    assert [c.stopped for c in found] == [c.stopped for c in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("max_active", [1, 3, 64])
def test_batched_equals_the_plain_loop(family: str, max_active: int) -> None:
    """Field fault 8: neither the batch nor its order changes a sample; alone = batched = few slots."""
    model = tiny_model(family)
    asked = requests(24)
    expected = [plain_loop(model, request) for request in asked]
    assert any(c.stopped for c in expected) and not all(c.stopped for c in expected)
    assert_same(generate(model, asked, max_active=max_active), expected)


def test_order_of_requests_does_not_matter() -> None:
    model = tiny_model()
    asked = requests(30, seed=1)
    straight = generate(model, asked, max_active=7)
    order = random.Random(5).sample(range(30), 30)
    shuffled = generate(model, [asked[i] for i in order], max_active=7)
    assert_same(shuffled, [straight[i] for i in order])
    alone = [generate(model, [request])[0] for request in asked]
    assert_same(alone, straight)


def test_greedy_is_the_uncached_argmax_loop() -> None:
    model = tiny_model()
    asked = requests(9, seed=2, temperature=0.0, stop_ids=frozenset())
    for request, completion in zip(asked, generate(model, asked), strict=True):
        ids = list(request.prompt_ids)
        with torch.no_grad():
            for _ in range(request.max_new):
                hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
                ids.append(int(model.logits(hidden[-1:]).argmax()))
        assert completion.ids == ids[len(request.prompt_ids) :]
        assert not completion.stopped


def test_settings_differ_between_requests() -> None:
    """Greedy, tempered and truncated rows side by side; field faults 11 and 12."""
    model = tiny_model()
    settings = [(1.0, 0, 1.0), (0.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.8), (1.0, 9, 0.5)]
    asked = [
        Request(r.prompt_ids, r.key, r.max_new, *settings[i % 5], stop_ids=STOPS if i % 2 else frozenset())
        for i, r in enumerate(requests(20, seed=3))
    ]
    assert_same(generate(model, asked, max_active=6), [plain_loop(model, request) for request in asked])


def test_logprobs_are_those_of_a_full_forward_pass() -> None:
    """Log-softmax at the temperature that was sampled at, over the whole vocabulary."""
    model = tiny_model()
    asked = requests(8, seed=4, temperature=0.7)
    for request, completion in zip(asked, generate(model, asked), strict=True):
        sequence = torch.tensor([*request.prompt_ids, *completion.ids])
        with torch.no_grad():
            hidden = model(sequence, torch.arange(len(sequence)), [len(sequence)])
            table = (model.logits(hidden) / 0.7).log_softmax(-1)
        before = torch.arange(len(request.prompt_ids) - 1, len(sequence) - 1)
        expected = table[before, torch.tensor(completion.ids)]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=1e-5)


def test_a_reply_ends_at_a_stop_id_or_at_its_own_budget() -> None:
    model = tiny_model()
    asked = requests(40, seed=6)
    for request, completion in zip(asked, generate(model, asked), strict=True):
        assert 1 <= len(completion.ids) <= request.max_new
        assert len(completion.ids) == len(completion.logprobs)
        assert all(i not in STOPS for i in completion.ids[:-1])
        assert completion.stopped == (completion.ids[-1] in STOPS)
        if not completion.stopped:
            assert len(completion.ids) == request.max_new


def test_samples_of_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    read: list[int] = []
    forward = model.forward

    def counting(ids, positions, lengths, cache=None, slots=None, dropout=0.0):  # type: ignore[no-untyped-def]
        if slots is not None:
            read.append(len(ids))
        return forward(ids, positions, lengths, cache, slots, dropout)

    monkeypatch.setattr(model, "forward", counting)
    asked = [Request((5, 6, 7, 8, 9), key, 6 + key) for key in range(8)]
    completions = generate(model, asked)
    assert read == [4]  # all but the last of five tokens, once
    assert len({tuple(c.ids) for c in completions}) > 1
    assert_same(completions, [plain_loop(model, request) for request in asked])
    # With two slots and unequal budgets, later samples copy the prompt from a row that is still at work.
    read.clear()
    assert_same(generate(model, asked, max_active=2), completions)
    assert sum(read) < 4 * 4


def test_short_prompts_are_read_in_passes_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots, three prompts: no pass is there for a prompt alone."""
    model = tiny_model()
    passes: list[int] = []
    forward = model.forward

    def counting(ids, *rest, **more):  # type: ignore[no-untyped-def]
        passes.append(len(ids))
        return forward(ids, *rest, **more)

    monkeypatch.setattr(model, "forward", counting)
    asked = [Request((5, 6, 7), 0, 7), Request((8,), 1, 4), Request((9, 10, 11, 4), 2, 10)]
    got = generate(model, asked, max_active=2)
    # Longest first: the last one (10 steps) with the first one (7), whose slot the middle one (4) takes.
    assert passes == [4 + 3, *[2] * 6, 1 + 1, 2, 2, 1]
    assert_same(got, [plain_loop(model, request) for request in asked])


def test_prompts_are_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    asked = requests(12, seed=8)
    whole = generate(model, asked)
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 7)  # some prompts are longer than that
    assert_same(generate(model, asked), whole)


def test_cache_grows_only_as_needed() -> None:
    model = tiny_model()
    running = Engine(model, slots=2, capacity=2)
    request = Request((4, 5, 6), 1, CONTEXT - 3)
    running.submit(request)
    running.step()
    assert running._cache.capacity == 4
    finished: list[Completion] = []
    while running.busy:
        finished += [completion for _, completion in running.step().finished]
    assert running._cache.capacity <= CONTEXT
    assert_same(finished, [plain_loop(model, request)])


def test_memory_bounds_the_number_of_rows() -> None:
    model = tiny_model()
    # 2 (keys, values) x 2 layers x 2 heads x 8 numbers x 4 bytes = 256 bytes a token, 10,240 a row of 40.
    assert engine.rows_for_memory(model, 40, 25_000) == 2
    assert engine.rows_for_memory(model, 40, 1) == 1


def test_requests_may_come_and_go_while_others_run() -> None:
    model = tiny_model()
    first, second, third = (Request((4, 5, 6, key), key, 12) for key in (7, 8, 9))
    running = Engine(model, slots=2, want_tokens=True)
    numbers = [running.submit(first), running.submit(second)]
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
    done: dict[int, Completion] = {}
    for step_number in range(40):
        if step_number == 3:
            running.cancel(numbers[0])
            numbers.append(running.submit(third))
        step = running.step()
        for number, token in step.tokens:
            seen[number].append(token)
        done |= dict(step.finished)
    assert not running.busy and sorted(done) == [1, 2]
    assert_same([done[1], done[2]], [plain_loop(model, second), plain_loop(model, third)])
    assert len(seen[0]) == 3 and seen[1] == done[1].ids and seen[2] == done[2].ids


def test_callbacks_name_the_request() -> None:
    model = tiny_model()
    asked = requests(10, seed=11)
    tokens: dict[int, list[int]] = {index: [] for index in range(10)}
    finished: dict[int, Completion] = {}
    completions = generate(
        model,
        asked,
        max_active=4,
        on_token=lambda index, token: tokens[index].append(token),
        on_finish=lambda index, completion: finished.update({index: completion}),
    )
    assert [tokens[i] for i in range(10)] == [c.ids for c in completions]
    assert [finished[i] for i in range(10)] == completions


def test_no_requests_give_no_replies() -> None:
    assert generate(tiny_model(), []) == []


def test_prompt_beyond_the_context_is_named() -> None:
    model = tiny_model()
    fits = Request((1,) * (CONTEXT - 5), 0, 5)
    assert len(generate(model, [fits])[0].ids) == 5
    with pytest.raises(DataError, match=r"request 1.*42 tokens, or set max_new to 5 or less"):
        generate(model, [fits, Request((1,) * (CONTEXT - 5), 0, 6)])
    with pytest.raises(DataError, match="shorten the prompt to 47 tokens"):
        generate(model, [Request((1,) * CONTEXT, 0, 1)])
    with pytest.raises(DataError, match=r"To mend it: set max_new to 47 or less"):
        generate(model, [Request((1,), 0, 500)])
    with pytest.raises(DataError, match="no tokens"):
        generate(model, [Request((), 0, 1)])


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"max_new": 0}, "--max-new"),
        ({"temperature": -1.0}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"top_k": -2}, "--top-k"),
        ({"top_p": 0.0}, "--top-p"),
        ({"top_p": 1.5}, "--top-p"),
    ],
)
def test_impossible_settings_name_the_flag(settings: dict[str, float], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        Request(**{"prompt_ids": (1,), "key": 0, "max_new": 4, **settings})  # type: ignore[arg-type]


def test_a_single_row_on_a_cpu_has_a_cache_in_float32() -> None:
    """Where all of it is at most CACHE_BYTES; several rows have the precision of the model."""
    model = tiny_model().bfloat16()
    assert engine_dtype(model, 1) == torch.float32 and engine_dtype(model, 2) == torch.bfloat16
    assert Engine(model, 1, 16)._cache.keys.dtype == torch.float32
    # 8 bytes x 2 layers x 2 heads x 8 numbers x context against 2^30
    for context, expected in ((2**22, torch.float32), (2**22 + 1, torch.bfloat16)):
        model.config = replace(model.config, context=context)
        assert engine_dtype(model, 1) == expected
