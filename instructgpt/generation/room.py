"""How many rows the cache may hold, and in which precision."""

from __future__ import annotations

import torch

from instructgpt.model.heads import LanguageModel

CACHE_BYTES = 1 << 30
"""Memory for keys and values when all rows are as long as they may become."""


def rows_for_memory(model: LanguageModel, longest: int, cache_bytes: int = CACHE_BYTES) -> int:
    """How many rows of `longest` tokens the cache may hold in `cache_bytes`; at least 1."""
    config = model.config
    per_token = 2 * config.layers * config.kv_heads * config.head_dim * cache_dtype(model).itemsize
    return max(1, cache_bytes // (per_token * longest))


def cache_dtype(model: LanguageModel) -> torch.dtype:
    """Of keys and values: that of the products."""
    weight = model.unembedding
    if weight.dtype == torch.float32 and torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def engine_dtype(model: LanguageModel, rows: int) -> torch.dtype:
    """Of the cache of an engine of so many rows. A single row on a CPU has float32 where that is no more than
    `CACHE_BYTES`: its attention is made in float32, which took a fifth of a token to convert."""
    dtype, config = cache_dtype(model), model.config
    size = 8 * config.layers * config.kv_heads * config.head_dim * config.context
    alone = rows == 1 and model.unembedding.device.type == "cpu" and size <= CACHE_BYTES
    return torch.float32 if alone else dtype
