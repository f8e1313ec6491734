"""Replies that go on from one prompt: the numbers and gradients of the same sequences packed whole."""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest
import torch

from instructgpt.model.branches import EXPLICIT_KEYS, HALF_EXPLICIT_KEYS, plan_branches
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.heads import new_language_model

GPT2 = ModelConfig.gpt2(vocab_size=61, width=32, layers=2, heads=4, context=600)
LLAMA = ModelConfig.llama(vocab_size=61, width=32, layers=2, heads=4, kv_heads=2, context=600, tied=False)
# Windows that hide the prompt's beginning from some replies, and only from the longest.
MISTRAL = dataclasses.replace(LLAMA, family="mistral", window=5)
WIDE = dataclasses.replace(MISTRAL, window=70)
QWEN3 = dataclasses.replace(LLAMA, family="qwen3", qk_norm=True, rope=RopeScaling("yarn", 4.0, 40))
CONFIGS = pytest.mark.parametrize(
    "config", [GPT2, LLAMA, MISTRAL, WIDE, QWEN3], ids=["gpt2", "llama", "mistral", "wide", "qwen3"]
)

Group = tuple[int, list[int]]
"""Tokens of a prompt, and of each reply to it."""
MIXED: list[Group] = [(9, [3, 1, 12]), (2, [30, 7, 7]), (70, [5, 40]), (1, [1, 2]), (6, []), (1, [])]
LONG: list[Group] = [(EXPLICIT_KEYS - 8, [20, 3]), (5, [EXPLICIT_KEYS + 2, 4])]
LONGER: list[Group] = [(HALF_EXPLICIT_KEYS - 8, [20, 3])]
LAYOUTS = pytest.mark.parametrize(
    "groups", [MIXED, LONG, [(4, [3]), (4, [3])]], ids=["mixed", "long", "even"]
)


def lively(config, dtype=torch.float64):
    """A model whose weights are large enough that a wrong position or a leak shows."""
    model = new_language_model(config, 0).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5) if parameter.dim() > 1 else parameter.add_(0.1)
    return model


def drawn(groups: list[Group]):
    """Ids of every prompt and of its replies."""
    generator = torch.Generator().manual_seed(3)

    def ids(count):
        return torch.randint(0, 61, (count,), generator=generator)

    return [(ids(prompt), [ids(reply) for reply in replies]) for prompt, replies in groups]


def shared(model, documents):
    """Hidden states of each reply, or of a prompt without one, with the prompts computed once."""
    rows = [prompt for prompt, _ in documents] + [reply for _, replies in documents for reply in replies]
    starts = [0] * len(documents) + [len(prompt) for prompt, replies in documents for _ in replies]
    positions = torch.cat([torch.arange(len(r)) + s for r, s in zip(rows, starts, strict=True)])
    lengths, branches = [len(row) for row in rows], [len(replies) for _, replies in documents]
    parts = model(torch.cat(rows), positions, lengths, branches=branches).split(lengths)
    alone = [part for part, count in zip(parts, branches, strict=False) if not count]
    return [*parts[len(documents) :], *alone]


def whole(model, documents):
    """The same, every sequence by itself, prompt and all."""
    found = []
    for prompt, replies in sorted(documents, key=lambda document: not document[1]):
        for reply in replies:
            ids = torch.cat((prompt, reply))
            found.append(model(ids, torch.arange(len(ids)), [len(ids)])[len(prompt) :])
        if not replies:
            found.append(model(prompt, torch.arange(len(prompt)), [len(prompt)]))
    return found


@CONFIGS
@LAYOUTS
def test_hidden_states_and_gradients_are_those_of_whole_sequences(config, groups):
    """Field fault 8, and exact gradients: float64, so that a lost copy could not hide in rounding."""
    documents = drawn(groups)
    first, second = lively(config), lively(config)
    ours, theirs = shared(first, documents), whole(second, documents)
    generator = torch.Generator().manual_seed(5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)
    weights = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in ours]
    for parts in (ours, theirs):
        torch.stack([(part * w).sum() for part, w in zip(parts, weights, strict=True)]).sum().backward()
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        if right.grad is None:  # an untied head, which hidden states do not meet
            assert left.grad is None
            continue
        scale = float(right.grad.abs().max())
        torch.testing.assert_close(left.grad / scale, right.grad / scale, atol=1e-10, rtol=0, msg=name)


@CONFIGS
def test_float32(config):
    documents = drawn(MIXED)
    model = lively(config, torch.float32)
    for one, other in zip(shared(model, documents), whole(model, documents), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("groups", [MIXED, LONG, LONGER], ids=["mixed", "long", "longer"])
def test_bfloat16(groups):
    """bfloat16 has 8 bits: two paths of a sum part by about 2^-8 of the numbers' size, here about 1."""
    documents = drawn(groups)
    model = lively(LLAMA, torch.float32)
    exact = whole(model, documents)
    with torch.autocast("cpu", torch.bfloat16):
        ours = shared(model, documents)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.02)


@CONFIGS
def test_rows_are_the_rows_of_the_whole(config):
    """Last layer for some tokens only: numbers, and the gradient that nothing else contributes to."""
    documents = drawn(MIXED)
    rows = [torch.cat((prompt, *replies[:1])) for prompt, replies in documents]
    ids, lengths = torch.cat(rows), [len(row) for row in rows]
    positions = torch.cat([torch.arange(n) for n in lengths])
    wanted = torch.tensor([*accumulate(lengths)]) - 1
    first, second = lively(config), lively(config)
    some = first(ids, positions, lengths, rows=wanted)
    all_of_them = second(ids, positions, lengths).index_select(0, wanted)
    torch.testing.assert_close(some, all_of_them, atol=1e-12, rtol=1e-12)
    some.pow(3).sum().backward()
    all_of_them.pow(3).sum().backward()
    for (name, left), right in zip(first.named_parameters(), second.parameters(), strict=True):
        if right.grad is not None:
            scale = float(right.grad.abs().max())
            torch.testing.assert_close(left.grad / scale, right.grad / scale, atol=1e-11, rtol=0, msg=name)


def test_the_prompt_is_computed_once():
    """Nine replies of 5 tokens to a prompt of 40: 85 rows meet a linear layer and not 9 x 45."""
    model = lively(GPT2, torch.float32)
    rows = []
    model.transformer.blocks[0].feed.up.register_forward_hook(
        lambda module, given, _: rows.append(given[0].shape[0])
    )
    shared(model, drawn([(40, [5] * 9)]))
    assert rows == [85]


def test_a_layout_that_fits_no_tokens_is_refused():
    cpu = torch.device("cpu")
    for branches in ([1, 2], [0, 2], [2]):
        with pytest.raises(ValueError, match="largest number first"):
            plan_branches([4, 5, 2, 2], branches, GPT2, cpu, torch.float32)
