"""Linear layers on the faster kernel: oneDNN for float32 on a CPU, and bfloat16 on float32 weights.

PyTorch sends float32 products to MKL, which leaves half of an AMD core idle. One thread of an EPYC (Zen 4),
torch 2.13, microseconds, MKL : oneDNN: (256, 128) x (128, 384) 254 : 125, (32, 576) x (576, 3072) 1466 : 804,
(4096, 128) x (128, 704) 7766 : 3525; the gradient of its input 8732 : 3941, of its weight 8004 : 4256. Both
are float32 throughout: the largest error against float64 is 4e-7 to 1e-6 of the largest number for either.
`torch.set_float32_matmul_precision("medium")` takes the same path, but for attention too (which it slows),
and on other processors it means bfloat16. Where MKL is faster for a shape, `route` sends it there.

Under `torch.autocast("cpu", torch.bfloat16)` a product is made in bfloat16 with a copy of the float32 weight
that is renewed when the weight has changed: once an optimizer step, however many micro-batches there are, and
once for ever where a model is frozen. The weight and its gradient stay float32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

# Which layers, as (out, in), PyTorch's own float32 product serves better on this machine. Process-wide, like
# PyTorch's backend flags: a property of the machine, measured at a run's start and kept with the run.
_own: frozenset[tuple[int, int]] = frozenset()

# Parameter -> (version, copy). By identity: tensors compare element by element.
_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()


class Embedding(nn.Embedding):
    """`nn.Embedding` that draws no numbers on the meta device, where PyTorch would import its compiler and
    sympy to draw none: 1.4 s of each process that opens a model."""

    def reset_parameters(self) -> None:
        """Usual start; none where there is no memory to fill."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Linear(nn.Linear):
    """`nn.Linear` on the faster kernel; on other devices and in other precisions the usual. On the meta
    device it draws no numbers, as `Embedding`."""

    def reset_parameters(self) -> None:
        """Usual start; none where there is no memory to fill."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(input, self.weight, self.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs (..., in), weight (out, in), bias (out,) -> (..., out), differentiable once."""
    on_cpu = inputs.device.type == weight.device.type == "cpu"
    if not on_cpu or inputs.numel() == 0 or weight.dtype != torch.float32:  # no kernel has an empty gradient
        return F.linear(inputs, weight, bias)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        inputs, copy = inputs.to(dtype), rounded(weight, dtype)
        short = None if bias is None else rounded(bias, dtype)
        if torch.is_grad_enabled():
            return _RoundedProduct.apply(inputs, weight, bias, copy, short)
        return _rounded_product(inputs, copy, short)
    if not _ONEDNN or inputs.dtype != torch.float32 or tuple(weight.shape) in _own:
        return F.linear(inputs, weight, bias)
    if torch.is_grad_enabled():
        return _Product.apply(inputs, weight, bias)
    return _product(inputs, weight, bias)


def route(own: Collection[tuple[int, int]]) -> None:
    """Leave float32 layers of these shapes, (out, in), to PyTorch's own product; all others go to oneDNN."""
    global _own
    _own = frozenset(own)


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of `weight` in another precision, without gradient; a parameter's is kept until it changes.

    It costs as long as the parameter lives what its precision takes, 2 bytes a number for bfloat16.
    """
    if not isinstance(weight, nn.Parameter) or weight.is_inference():
        return weight.detach().to(dtype)
    version = weight._version
    kept = _copies.get(weight)
    if kept is not None and kept[1].dtype == dtype and kept[2] == weight.data_ptr():
        if kept[0] == version:
            return kept[1]
        with torch.no_grad():
            copy = kept[1].copy_(weight)
    else:
        # A copy made in inference mode could not be kept for a backward pass later.
        with torch.inference_mode(False), torch.no_grad():
            copy = weight.detach().to(dtype)
    _copies[weight] = (version, copy, weight.data_ptr())
    return copy


def _note_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """A fused optimizer writes weights without counting a new version of them, whoever made it."""
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(group["params"])


register_optimizer_step_post_hook(_note_step)


def store_rounded(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the linear layers of a frozen module in `dtype` alone, in place; the rest stays as it is.

    Under autocast to that precision its numbers are the same to the bit, for half of the memory. Not for what
    is trained or saved.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
            for parameter in layer.parameters(recurse=False):
                _copies.pop(parameter, None)
                parameter.data = parameter.data.to(dtype)


def forget_rounded(module: nn.Module) -> None:
    """Free the copies that `rounded` keeps of a module's parameters."""
    for parameter in module.parameters():
        _copies.pop(parameter, None)


def _rounded_product(inputs: Tensor, copy: Tensor, short: Tensor | None) -> Tensor:
    # `F.linear` copies a bias to every row first; oneDNN adds it on the way: 4 % of a product.
    return _product(inputs, copy, short) if _ONEDNN and short is not None else F.linear(inputs, copy, short)


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


class _RoundedProduct(torch.autograd.Function):
    """Products in the copies' precision; the gradients of weight and bias are made float32 by autograd."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, copy: Tensor, short: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(inputs if ctx.needs_input_grad[1] else None, copy)
        return _rounded_product(inputs, copy, short)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, copy = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        to_inputs = gradient @ copy if wanted[0] else None
        to_weight = rows.t() @ inputs.reshape(-1, inputs.shape[-1]) if wanted[1] else None
        to_bias = rows.sum(0) if wanted[2] else None  # added up in float32, rounded once
        return to_inputs, to_weight, to_bias, None, None
