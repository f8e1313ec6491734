"""The oneDNN product against float64 by hand of PyTorch's own operators."""

from __future__ import annotations

import pytest
import torch

from instructgpt.model.linear import Linear, linear


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16), (1, 16), (300, 16), (0, 16)])
@pytest.mark.parametrize("biased", [True, False])
def test_product_and_its_gradients_equal_float64(shape, biased):
    given = [draw(*shape, seed=0), draw(24, 16, seed=1), draw(24, seed=2) if biased else None]
    weighting = draw(*shape[:-1], 24, seed=3)
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs, weight, bias = (
            None if t is None else t.to(dtype).detach().requires_grad_(True) for t in given
        )
        if dtype == torch.float32:
            out = linear(inputs, weight, bias)
        else:
            out = inputs @ weight.T + (0 if bias is None else bias)
        (out * weighting.to(dtype)).sum().backward()
        results.append([out.detach(), *(t.grad for t in (inputs, weight, bias) if t is not None)])
    for got, expected in zip(*results, strict=True):
        assert got.is_contiguous()
        torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-5)


def test_same_numbers_with_and_without_gradients():
    layer, inputs = Linear(16, 24), draw(7, 16, seed=0)
    with torch.inference_mode():
        without = layer(inputs)
    assert torch.equal(layer(inputs), without)


def test_frozen_parts_get_no_gradient():
    layer, inputs = Linear(16, 24), draw(7, 16, seed=0)
    layer.weight.requires_grad_(False)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None and inputs.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((24,), 7.0))


def test_other_precisions_take_the_usual_way():
    layer, inputs = Linear(16, 24), draw(7, 16, seed=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    assert layer.double()(inputs.double()).dtype == torch.float64
