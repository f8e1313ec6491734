"""Log-probabilities of given texts, token by token: what `echo` and evaluation harnesses ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from instructgpt.data.collate import pack_ids
from instructgpt.generation.processing import token_logprobs_with_top
from instructgpt.generation.requests import TokenLogprobs
from instructgpt.generation.shapes import fill_up, round_up
from instructgpt.model.heads import LanguageModel

CHUNK_ELEMENTS = 1 << 22
"""Logits that exist at one time."""


@torch.inference_mode()
def prompt_logprobs(
    model: LanguageModel, prompts: Sequence[Sequence[int]], tops: Sequence[int]
) -> list[list[TokenLogprobs | None]]:
    """For every id of every prompt what the model thought of it, given those before it; None for the first.

    One packed forward pass: the caller bounds how many tokens that is.

    Args:
        prompts: each at least one id and at most the model's context.
        tops: for each prompt, how many of the most probable ids to report.
    """
    device = model.unembedding.device
    filling = fill_up(prompts, model.config.context)
    ids, positions, lengths = pack_ids([*prompts, filling] if filling else prompts)
    hidden = model(ids.to(device), positions.to(device), lengths)  # (N, D)
    lengths = lengths[: len(prompts)]
    first = [0]
    for length in lengths:
        first.append(first[-1] + length)
    starts = set(first[:-1])
    # Row i predicts id i + 1 unless that begins the next prompt.
    rows = [i for i in range(first[-1] - 1) if i + 1 not in starts]
    asked = [top for top, length in zip(tops, lengths, strict=True) for _ in range(length - 1)]
    found: list[TokenLogprobs] = []
    step = max(1, CHUNK_ELEMENTS // model.config.vocab_size)
    for begin in range(0, len(rows), step):
        part = torch.tensor(rows[begin : begin + step])
        filled = torch.nn.functional.pad(part, (0, round_up(len(part)) - len(part)))
        logits = model.logits(hidden[filled.to(device)])[: len(part)]
        found += token_logprobs_with_top(logits, ids[part + 1].to(device), asked[begin : begin + step])
    rest = iter(found)
    return [[None, *(next(rest) for _ in range(length - 1))] for length in lengths]
