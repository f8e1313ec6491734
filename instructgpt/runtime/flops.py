"""Floating-point operations that a model's passes need, by the usual formula, and the most this machine does.

A product of n weights with a token takes 2 n operations forward, and 2 n for each of the two gradients: 6 N a
token for N weights that are all trained (arXiv:2001.08361, section 2.1). Attention's own products, norms and
look-ups of embeddings are not counted, and the head only for the rows whose logits are needed.
"""

from __future__ import annotations

import time
from functools import cache

import torch

from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.linear import linear

_SIDE = {"cpu": 1024}
_LARGE_SIDE = 4096
"""Rows and columns of the matrices that the peak is measured with: on a CPU some 20 ms of work, elsewhere
enough to fill a GPU."""
_REPEATS, _PATIENCE = 3, 0.5


def forward_flops(model: LanguageModel | ScalarModel, tokens: int, rows: int) -> float:
    """Operations of a forward pass over `tokens`, of which `rows` meet the head."""
    adapters = _trained(model) if model.attached is not None else 0
    return 2.0 * (tokens * (body_weights(model.config) + adapters) + rows * _head_weights(model))


def training_flops(model: LanguageModel | ScalarModel, tokens: int, rows: int) -> float:
    """Operations of a forward and a backward pass; of adapters over a frozen base, whose weights need no
    gradient, the fewer that these take."""
    forward = forward_flops(model, tokens, rows)
    if model.attached is None:
        return 3.0 * forward
    return 2.0 * forward + 2.0 * tokens * _trained(model)


def body_weights(config: ModelConfig) -> int:
    """Weights of all blocks that a token is multiplied with: attention's four products and the feed-forward's
    two, or three where it is gated."""
    c = config
    heads = c.heads * c.head_dim
    attention = c.width * (heads + 2 * c.kv_heads * c.head_dim) + heads * c.width
    feed_forward = (3 if c.activation == "swiglu" else 2) * c.width * c.ffn_width
    return c.layers * (attention + feed_forward)


def _head_weights(model: LanguageModel | ScalarModel) -> int:
    return model.config.width * (model.config.vocab_size if isinstance(model, LanguageModel) else 1)


def _trained(model: LanguageModel | ScalarModel) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of this machine's best square product in `dtype`, measured once a process.

    With torch's usual product and, for float32 on a CPU, with the layers' (see `model.linear`): the better of
    the two counts.
    """
    side = _SIDE.get(device.type, _LARGE_SIDE)
    left = torch.ones(side, side, dtype=dtype, device=device)
    right = torch.ones_like(left)
    best = 0.0
    with torch.inference_mode():
        for product in (torch.mm, linear) if device.type == "cpu" else (torch.mm,):
            product(left, right)
            _wait(device)
            began = time.perf_counter()
            for _ in range(_REPEATS):
                start = time.perf_counter()
                product(left, right)
                _wait(device)
                now = time.perf_counter()
                best = max(best, 2.0 * side**3 / max(now - start, 1e-9))
                if now - began > _PATIENCE:
                    break
    return best


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given: a GPU works behind the program's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
