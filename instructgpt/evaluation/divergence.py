"""How far a policy has moved: KL(policy, reference) in nats per reply at temperature 1, from its own replies.

Two estimates of one number, both unbiased when the replies were sampled from the policy at temperature 1:
the sum over a reply of log pi - log pi_ref of its tokens (k1), and the sum over its positions of the exact
KL between the two next-token distributions, which leaves only the variance of which states are visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.errors import DataError
from instructgpt.maths.kl import categorical_kl
from instructgpt.model.heads import LanguageModel

MAX_TOKENS = 8192
_CHUNK_ELEMENTS = 1 << 22  # logits held at one time: vocabulary times rows


@dataclass(frozen=True)
class Divergence:
    """Nats per reply, one number a reply.

    Attributes:
        exact: sum over positions of the exact next-token KL; lower variance, what tables show.
        sampled: sum over tokens of the log-ratio (k1); may be negative for a single reply.
    """

    exact: list[float]
    sampled: list[float]

    @property
    def mean(self) -> float:
        """Mean over replies of the exact form."""
        return sum(self.exact) / len(self.exact)


@torch.inference_mode()
def reply_divergence(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    max_tokens: int = MAX_TOKENS,
) -> Divergence:
    """Divergence of each reply's tokens, given its prompt.

    Args:
        policy, reference: on one device.
        prompts: rendered prompts as ids, ragged.
        replies: the replies' ids with the id that ended them; sampled from `policy` at temperature 1 for the
            means to be KL(policy, reference). An empty reply has divergence 0.

    Raises:
        DataError: the two models have different vocabularies, or the rows don't match.
    """
    if policy.config.vocab_size != reference.config.vocab_size:
        sizes = f"{policy.config.vocab_size} and {reference.config.vocab_size}"
        raise DataError(
            f"vocabularies of {sizes} ids can't be compared",
            cure="compare models that share a tokenizer",
        )
    if len(prompts) != len(replies) or not replies:
        raise DataError(
            f"{len(prompts)} prompts and {len(replies)} replies", cure="give one reply to each prompt"
        )
    exact = torch.zeros(len(replies), dtype=torch.float64)
    sampled = torch.zeros(len(replies), dtype=torch.float64)
    sequences = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    device = policy.unembedding.device
    for batch in plan_batches([len(ids) for ids in sequences], max_tokens):
        ids, positions, lengths = pack_ids([sequences[i] for i in batch])
        before, rows = _reply_positions(lengths, [len(replies[i]) for i in batch])
        targets = ids[before + 1].to(device)
        ids, positions, before = ids.to(device), positions.to(device), before.to(device)
        hidden = [model(ids, positions, lengths)[before] for model in (policy, reference)]
        kl, ratio = _compare(policy, reference, hidden, targets)
        index = torch.tensor(batch)[rows]
        exact.index_add_(0, index, kl)
        sampled.index_add_(0, index, ratio)
    return Divergence(exact.tolist(), sampled.tolist())


def _reply_positions(lengths: Sequence[int], replied: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each reply token: the index (n,) of the token before it, and its row (n,) in the batch."""
    before: list[int] = []
    rows: list[int] = []
    end = 0
    for row, (length, tokens) in enumerate(zip(lengths, replied, strict=True)):
        end += length
        before += range(end - tokens - 1, end - 1)
        rows += [row] * tokens
    return torch.tensor(before, dtype=torch.int64), torch.tensor(rows, dtype=torch.int64)


def _compare(
    policy: LanguageModel, reference: LanguageModel, hidden: Sequence[Tensor], targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Exact KL (n,) and log-ratio of the target (n,), float64 on the CPU, a chunk of rows at a time."""
    kl = torch.empty(len(targets), dtype=torch.float64)
    ratio = torch.empty(len(targets), dtype=torch.float64)
    step = max(1, _CHUNK_ELEMENTS // policy.config.vocab_size)
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        ours = torch.log_softmax(policy.logits(hidden[0][part]).float(), dim=-1)
        theirs = torch.log_softmax(reference.logits(hidden[1][part]).float(), dim=-1)
        kl[part] = categorical_kl(ours, theirs).cpu()
        chosen = targets[part, None]
        ratio[part] = (ours.gather(1, chosen) - theirs.gather(1, chosen)).squeeze(1).cpu()
    return kl, ratio
