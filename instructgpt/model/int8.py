"""Frozen linear layers in 8 bits a number: each output row has integers from -127 to 127 and one scale.

Rounding to the nearest integer moves a weight by at most half of its row's scale, that is by 1/254 of the
row's largest number. The matrix is made float again in each product and thrown away after it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from instructgpt.model.linear import linear

LEVELS = 127


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) -> integers (out, in) int8 and scales (out,) float32; a row of zeros has scale 0."""
    wide = weight.detach().float()
    scale = wide.abs().amax(dim=1) / LEVELS
    whole = (wide / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round_()
    return whole.clamp_(-LEVELS, LEVELS).to(torch.int8), scale


def dequantise(whole: Tensor, scale: Tensor) -> Tensor:
    """The (out, in) float32 matrix that integers and scales stand for."""
    return whole.to(torch.float32).mul_(scale[:, None])


def rounded(weight: Tensor) -> Tensor:
    """What is left of a matrix after storing it in 8 bits; in its own dtype."""
    return dequantise(*quantise(weight)).to(weight.dtype)


class Int8Linear(nn.Module):
    """A frozen `Linear` whose matrix is stored in 8 bits; gradients go through to its input."""

    whole: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        """Takes over the layer's bias; its matrix is rounded."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        whole, scale = quantise(layer.weight)
        # Not in a state dict: what is stored is the base's folder, never the rounding.
        self.register_buffer("whole", whole, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return linear(inputs, dequantise(self.whole, self.scale), self.bias)
        result: Tensor = _Product.apply(inputs, self.whole, self.scale, self.bias)
        return result


class _Product(torch.autograd.Function):
    """Keeps the integers for the backward pass, and neither the float matrix nor the input."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, whole: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(whole, scale)
        ctx.dtype = inputs.dtype
        return linear(inputs, dequantise(whole, scale), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        whole, scale = ctx.saved_tensors
        weight = dequantise(whole, scale).to(gradient.dtype)
        return linear(gradient, weight.t()).to(ctx.dtype), None, None, None
