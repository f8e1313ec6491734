"""Guessing ahead changes no reply, and shared beginnings are read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from instructgpt.errors import ConfigError
from instructgpt.generation import engine as engine_module
from instructgpt.generation import prefill
from instructgpt.generation.ahead import Guesser, keep
from instructgpt.generation.engine import Completion, Engine, Request, generate
from instructgpt.generation.lookup import Lookup, check_lookup
from instructgpt.generation.prefill import Group, common, share
from instructgpt.generation.sampling import keyed_uniform, sample
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model

SIZES = {"vocab_size": 13, "width": 32, "layers": 2, "heads": 4, "context": 96, "tied": False}
FAMILIES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "llama": ModelConfig.llama(**SIZES, kv_heads=2),
    "mistral": ModelConfig.llama(**SIZES, kv_heads=2, family="mistral", window=7),
}


def sharp(family: str) -> LanguageModel:
    """Random, and sure enough of itself to repeat what it says."""
    model = new_language_model(FAMILIES[family], 5)
    with torch.no_grad():
        model.unembedding.mul_(6)
    return model


def alone(model: LanguageModel, request: Request) -> Completion:
    """No cache, no batch, one id at a time: the definition of what a reply is."""
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < request.max_new:
        sequence = torch.tensor([*request.prompt_ids, *ids])
        with torch.no_grad():
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


def assert_same(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    assert [c.ids for c in found] == [c.ids for c in expected]
    assert [c.stopped for c in found] == [c.stopped for c in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=1e-5
        )


class Counter:
    """Counts what goes through a model."""

    def __init__(self, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[int] = []
        forward = model.forward

        def counting(ids: Any, *rest: Any, **more: Any) -> Any:
            self.passes.append(len(ids))
            return forward(ids, *rest, **more)

        monkeypatch.setattr(model, "forward", counting)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ([1, 2, 3, 4, 1, 2, 3], 3, [4, 1, 2]),  # the three ids stood at the beginning
        ([9, 1, 2, 5, 8, 1, 2], 2, [5, 8]),  # no such three, but two
        ([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, [8, 1]),  # the last time counts
        ([4, 4, 4, 4], 5, [4]),  # what followed three of them: the fourth, and there the text ends
        ([1, 2, 3], 4, []),
        ([1], 4, []),
        ([], 4, []),
    ],
)
def test_guesses_are_what_followed(text: list[int], most: int, expected: list[int]) -> None:
    assert Lookup(text).guess(most) == expected
    grown = Lookup(text[:2])
    grown.extend(text[2:])
    assert grown.guess(most) == expected


def test_what_is_kept_ends_at_a_wrong_guess_or_a_stop() -> None:
    """Drawn ids behind each row's last id and its guesses, rows of 1 + 2, 1 + 0, 1 + 3, 1 + 2 and 1 + 1."""
    guesses = [[5, 6], [], [5, 6, 7], [2, 9], [4]]
    drawn = [5, 6, 7, 1, 5, 8, 7, 7, 2, 9, 1, 3, 0]
    stops = [frozenset({1, 2})] * 5
    # all right and one more; one; 5 was right and 8 was not 6; 2 ends it; 3 was not 4
    assert keep(drawn, guesses, stops) == [3, 1, 2, 1, 1]


def test_a_negative_number_of_guesses_is_refused() -> None:
    with pytest.raises(ConfigError, match="--lookup"):
        check_lookup(-1)


def asked(count: int, **settings: Any) -> list[Request]:
    """Prompts that repeat themselves."""
    made = []
    for number in range(count):
        piece = [(number + 3 * place) % 13 for place in range(3 + number % 3)]
        prompt = tuple(piece * 4 + piece[: number % 3])
        made.append(Request(prompt, 70 + number, 5 + number % 37, stop_ids=frozenset({0}), **settings))
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"temperature": 0.7, "top_p": 0.9}])
def test_guessing_ahead_changes_no_reply(family: str, settings: dict[str, Any]) -> None:
    """Ids, log-probabilities and ends are those of a loop that draws one id at a time."""
    model = sharp(family)
    requests = asked(8, **settings)
    expected = [alone(model, request) for request in requests]
    for rows, most in ((1, 4), (3, 6)):
        assert_same(generate(model, requests, max_active=rows, lookup=most), expected)


def test_right_guesses_save_passes_and_wrong_ones_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp("llama")
    requests = [Request(r.prompt_ids, r.key, 40, 0.5) for r in asked(6)]
    counter = Counter(model, monkeypatch)
    plain = generate(model, requests, max_active=1)
    passes = len(counter.passes)
    counter.passes.clear()
    right = wrong = 0
    kept = engine_module.keep

    def counted(drawn: Any, guesses: Any, stops: Any) -> list[int]:
        nonlocal right, wrong
        found = kept(drawn, guesses, stops)
        right += sum(found) - len(found)
        wrong += sum(map(len, guesses)) - (sum(found) - len(found))
        return found

    monkeypatch.setattr(engine_module, "keep", counted)
    assert_same(generate(model, requests, max_active=1, lookup=4), plain)
    assert right > 10 and wrong > 10
    assert len(counter.passes) == passes - right


def test_tokens_come_in_order_and_settings_may_differ() -> None:
    """Greedy and sampled rows side by side; a pause in between; wishes that need one id at a time."""
    model = sharp("llama")
    requests = [
        Request(r.prompt_ids, r.key, 30, (0.0, 1.0, 0.6)[i % 3], top_p=(1.0, 0.9)[i % 2])
        for i, r in enumerate(asked(6))
    ]
    expected = [alone(model, request) for request in requests]
    running = Engine(model, slots=6, want_tokens=True, lookup=3)
    for request in requests:
        running.submit(request)
    seen: dict[int, list[int]] = {number: [] for number in range(7)}
    done: dict[int, Completion] = {}
    for _ in range(4):
        step = running.step()
        for number, index in step.tokens:
            seen[number].append(index)
        done |= dict(step.finished)
    assert running.submit(running.pause(2)) == 6
    while running.busy:
        step = running.step()
        for number, index in step.tokens:
            seen[number].append(index)
        done |= dict(step.finished)
    assert seen[2] + seen[6] == done[6].ids
    done[2] = done.pop(6)
    assert_same([done[number] for number in range(6)], expected)
    assert all(seen[number] == done[number].ids for number in (0, 1, 3, 4, 5))
    wishing = Request(requests[0].prompt_ids, 1, 20, 0.0, frequency_penalty=2.0)
    assert generate(model, [wishing], lookup=4) == generate(model, [wishing])


def test_nothing_is_guessed_with_many_rows() -> None:
    guesser = Guesser(4)
    assert guesser.may(8) and not guesser.may(9) and not Guesser(0).may(1)


def test_common_beginnings() -> None:
    assert common((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common((1, 2), (1, 2)) == 2 and common((), (1,)) == 0 and common((3,), (1,)) == 0


def test_prompts_are_grouped_by_what_they_share() -> None:
    """At least 2 tokens in common. 0 and 2 share 3; with 3 the three would share 2, which saves 4 tokens
    instead of 3; 1 is alone."""
    prompts = [(1, 2, 3, 4), (9, 9, 9), (1, 2, 3, 5, 6), (1, 2, 7)]
    groups = {tuple(sorted(group.members)): group for group in share(prompts, [], 2)}
    assert set(groups) == {(0, 2, 3), (1,)}
    assert groups[0, 2, 3].length == 2 and groups[1,].length == 3
    # The first two have so much in common that the third would spoil it.
    long = (1, 2, *range(20, 30))
    apart = {tuple(sorted(group.members)) for group in share([long, (*long, 4), (1, 2, 7)], [], 2)}
    assert apart == {(0, 1), (2,)}
    # What row 4 holds is not read again; less than 2 tokens do not count.
    found = share([(1, 2, 3, 4), (5, 6)], [(4, (1, 2, 3, 9)), (7, (5, 1))], 2)
    assert sorted((g.length, g.members, g.source) for g in found) == [(2, [1], None), (3, [0], 4)]
    assert share([], [], 2) == [] and share([(1,)], [], 2) == [Group(1, [0])]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [2, 16])
def test_what_prompts_share_is_read_once(family: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A common beginning of 20 tokens before ends of their own, and a second family of prompts."""
    monkeypatch.setattr(prefill, "SHARED_TOKENS", 8)
    model = sharp(family)
    stem, other = tuple(n % 11 for n in range(20)), tuple((5 * n + 1) % 13 for n in range(12))
    prompts = [(*stem, 12, number, number) for number in range(5)]
    prompts += [(*other, number) for number in range(4)]
    prompts += [(3,), (4, 5), stem]
    requests = [Request(prompt, number, 6 + number, 0.8) for number, prompt in enumerate(prompts)]
    expected = [alone(model, request) for request in requests]
    counter = Counter(model, monkeypatch)
    assert_same(generate(model, requests, max_active=rows), expected)
    if rows == 16:
        # Of every prompt all but the last token is read. The five and `stem` share its first 19, and the five
        # have 3 more each; the four share all 12; (4, 5) has 1.
        assert sum(counter.passes[:2]) == 19 + 5 * 3 + 12 + 1
