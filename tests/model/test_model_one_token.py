"""The pass of a single token: what the pass of many computes, in every family, window and kind of rope."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from instructgpt.generation.engine import Request, generate
from instructgpt.model.cache import KVCache
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.model.one_token import OneToken
from instructgpt.model.prepacked import _supported, prepacked
from instructgpt.model.quantised import quantised

SIZES: dict[str, Any] = {"vocab_size": 96, "width": 64, "layers": 2, "heads": 4, "context": 64}
LLAMA: dict[str, Any] = SIZES | {"kv_heads": 2, "ffn_width": 96}
FAMILIES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "llama": ModelConfig.llama(**LLAMA, tied=False),
    "qwen2": ModelConfig.llama(**LLAMA, family="qwen2", attention_bias=True),
    "qwen3": ModelConfig.llama(**LLAMA, family="qwen3"),
    "window": ModelConfig.llama(**LLAMA, family="mistral", window=7),
    "dynamic": ModelConfig.llama(**LLAMA, rope=RopeScaling("dynamic", 2.0, 16)),
    "yarn": ModelConfig.llama(**LLAMA, rope=RopeScaling("yarn", 4.0, 16)),
}


def model_of(family: str) -> LanguageModel:
    """Random, with biases and norms that are not their start."""
    model = new_language_model(FAMILIES[family], 3).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
                )
    return model


def read(model: LanguageModel, ids: Tensor, dtype: torch.dtype, slots: int = 1) -> Tensor:
    """Hidden states (40, D) of the last of 10 ids read together and 39 that follow one at a time."""
    cache = KVCache(model.config, slots, 64, dtype)
    with torch.inference_mode():
        hidden = [model(ids[:10], torch.arange(10), [10], cache)[-1:]]
        hidden += [model(ids[i : i + 1], torch.tensor([i]), [1], cache) for i in range(10, 49)]
    assert cache.lengths.tolist() == [49] + [0] * (slots - 1)
    return torch.cat(hidden)


def ids_of(seed: int) -> Tensor:
    return torch.randint(0, 96, (49,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_that_of_many_tokens(family: str) -> None:
    model = model_of(family)
    expected = read(model, ids_of(1), torch.float32)
    model.transformer.one_token = OneToken(model.transformer)
    torch.testing.assert_close(read(model, ids_of(1), torch.float32), expected, rtol=1e-4, atol=1e-5)
    # What it stored is what passes of several tokens go on from.
    whole = KVCache(model.config, 1, 64)
    with torch.inference_mode():
        at_once = model(ids_of(1), torch.arange(49), [49], whole)
    torch.testing.assert_close(at_once[-1:], expected[-1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_nearer_to_float32_or_as_near(family: str, dtype: torch.dtype) -> None:
    """Both ways round to 2^-9 at every step, this one at fewer of them; whatever the cache is in."""
    exact = model_of(family)
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    plain = copy.deepcopy(exact).bfloat16()
    fast = copy.deepcopy(plain)
    fast.transformer.one_token = OneToken(fast.transformer)
    expected = read(exact, ids_of(2), torch.float32)
    usual = (read(plain, ids_of(2), torch.bfloat16, slots=2).float() - expected).pow(2).mean().sqrt()
    error = (read(fast, ids_of(2), dtype, slots=2).float() - expected).pow(2).mean().sqrt()
    assert 0 < float(error) < 1.1 * float(usual)


@pytest.mark.parametrize("weights", ["prepacked", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_of_one_row_answers_as_it_did(
    family: str, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy: what it draws is the most likely by a pass over all tokens at once, but for a rounding; on
    each kind of weights that has this pass."""
    if weights == "prepacked" and not _supported():
        pytest.skip("oneDNN multiplies no bfloat16 on this processor")
    model = model_of(family).bfloat16()
    model = prepacked(model) if weights == "prepacked" else quantised(model, weights)
    taken, call = [], OneToken.__call__

    def counted(self: OneToken, ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        taken.append(int(positions[0]))
        return call(self, ids, positions, cache)

    monkeypatch.setattr(OneToken, "__call__", counted)
    requests = [Request(tuple(range(2, 12 + n)), n, 12, temperature=0.0) for n in range(4)]
    replies = generate(model, requests, max_active=1)
    assert taken == [length + i for length in (13, 12, 11, 10) for i in range(11)]
    for request, reply in zip(requests, replies, strict=True):
        ids = torch.tensor([*request.prompt_ids, *reply.ids])
        with torch.inference_mode():
            hidden = model(ids, torch.arange(len(ids)), [len(ids)])
            logits = model.logits(hidden)[len(request.prompt_ids) - 1 : -1].float()  # (12, V)
        drawn = logits.gather(1, torch.tensor(reply.ids)[:, None])[:, 0]
        assert float((logits.amax(1) - drawn).max()) < 0.1 * float(logits.std())


def test_a_full_slot_is_said() -> None:
    model = model_of("llama")
    model.transformer.one_token = OneToken(model.transformer)
    cache = KVCache(model.config, 1, 3)
    with torch.inference_mode():
        model(torch.tensor([5, 6, 7]), torch.arange(3), [3], cache)
        with pytest.raises(ValueError, match="4 tokens does not fit a cache of capacity 3"):
            model(torch.tensor([8]), torch.tensor([3]), [1], cache)
