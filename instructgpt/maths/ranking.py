"""The reward model's loss over K ranked replies (Eq. 1 of arXiv:2203.02155) and its accuracy."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pair_loss(rewards: Tensor, ranks: Tensor) -> Tensor:
    """Loss of one prompt: mean of -log sigmoid(r_better - r_worse) over its pairs, in nats.

    `rewards` (K,) float, `ranks` (K,) with 1 the best. Equal ranks are ties and make no pair (App. C.2), so a
    prompt whose replies all tie has loss 0.
    """
    return ranking_loss(rewards, ranks, [rewards.shape[0]])[0]


def ranking_loss(
    rewards: Tensor, ranks: Tensor, counts: Sequence[int], prompts: float | None = None
) -> tuple[Tensor, int]:
    """Eq. 1 over several prompts: (mean over prompts of each prompt's mean over its untied pairs, number of
    pairs).

    `rewards` (n,) and `ranks` (n,) hold the replies prompt after prompt, `counts` how many each prompt has
    (sum n). All pairs of a prompt are one batch element, so that a prompt of nine replies weighs as much as
    one of four. Prompts without an untied pair are left out. `prompts` is the denominator to use instead of
    the number of prompts here that have a pair: give the whole batch's when this is one of its micro-batches,
    and the micro-batch losses add up to the batch's loss.
    """
    margins, is_pair = _pairs(rewards, ranks, counts)
    losses = torch.where(is_pair, -functional.logsigmoid(margins), torch.zeros_like(margins))
    pairs = is_pair.sum((1, 2))  # (prompts,)
    denominator = int((pairs > 0).sum()) if prompts is None else prompts
    return (losses.sum((1, 2)) / pairs.clamp(min=1)).sum() / max(denominator, 1), int(pairs.sum())


def comparable_prompts(ranks: Tensor, counts: Sequence[int]) -> int:
    """How many prompts have at least one untied pair: the `prompts` of `ranking_loss` for a whole batch."""
    _, is_pair = _pairs(torch.zeros_like(ranks, dtype=torch.float32), ranks, counts)
    return int(is_pair.any(2).any(1).sum())


def pairwise_accuracy(rewards: Tensor, ranks: Tensor, counts: Sequence[int]) -> tuple[float, int]:
    """(share of untied pairs in which the better-ranked reply has the higher reward, number of pairs).

    Equal rewards count one half; without a pair the accuracy is 0.5, that of a coin. Arguments as
    `ranking_loss`.
    """
    margins, is_pair = _pairs(rewards, ranks, counts)
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    pairs = int(is_pair.sum())
    return (float(right[is_pair].sum()) / pairs if pairs else 0.5), pairs


def untied_pairs(ranks: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Every untied pair: places of its better reply, of its worse reply, of its prompt; each (P,) int64.

    `rewards[better] - rewards[worse]` are the margins, in the order of the prompts. Arguments as
    `ranking_loss`.
    """
    _, is_pair = _pairs(torch.zeros_like(ranks, dtype=torch.float32), ranks, counts)
    prompt, better, worse = is_pair.nonzero(as_tuple=True)
    sizes = torch.as_tensor(counts, dtype=torch.int64, device=ranks.device)
    first = sizes.cumsum(0) - sizes
    return first[prompt] + better, first[prompt] + worse, prompt


def _pairs(rewards: Tensor, ranks: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(r_i - r_j, whether i is ranked above j), both (prompts, K, K) with K the largest count."""
    sizes = torch.as_tensor(counts, device=rewards.device)
    present = torch.arange(max(counts, default=0), device=rewards.device) < sizes[:, None]  # (prompts, K)
    grid_rewards = rewards.new_zeros(present.shape).masked_scatter(present, rewards)
    grid_ranks = ranks.new_zeros(present.shape).masked_scatter(present, ranks)
    above = grid_ranks[:, :, None] < grid_ranks[:, None, :]
    is_pair = above & present[:, :, None] & present[:, None, :]
    return grid_rewards[:, :, None] - grid_rewards[:, None, :], is_pair
