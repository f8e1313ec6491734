"""Linear layers, through oneDNN for float32 on a CPU.

PyTorch sends float32 products to MKL, which leaves half of an AMD core idle. One thread of an EPYC (Zen 4),
torch 2.13, microseconds, MKL : oneDNN: (256, 128) x (128, 384) 254 : 125, (32, 576) x (576, 3072) 1466 : 804,
(4096, 128) x (128, 704) 7766 : 3525; the gradient of its input 8732 : 3941, of its weight 8004 : 4256. Both
are float32 throughout: the largest error against float64 is 4e-7 to 1e-6 of the largest number for either.
`torch.set_float32_matmul_precision("medium")` takes the same path, but for attention too (which it slows),
and on other processors it means bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`nn.Linear` on the faster kernel; on other devices, in other precisions, under autocast the usual."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(input, self.weight, self.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs (..., in), weight (out, in), bias (out,) -> (..., out), differentiable once."""
    suits = (
        _ONEDNN
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and inputs.numel() > 0  # oneDNN has no gradient of an empty product
    )
    if not suits:
        return F.linear(inputs, weight, bias)
    if torch.is_grad_enabled():
        return _Product.apply(inputs, weight, bias)
    return _product(inputs, weight, bias)


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return result


class _Product(torch.autograd.Function):
    """The operator has no derivative of its own; the two of a product are products again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The input is needed for the gradient of the weight alone: a frozen layer does not keep it.
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_inputs = _product(gradient, weight.t()) if wanted[0] else None
        # (inputs^T gradient)^T and not gradient^T inputs: the first is up to 1.6 times as fast.
        to_weight = (
            _product(inputs.reshape(-1, inputs.shape[-1]).t(), rows.t()).t().contiguous()
            if wanted[1]
            else None
        )
        to_bias = rows.sum(0) if wanted[2] else None
        return to_inputs, to_weight, to_bias
