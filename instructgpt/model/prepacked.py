"""A language model whose bfloat16 matrices lie in memory as oneDNN multiplies them, for answering on a CPU.

oneDNN has an order of its own for each matrix. Where a weight lies row by row it is put into that order again
at every product, which for a few rows takes longer than the product. Two threads of an EPYC (Zen 4), torch
2.13, microseconds, as it was : prepacked, with (rows, in) x (in, out): (1, 576) x (576, 3072) 179 : 94,
(32, 768) x (768, 3072) 418 : 269, (2048, 768) x (768, 2304) 8400 : 8176. A bias is added on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instructgpt.model.heads import LanguageModel
from instructgpt.model.linear import Linear
from instructgpt.model.one_token import OneToken


class PrepackedWeights(nn.Module):
    """A frozen layer's matrix in oneDNN's order."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """weight (out, in), bias (out,), both bfloat16 on a CPU."""
        super().__init__()
        self.out = weight.shape[0]
        # Not a buffer: a tensor in this order can't be saved, moved or converted.
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        if not len(inputs):
            return inputs.new_empty(0, self.out)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._matrix, self.bias, "none", [], "")
        return product

    def added(self, inputs: Tensor, other: Tensor) -> Tensor:
        """(n, in) and (n, out), n at least 1 -> (n, out): the product and `other`, rounded once."""
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            inputs, other, self._matrix, self.bias, "add"
        )
        return total


class PrepackedModel(LanguageModel):
    """A language model for answering alone: it can't be trained, saved or moved to another device."""

    def __init__(self, model: LanguageModel) -> None:
        """Takes the model over, layer by layer, so that it is not in memory twice. The unembedding is, for
        those who multiply with it themselves."""
        with torch.device("meta"):
            super().__init__(model.config)
        self.transformer, self.head = model.transformer, model.head
        self.unembed = PrepackedWeights(model.unembedding)
        for module in list(self.transformer.modules()):
            for name, child in module.named_children():
                if isinstance(child, Linear):
                    setattr(module, name, PrepackedWeights(child.weight, child.bias))
        self.requires_grad_(False).eval()
        self.transformer.one_token = OneToken(self.transformer)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, V)."""
        found: Tensor = self.unembed(hidden)
        return found


def prepacked(model: LanguageModel) -> LanguageModel:
    """The model prepacked; itself where its matrices are not bfloat16 on a CPU whose oneDNN has that."""
    weight = model.unembedding
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu" or not _supported():
        return model
    return PrepackedModel(model)


def _supported() -> bool:
    names = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    there = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
