"""Matrices in oneDNN's own order: the same products, the same model, and only where they can be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from instructgpt.generation.engine import Request, generate
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.model.linear import Linear
from instructgpt.model.prepacked import PrepackedModel, PrepackedWeights, _supported, prepacked

pytestmark = pytest.mark.skipif(not _supported(), reason="oneDNN multiplies no bfloat16 on this processor")
SIZES: dict[str, Any] = {"vocab_size": 96, "width": 64, "layers": 2, "heads": 4, "context": 48}
FAMILIES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "llama": ModelConfig.llama(**SIZES, kv_heads=2, ffn_width=96, tied=False),
    "qwen2": ModelConfig.llama(**SIZES, family="qwen2", kv_heads=2, ffn_width=96, attention_bias=True),
}


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def model_of(family: str) -> LanguageModel:
    """Random, in bfloat16, with biases that are not 0."""
    model = new_language_model(FAMILIES[family], 3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.bfloat16().eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 5, 32, 300])
def test_a_product_is_that_of_float64(rows: int, bias: bool) -> None:
    """Inputs are bfloat16 already and sums are float32: only the result is rounded, to 2^-9 of itself."""
    weight, inputs = matrix(48, 80, 1).bfloat16(), matrix(rows, 80, 2).bfloat16()
    extra = matrix(1, 48, 3)[0].bfloat16() if bias else None
    found = PrepackedWeights(weight, extra)(inputs)
    expected = inputs.double() @ weight.double().T + (0 if extra is None else extra.double())
    assert found.shape == (rows, 48) and found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 5])
def test_what_is_added_is_rounded_once(rows: int) -> None:
    weight, inputs, other = (matrix(n, m, n).bfloat16() for n, m in ((48, 80), (rows, 80), (rows, 48)))
    found = PrepackedWeights(weight, matrix(1, 48, 3)[0].bfloat16()).added(inputs, other)
    expected = inputs.double() @ weight.double().T + matrix(1, 48, 3)[0].bfloat16().double() + other.double()
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)


def test_rows_that_do_not_lie_together() -> None:
    weight, wide = matrix(48, 80, 1).bfloat16(), matrix(6, 160, 2).bfloat16()
    layer = PrepackedWeights(weight)
    torch.testing.assert_close(layer(wide[:, 80:]), layer(wide[:, 80:].contiguous()), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_same_logits(family: str) -> None:
    plain = model_of(family)
    packed = prepacked(copy.deepcopy(plain))
    assert isinstance(packed, PrepackedModel)
    assert not any(isinstance(module, Linear) for module in packed.transformer.modules())
    ids = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = (m.logits(m(ids, torch.arange(40), [40])).float() for m in (plain, packed))
    # Roundings of two layers, 2^-9 each, against logits of this spread:
    assert float((found - expected).pow(2).mean().sqrt()) < 0.02 * float(expected.std())
    torch.testing.assert_close(packed.unembedding, plain.unembedding, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_answers_as_it_did(family: str) -> None:
    """Greedy, where the model is sure enough that a rounding does not change its mind."""
    plain = model_of(family)
    with torch.no_grad():
        plain.unembedding.mul_(40)
    requests = [Request(tuple(range(2, 12 + n)), n, 12, temperature=0.0) for n in range(6)]
    expected = [reply.ids for reply in generate(plain, requests)]
    assert [reply.ids for reply in generate(prepacked(plain), requests)] == expected


def test_what_is_not_bfloat16_stays_as_it_is() -> None:
    model = new_language_model(FAMILIES["llama"], 3)
    assert prepacked(model) is model
