"""Continuations in trees: the numbers that each would have alone, and no token read twice."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
import torch

from instructgpt.errors import DataError
from instructgpt.evaluation.suite import branches
from instructgpt.evaluation.suite.branches import likelihoods
from instructgpt.evaluation.suite.trees import Tree, grow, shared_head
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model

GPT2 = ModelConfig.gpt2(vocab_size=61, width=32, layers=2, heads=4, context=128)
LLAMA = ModelConfig.llama(vocab_size=61, width=32, layers=2, heads=4, kv_heads=2, context=128, tied=False)
MISTRAL = dataclasses.replace(LLAMA, family="mistral", window=5)
CONFIGS = pytest.mark.parametrize("config", [GPT2, LLAMA, MISTRAL], ids=["gpt2", "llama", "window"])

Pairs = list[tuple[tuple[int, ...], tuple[int, ...]]]


def lively(config: ModelConfig) -> LanguageModel:
    """A model whose weights are large enough that a wrong position or a leak shows; float64 but for the last
    step, so that rounding does not hide one."""
    model = new_language_model(config, 0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() > 1 else parameter.add_(0.1)
    return model


def alone(
    model: LanguageModel, context: tuple[int, ...], continuation: tuple[int, ...]
) -> tuple[float, bool]:
    """One pair by itself: the whole text in one pass, cut from the left to what the model can see."""
    whole = (context + continuation)[-(model.config.context + 1) :]
    with torch.no_grad():
        hidden = model(torch.tensor(whole[:-1]), torch.arange(len(whole) - 1), [len(whole) - 1])
        logits = model.logits(hidden)[-len(continuation) :]
    nats = logits.log_softmax(-1).gather(1, torch.tensor(continuation)[:, None]).sum()
    return float(nats), bool((logits.argmax(-1) == torch.tensor(continuation)).all())


def drawn(lengths: list[tuple[int, list[int]]], seed: int = 1, beginning: tuple[int, ...] = ()) -> Pairs:
    """Random contexts, each with random continuations of the lengths given."""
    chance = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(61) for _ in range(count))

    return [
        (context, ids(count))
        for before, counts in lengths
        for context in [beginning + ids(before)]
        for count in counts
    ]


def assert_as_alone(model: LanguageModel, pairs: Pairs, max_tokens: int = 2048) -> None:
    found = likelihoods(model, pairs, max_tokens=max_tokens)
    for (context, continuation), likelihood in zip(pairs, found, strict=True):
        nats, greedy = alone(model, context, continuation)
        assert likelihood.nats == pytest.approx(nats, rel=1e-5, abs=1e-4)
        assert likelihood.greedy == greedy and likelihood.tokens == len(continuation)


CHOICES = [(20, [3, 1, 7]), (9, [1, 1]), (31, [5]), (1, [4, 9]), (12, [2, 2, 2, 11])]


@CONFIGS
@pytest.mark.parametrize("max_tokens", [2048, 40])
def test_choices_of_many_questions(config: ModelConfig, max_tokens: int) -> None:
    assert_as_alone(lively(config), drawn(CHOICES), max_tokens)


@CONFIGS
def test_behind_a_head_that_all_contexts_share(config: ModelConfig) -> None:
    head = drawn([(40, [1])])[0][0]
    pairs = drawn(CHOICES, beginning=head)
    trees = grow(pairs)
    assert shared_head(trees)[:40] == head
    assert_as_alone(lively(config), pairs)
    assert_as_alone(lively(config), pairs, max_tokens=30)


@CONFIGS
def test_sentences_that_differ_in_a_word(config: ModelConfig) -> None:
    """CrowS-Pairs: one context (the beginning of a document) for everything."""
    chance = random.Random(4)
    pairs: Pairs = []
    for _ in range(6):
        before, after = ([chance.randrange(61) for _ in range(count)] for count in (12, 8))
        pairs += [((0,), (*before, word, *after)) for word in (5, 6)]
    trees = grow(pairs)
    assert sorted(len(tree.branches) for tree in trees) == [2] * 6
    assert sum(tree.tokens for tree in trees) == 6 * (1 + 12 + 2 * 8)  # 2 x (1 + 20) each if read apart
    assert_as_alone(lively(config), pairs)


def test_what_is_too_long_loses_its_beginning() -> None:
    model = lively(dataclasses.replace(LLAMA, context=16))
    pairs = drawn([(30, [4, 6]), (14, [3, 2]), (13, [4])])
    assert_as_alone(model, pairs)
    shorter = likelihoods(model, pairs, context=8)
    narrow = lively(dataclasses.replace(LLAMA, context=8))
    expected = [alone(narrow, *pair)[0] for pair in pairs]
    assert [likelihood.nats for likelihood in shorter] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="continuation of 17 tokens exceeds the model's context of 16"):
        likelihoods(model, drawn([(2, [17])]))
    with pytest.raises(DataError, match="no tokens"):
        likelihoods(model, [((), (1,))])


def test_equal_pairs_and_prefixes_of_each_other() -> None:
    context = tuple(range(10))
    pairs = [(context, ids) for ids in ((1, 2, 3), (1, 2), (1, 2, 3), (1,), (4,))]
    assert_as_alone(lively(LLAMA), pairs)


def test_greedy_is_what_the_model_would_say() -> None:
    model = lively(LLAMA)
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        for _ in range(4):
            hidden = model(torch.tensor(ids), torch.arange(len(ids)), [len(ids)])
            ids.append(int(model.logits(hidden[-1:]).argmax()))
    other = (*ids[5:8], (ids[8] + 1) % 61)
    found = likelihoods(model, [(tuple(ids[:5]), tuple(ids[5:])), (tuple(ids[:5]), other)])
    assert [likelihood.greedy for likelihood in found] == [True, False]


def test_a_question_costs_its_context_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens read: 20 + (3 + 1 + 7 - 3) + ..., the last token of a continuation being read by nobody; rows
    that meet the vocabulary: one for the context's end and one for each token read of a continuation."""
    model = lively(LLAMA)
    read, met = 0, 0
    forward, logits = LanguageModel.forward, LanguageModel.logits

    def counting(self: LanguageModel, ids: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        nonlocal read
        read += len(ids)
        return forward(self, ids, *rest, **more)

    def rows(self: LanguageModel, hidden: torch.Tensor) -> torch.Tensor:
        nonlocal met
        met += len(hidden)
        return logits(self, hidden)

    monkeypatch.setattr(LanguageModel, "forward", counting)
    monkeypatch.setattr(LanguageModel, "logits", rows)
    likelihoods(model, drawn([(20, [3, 1, 7]), (12, [2, 2])]))
    assert read == 20 + (3 + 1 + 7 - 3) + 12 + (2 + 2 - 2)
    assert met == 1 + (3 + 1 + 7 - 3) + 1 + (2 + 2 - 2)


@pytest.mark.parametrize("beginning", [(), tuple(range(40))], ids=["alone", "head"])
@pytest.mark.parametrize("tokens", [0, 100])
def test_few_rows_of_the_cache_are_enough(
    tokens: int, beginning: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for `tokens` tokens: the longest text is read alone, the short ones several at a time."""
    per_token = 2 * LLAMA.layers * LLAMA.kv_heads * LLAMA.head_dim * 8  # keys and values in float64
    monkeypatch.setattr(branches, "CACHE_BYTES", tokens * per_token)
    lengths = [(40, [20, 20]), *[(8, [2, 3])] * 12]
    assert_as_alone(lively(LLAMA), drawn(lengths, beginning=beginning), max_tokens=60)


def test_finished_continuations_are_counted() -> None:
    seen: list[int] = []
    pairs = drawn(CHOICES)
    likelihoods(lively(LLAMA), pairs, max_tokens=40, on_done=seen.append)
    assert sum(seen) == len(pairs) and len(seen) > 1


def test_a_uniform_model_gives_equal_shares() -> None:
    """All weights 0: every token has probability 1 / 61."""
    model = new_language_model(LLAMA, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    (found,) = likelihoods(model, [((1, 2), (3, 4, 5))])
    assert found.nats == pytest.approx(-3 * math.log(61))


def test_trees_join_what_saves_tokens() -> None:
    context = tuple(range(20))
    (tree,) = grow([(context, (1, 2, 3)), (context, (1, 4)), (context, (9,))])
    assert tree == Tree(context, 20, [(1, 2, 3), (1, 4), (9,)], [[0], [1], [2]])
    apart = grow([((0,), (1, 2, 3)), ((0,), (1, 4))])  # two tokens in common are too few for a tree
    assert [(found.stem, found.branches) for found in apart] == [
        ((0, 1, 2, 3), [()]),
        ((0, 1, 4), [()]),
    ]
