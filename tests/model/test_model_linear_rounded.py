"""bfloat16 products on float32 weights: what they give, and that their copies are never stale."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from instructgpt.model import linear as room
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.linear import Linear, forget_rounded, linear, rounded, route, store_rounded

HALF = torch.bfloat16


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 16), (2, 3, 16), (1, 16)])
@pytest.mark.parametrize("biased", [True, False])
def test_product_and_gradients_are_those_of_autocast(shape: tuple[int, ...], biased: bool) -> None:
    """PyTorch's own autocast does the same on a plain layer: the same roundings, the same sums.

    The bias alone differs: autocast sums its gradient to bfloat16, we to float32.
    """
    found = []
    for layer_class in (Linear, nn.Linear):
        layer = layer_class(16, 24, bias=biased)
        with torch.no_grad():
            layer.weight.copy_(draw(24, 16, seed=1))
            if biased:
                layer.bias.copy_(draw(24, seed=2))
        inputs = draw(*shape, seed=0).requires_grad_()
        with torch.autocast("cpu", HALF):
            out = layer(inputs)
        assert out.dtype == HALF
        (out.float() * draw(*shape[:-1], 24, seed=3)).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
        found.append((out.detach(), inputs.grad, layer.weight.grad, layer.bias.grad if biased else None))
    (out, by_inputs, by_weight, by_bias), (their_out, their_inputs, their_weight, their_bias) = found
    torch.testing.assert_close(out, their_out, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(by_inputs, their_inputs, rtol=2**-7, atol=2**-6)
    torch.testing.assert_close(by_weight, their_weight, rtol=2**-7, atol=2**-6)
    if biased:
        torch.testing.assert_close(by_bias, their_bias, rtol=2**-7, atol=2**-6)


def test_the_copy_follows_every_change_of_the_weight() -> None:
    """Optimizer step, assignment in place, loading, another `.data`: products are of the present numbers."""
    layer = Linear(8, 8, bias=False)
    inputs = draw(3, 8, seed=0)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True)

    def step() -> None:
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()

    def assign() -> None:
        with torch.no_grad():
            layer.weight.mul_(-1.5)

    def load() -> None:
        layer.load_state_dict({"weight": draw(8, 8, seed=4)})

    def replace() -> None:
        layer.weight.data = draw(8, 8, seed=5)

    def product() -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", HALF):
            return layer(inputs)

    before = product()
    for change in (step, assign, load, replace, step):
        change()
        after = product()
        assert not torch.equal(after, before)
        assert torch.equal(after, F.linear(inputs.to(HALF), layer.weight.detach().to(HALF)))
        before = after


def test_one_copy_for_many_passes() -> None:
    """Micro-batches of one optimizer step share it, as do all passes of a frozen model."""
    weight = nn.Parameter(draw(8, 8, seed=0))
    first = rounded(weight, HALF)
    assert rounded(weight, HALF) is first
    with torch.no_grad():
        weight.add_(1.0)
    again = rounded(weight, HALF)
    assert again.data_ptr() == first.data_ptr() and torch.equal(again, weight.detach().to(HALF))
    layer = nn.Module()
    layer.weight = weight
    forget_rounded(layer)
    assert rounded(weight, HALF) is not again


def test_copies_are_usable_for_training_wherever_they_were_made() -> None:
    """A first pass in inference mode must not leave a copy behind that autograd refuses."""
    layer = Linear(8, 4)
    with torch.autocast("cpu", HALF):
        with torch.inference_mode():
            without = layer(draw(3, 8, seed=0))
        inputs = draw(3, 8, seed=0).requires_grad_()
        out = layer(inputs)
    out.float().sum().backward()
    assert torch.equal(out.detach(), without) and inputs.grad is not None and layer.weight.grad is not None


def test_the_copy_goes_with_its_parameter_and_is_not_shared() -> None:
    layer = Linear(4, 4)
    kept = weakref.ref(rounded(layer.weight, HALF))
    other = copy.deepcopy(layer)
    assert kept() is not None and rounded(other.weight, HALF) is not kept()
    del layer
    assert kept() is None


def tiny(family: str) -> nn.Module:
    make = ModelConfig.llama if family == "llama" else ModelConfig.gpt2
    return new_language_model(make(vocab_size=40, width=32, layers=2, heads=2, context=32), seed=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_stored_copy_gives_the_same_bits(family: str) -> None:
    ids, lengths = torch.arange(20), [9, 11]
    positions = torch.tensor([*range(9), *range(11)])
    found = []
    for stored in (False, True):
        model = tiny(family).requires_grad_(False)
        if stored:
            store_rounded(model, HALF)
            kinds = {name.rsplit(".", 2)[-2]: p.dtype for name, p in model.named_parameters()}
            assert kinds["qkv"] == kinds["down"] == HALF and kinds["final_norm"] == torch.float32
        with torch.no_grad(), torch.autocast("cpu", HALF):
            found.append(model(ids, positions, lengths))
    assert torch.equal(*found)


def test_shapes_are_routed_to_pytorchs_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those named, and no others; the numbers are those of a product either way."""
    calls = []
    original = F.linear

    def note(*arguments: torch.Tensor | None) -> torch.Tensor:
        calls.append(tuple(arguments[1].shape) if arguments[1] is not None else ())
        return original(*arguments)

    inputs, weight, other = draw(3, 8, seed=0), draw(5, 8, seed=1), draw(6, 8, seed=2)
    monkeypatch.setattr(room.F, "linear", note)
    try:
        route([(5, 8)])
        for matrix in (weight, other):
            torch.testing.assert_close(linear(inputs, matrix), inputs @ matrix.T)
    finally:
        route([])
    if room._ONEDNN:
        assert calls == [(5, 8)]
