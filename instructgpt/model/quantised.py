"""A language model whose matrices are stored in 8 or 4 bits, for answering.

A single reply reads all weights for each token, so its speed is that of the memory: 8 bits are half of
bfloat16, 4 bits a quarter. The weights are rounded to nearest, and what is multiplied with them to bfloat16
where the rows are few. 8 bits: integers from -127 to 127 and a scale for each output row. 4 bits: 16 levels
between the least and the largest number of every `GROUP` along a row; the unembedding, whose errors are seen
at once, keeps 8.

PyTorch has kernels for few rows on a CPU; elsewhere, and for many rows, where the products and not the memory
take the time, the matrix is made whole again for each product.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from instructgpt.errors import ConfigError
from instructgpt.model.heads import LanguageModel
from instructgpt.model.int8 import LEVELS
from instructgpt.model.linear import Linear, linear
from instructgpt.model.one_token import OneToken

Weights = Literal["full", "int8", "int4"]
"""How the matrices are stored: as they are, in 8 bits, in 4."""
GROUP = 32
"""Numbers that share a scale in 4 bits, as in llama.cpp's Q4_1."""
_LINES = 16
"""Output rows of which the 4-bit kernel takes a multiple."""
FEW_ROWS = 16
"""Up to so many rows the kernels that read the integers are the faster way."""


class Int8Weights(nn.Module):
    """A frozen layer's matrix in 8 bits with a scale for each output row."""

    whole: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight (out, in), bias (out,): what is multiplied keeps their dtype."""
        super().__init__()
        wide = weight.detach().float()
        # As the kernel has the scale, rounded before the numbers are.
        scale = (wide.abs().amax(dim=1) / LEVELS).clamp(min=1e-30).bfloat16()
        whole = (wide / scale.float()[:, None]).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
        self.register_buffer("whole", whole, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        if len(inputs) > FEW_ROWS or inputs.device.type != "cpu":
            return linear(
                inputs, self.whole.to(inputs.dtype) * self.scale[:, None].to(inputs.dtype), self.bias
            )
        # The kernel is 20 times as slow with float32 inputs; the weights have 8 bits anyway.
        few = inputs.contiguous().bfloat16()
        product: Tensor = torch._weight_int8pack_mm(few, self.whole, self.scale).to(inputs.dtype)
        return product if self.bias is None else product + self.bias


class Int4Weights(nn.Module):
    """A frozen layer's matrix in 4 bits with scale and offset for every `GROUP` numbers of a row."""

    packed: Tensor
    scale_offset: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight (out, in), `in` a multiple of `GROUP`."""
        super().__init__()
        out, size = weight.shape
        grouped = weight.detach().float().view(out, size // GROUP, GROUP)
        low, high = grouped.amin(-1), grouped.amax(-1)
        scale = ((high - low) / 15).clamp(min=1e-6).bfloat16().float()
        middle = (low + 8 * scale).bfloat16().float()  # what level 8 stands for
        levels = ((grouped - middle[..., None]) / scale[..., None] + 8).round_().clamp_(0, 15).to(torch.int32)
        packed = torch._convert_weight_to_int4pack_for_cpu(levels.view(out, size), 1)
        pairs = torch.stack([scale, middle], -1).transpose(0, 1).contiguous().bfloat16()
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale_offset", pairs, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        product: Tensor = torch._weight_int4pack_mm_for_cpu(
            inputs.contiguous().bfloat16(), self.packed, GROUP, self.scale_offset
        ).to(inputs.dtype)
        return product if self.bias is None else product + self.bias


class QuantisedModel(LanguageModel):
    """A language model for answering alone: it can't be trained or saved. The embedding is as it was."""

    def __init__(self, model: LanguageModel, weights: Literal["int8", "int4"]) -> None:
        """Takes the model over, layer by layer, so that it is not in memory twice."""
        with torch.device("meta"):
            super().__init__(model.config)
        self.transformer = model.transformer
        self.unembed = Int8Weights(model.unembedding)
        self.head = None
        for module in list(self.transformer.modules()):
            for name, child in module.named_children():
                if isinstance(child, Linear):
                    setattr(module, name, _stored(child, weights))
        self.requires_grad_(False).eval()
        if self.unembedding.device.type == "cpu":
            self.transformer.one_token = OneToken(self.transformer)

    @property
    def unembedding(self) -> Tensor:
        """(V, D): the embedding, which says how many ids there are, in which precision, and where."""
        return self.transformer.embedding.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, V)."""
        found: Tensor = self.unembed(hidden)
        return found


def _stored(layer: Linear, weights: Literal["int8", "int4"]) -> nn.Module:
    small = weights == "int4" and layer.in_features % GROUP == 0 and layer.out_features % _LINES == 0
    return (Int4Weights if small else Int8Weights)(layer.weight, layer.bias)


def quantised(model: LanguageModel, weights: Weights) -> LanguageModel:
    """The model with its matrices stored like that; "full" is the model itself.

    Raises:
        ConfigError: no such way, or not on this device.
    """
    if weights == "full":
        return model
    if weights not in get_args(Weights):
        raise ConfigError(f"unknown weights {weights!r}", "--weights", "choose full, int8 or int4")
    if weights == "int4" and model.unembedding.device.type != "cpu":
        raise ConfigError("weights of 4 bits run on a CPU only", "--weights", "use int8, or --device cpu")
    return QuantisedModel(model, weights)
