"""Weights of 8 and 4 bits: what is rounded, by how much, and that a model still says the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from instructgpt.errors import ConfigError
from instructgpt.generation.engine import Request, generate
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.model.quantised import FEW_ROWS, GROUP, Int4Weights, Int8Weights, quantised

SIZES: dict[str, Any] = {"vocab_size": 96, "width": 64, "layers": 2, "heads": 4, "context": 48}
FAMILIES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "llama": ModelConfig.llama(**SIZES, kv_heads=2, ffn_width=96, tied=False),
    "qwen2": ModelConfig.llama(**SIZES, family="qwen2", kv_heads=2, ffn_width=96, attention_bias=True),
}


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, FEW_ROWS, FEW_ROWS + 1, 70])
def test_eight_bits_are_half_a_step_of_a_row(dtype: torch.dtype, rows: int) -> None:
    """By hand: a step is the row's largest number over 127, and a number moves by half of one at most; 1.01
    for the step's own rounding to 8 bits."""
    weight, bias = matrix(48, 64, 1), matrix(1, 48, 2)[0]
    layer = Int8Weights(weight.to(dtype), bias.to(dtype))
    step = weight.to(dtype).float().abs().amax(1) / 127
    stored = layer.whole.float() * layer.scale.float()[:, None]
    assert (
        (stored - weight.to(dtype).float()).abs() <= 0.505 * step[:, None] + 0.5 * step[:, None] / 128
    ).all()
    inputs = matrix(rows, 64, 3).to(dtype)
    expected = inputs.double() @ stored.double().T + bias.to(dtype).double()
    found = layer(inputs)
    assert found.dtype == dtype and found.shape == (rows, 48)
    # Inputs and result are rounded to 8 bits: 2^-9 of a number each, summed over 64 like independent errors.
    torch.testing.assert_close(found.double(), expected, atol=0.15, rtol=0.02)


@pytest.mark.parametrize("rows", [1, 6, 40])
def test_four_bits_are_half_a_step_of_a_group(rows: int) -> None:
    """16 levels between the least and the largest of each 32: half a step is a 30th of their distance."""
    weight = matrix(32, 64, 4)
    layer = Int4Weights(weight)
    stored = layer(torch.eye(64)).T.float()  # each product is one number
    grouped = weight.view(32, 2, GROUP)
    distance = (grouped.amax(-1) - grouped.amin(-1)).repeat_interleave(GROUP, 1)
    largest = grouped.abs().amax(-1).repeat_interleave(GROUP, 1)
    # Beside the half step: step, offset and result are rounded to 8 bits (2^-9 each, the step 8 times).
    assert ((stored - weight).abs() <= distance / 30 + largest * 2**-7 + distance / 15 * 8 * 2**-9).all()
    inputs = matrix(rows, 64, 5)
    torch.testing.assert_close(layer(inputs), inputs @ stored.T, atol=0.25, rtol=0.02)


def lively(family: str) -> LanguageModel:
    """Sure enough of itself that rounding the weights does not change its mind."""
    model = new_language_model(FAMILIES[family], 3)
    with torch.no_grad():
        model.unembedding.mul_(2)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("weights", "bound"), [("int8", 0.02), ("int4", 0.25)])
def test_a_models_logits_stay_near(family: str, weights: Any, bound: float) -> None:
    """Root mean square of the logits' error, in standard deviations of the logits, for few rows and many."""
    ids = torch.randint(0, 96, (40,), generator=torch.Generator().manual_seed(1))
    lengths = [40]
    whole = lively(family)
    with torch.inference_mode():
        expected = whole.logits(whole(ids, torch.arange(40), lengths))
        small = quantised(lively(family), weights)
        found = small.logits(small(ids, torch.arange(40), lengths))
        few = small.logits(small(ids[:5], torch.arange(5), [5]))
    spread = expected.std()
    assert ((found - expected).pow(2).mean().sqrt() / spread) < bound
    assert ((few - expected[:5]).pow(2).mean().sqrt() / spread) < bound
    assert small.unembedding.shape == (96, 64)
    assert not any(parameter.requires_grad for parameter in small.parameters())


def test_replies_do_not_depend_on_the_batch() -> None:
    """One at a time and beside others: the integers are the same, so certain replies are."""
    model = quantised(lively("llama"), "int8")
    asked = [Request(tuple(range(5 + n, 9 + 2 * n)), n, 12, 0.0) for n in range(4)]
    together = generate(model, asked)
    assert [c.ids for c in together] == [generate(model, [request])[0].ids for request in asked]


def test_what_cannot_be_stored_is_refused_or_kept_in_eight_bits() -> None:
    odd = ModelConfig.llama(vocab_size=96, width=40, layers=1, heads=2, context=16, ffn_width=48)
    small = quantised(new_language_model(odd, 1), "int4")
    kinds = {type(module).__name__ for module in small.modules() if "Weights" in type(module).__name__}
    assert kinds == {"Int8Weights"}  # 40 and 48 are no multiples of 32
    with pytest.raises(ConfigError, match="--weights"):
        quantised(new_language_model(odd, 1), "int2")  # type: ignore[arg-type]
    model = new_language_model(odd, 1)
    assert quantised(model, "full") is model
