"""Micro-batches by tokens, not by rows: sequences of like length go together, so that little is padded or
waits."""

from __future__ import annotations

from collections.abc import Sequence

from instructgpt.errors import ConfigError


def plan_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut sequences into micro-batches of at most `max_tokens` tokens each, longest first.

    Longest first, because the batch that needs the most memory should fail at once or never. A sequence
    longer than `max_tokens` makes a batch of its own. The plan depends on the lengths alone.

    Args:
        lengths: tokens of each sequence (n,).

    Returns:
        indices of the sequences, each exactly once.

    Raises:
        ConfigError: max_tokens is not positive.
    """
    if max_tokens < 1:
        raise ConfigError(f"a micro-batch of {max_tokens} tokens holds nothing", cure="use a positive number")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not batches or lengths[index] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches
