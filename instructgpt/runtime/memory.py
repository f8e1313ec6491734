"""How much memory a stage will need, worked out from its models before the first step."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from instructgpt.maths.logprobs import CHUNK_ELEMENTS
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel

_MIB = 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """MiB of each kind. Python, PyTorch, the data and short-lived buffers come on top."""

    trained: float
    """Weights that the optimizer changes."""
    frozen: float
    """Weights that it does not; what models share counts once."""
    gradients: float
    """Of the largest network: policy and value network learn one after the other."""
    optimizer: float
    """Adam's two moments of every trained weight."""
    average: float
    """The moving average of the policy's trained weights."""
    activations: float
    """What one forward pass keeps for its backward pass."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())

    def rounded(self) -> dict[str, float]:
        """For summary.json: whole MiB, with the total."""
        return {name: round(value) for name, value in {**asdict(self), "total": self.total}.items()}


def estimate_memory(
    learning: Sequence[LanguageModel | ScalarModel],
    frozen: Sequence[nn.Module] = (),
    *,
    tokens: int,
    averaged: nn.Module | None = None,
) -> MemoryEstimate:
    """What training `learning` beside `frozen` models takes, with `tokens` tokens in a pass.

    `averaged` is the model whose trained weights have a moving average.
    """
    trained = {id(p): _size(p) for model in learning for p in model.parameters() if p.requires_grad}
    everything = {
        t.data_ptr(): _size(t)
        for model in (*learning, *frozen)
        for t in (*model.parameters(), *model.buffers())
    }
    own = sum(trained.values())
    largest = max(sum(_size(p) for p in model.parameters() if p.requires_grad) for model in learning)
    average = sum(_size(p) for p in averaged.parameters() if p.requires_grad) if averaged is not None else 0
    return MemoryEstimate(
        trained=own / _MIB,
        frozen=(sum(everything.values()) - own) / _MIB,
        gradients=largest / _MIB,
        optimizer=2 * own / _MIB,
        average=average / _MIB,
        activations=max(_activations(model, tokens) for model in learning) / _MIB,
    )


def announce_memory(verb: str, estimate: MemoryEstimate, tokens: int) -> None:
    """Say on stderr, where progress is shown too, what is about to be taken."""
    if os.environ.get("INSTRUCTGPT_PROGRESS") == "0":
        return
    e = estimate
    average = f", moving average {e.average:.0f}" if e.average else ""
    print(
        f"instructgpt {verb}: about {e.total:.0f} MiB beside Python, PyTorch and the data: weights "
        f"{e.trained + e.frozen:.0f} ({e.trained:.0f} trained), gradients {e.gradients:.0f}, optimizer "
        f"{e.optimizer:.0f}{average}, activations {e.activations:.0f} for {tokens} tokens a pass",
        file=sys.stderr,
    )


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _activations(model: LanguageModel | ScalarModel, tokens: int) -> int:
    """Bytes that a packed forward pass in float32 keeps: numbers per token of each layer, counted by hand.

    A block keeps, in widths D: the inputs of its two norms and of the two products behind them (4 D); query,
    key and value, before and after the rotation (2 q for q = (H + 2 K) d); attention's result (H d); of the
    feed-forward its first product (2 F gated, else F), and what lies between that and its last (2 F gated,
    else F). A language model also keeps one chunk of probabilities.
    """
    c: ModelConfig = model.config
    qkv, mixed = (c.heads + 2 * c.kv_heads) * c.head_dim, c.heads * c.head_dim
    inner = (4 if c.activation == "swiglu" else 2) * c.ffn_width
    block = 4 * c.width + 2 * qkv + 2 * mixed + inner
    numbers = tokens * (c.layers * block + 2 * c.width)
    if isinstance(model, LanguageModel):
        numbers += min(tokens * c.vocab_size, CHUNK_ELEMENTS)
    return 4 * numbers
