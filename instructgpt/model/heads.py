"""What stands on the Transformer: an unembedding (language model) or one number (reward and value models)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from instructgpt.model.cache import KVCache
from instructgpt.model.config import ModelConfig
from instructgpt.model.linear import Linear, linear, rounded
from instructgpt.model.lora import Attached
from instructgpt.model.transformer import Transformer


class _Headed(nn.Module):
    """A Transformer with the same forward pass; the caller applies the head to the rows that need it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.attached: Attached | None = None
        """The adapters over a frozen base that this model trains and saves; None: all weights are its own."""

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        lengths: Sequence[int],
        cache: KVCache | None = None,
        slots: Tensor | None = None,
        dropout: float = 0.0,
        rows: Tensor | None = None,
        branches: Sequence[int] | None = None,
        fresh: int = 0,
    ) -> Tensor:
        """Hidden states (N, D), or (n, D) of the tokens `rows`; see `Transformer.forward`."""
        return self.transformer(ids, positions, lengths, cache, slots, dropout, rows, branches, fresh)


class LanguageModel(_Headed):
    """Next-token model. `head` is None when the unembedding is tied to the embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)

    @property
    def unembedding(self) -> Tensor:
        """(V, D): the embedding itself when tied."""
        return self.transformer.embedding.weight if self.head is None else self.head.weight

    def rounded_unembedding(self, dtype: torch.dtype) -> Tensor | None:
        """The unembedding's copy in the precision of the products (see `linear.rounded`); None in its own."""
        weight = self.unembedding
        return None if weight.dtype == dtype else rounded(weight, dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n, V): only for the rows asked for."""
        return linear(hidden, self.unembedding)


class ScalarModel(_Headed):
    """Reward or value model: one number a position, hidden . w - reward_bias (reward units).

    `reward_bias` is the mean reward of the demonstrations, so that theirs becomes 0 (arXiv:2203.02155
    section 3.5); it is written to config.json and not to the weights.
    """

    reward_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.head = Linear(config.width, 1, bias=False)
        self.register_buffer("reward_bias", torch.zeros((), dtype=torch.float32), persistent=False)

    def score(self, hidden: Tensor) -> Tensor:
        """(n, D) -> (n,) float32: the number at each row given."""
        return self.head(hidden).squeeze(-1).float() - self.reward_bias


def new_language_model(config: ModelConfig, seed: int) -> LanguageModel:
    """A random model; the seed decides every weight. For the initialisation see `initialise`."""
    model = LanguageModel(config)
    initialise(model, seed)
    return model


def new_scalar_model(config: ModelConfig, seed: int, zero_head: bool = False) -> ScalarModel:
    """A random scalar model; its head has std 1 / sqrt(D + 1) (arXiv:2403.17031), or is 0 on request."""
    model = ScalarModel(config)
    generator = initialise(model, seed)
    initialise_head(model, generator, zero_head)
    return model


def scalar_from_language(model: LanguageModel, seed: int, zero_head: bool = False) -> ScalarModel:
    """A scalar model on a copy of the language model's body, in its dtype and on its device."""
    weight = model.unembedding
    scalar = ScalarModel(model.config)
    scalar.transformer = copy.deepcopy(model.transformer)
    initialise_head(scalar, torch.Generator().manual_seed(seed), zero_head)
    scalar.head.to(device=weight.device, dtype=weight.dtype)
    scalar.reward_bias = scalar.reward_bias.to(weight.device)
    return scalar


def initialise(model: nn.Module, seed: int) -> torch.Generator:
    """Normal(0, 1 / width) matrices, zero biases, unit norms; matrices that end a residual branch are divided
    by sqrt(2 x layers), so that the stream's variance does not grow with depth (GPT-2 report, section 2.3).

    That report's fixed deviation of 0.02 is about half of 1 / sqrt(width) at its smallest width of 768 and
    far too small below: models of width 128 then learn to copy from the context much later (docs/log.md).

    Returns the generator, so that a head drawn afterwards follows from the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = len(model.get_submodule("transformer.blocks")._modules)
    width = model.get_parameter("transformer.final_norm.weight").shape[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            ends_branch = name.endswith(("attention.output.weight", "feed.down.weight"))
            std = (2 * layers * width) ** -0.5 if ends_branch else width**-0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return generator


def initialise_head(model: ScalarModel, generator: torch.Generator, zero: bool) -> None:
    """Normal(0, 1 / (D + 1)) numbers for a scalar model's head (arXiv:2403.17031), or zeros; in place."""
    width = model.config.width
    with torch.no_grad():
        draw = torch.randn(1, width, generator=generator) / math.sqrt(width + 1)
        model.head.weight.copy_(torch.zeros(1, width) if zero else draw)
