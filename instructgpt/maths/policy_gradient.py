"""Policy gradients without PPO's machinery: A2C, REINFORCE leave-one-out (RLOO), group-relative (GRPO).

Here a *group* is the K replies to one prompt, which stand behind one another: rows 0 .. K-1 are the first
prompt's. Losses are sum / count over counted tokens, as in `maths.ppo`, so that micro-batches add up.
"""

import torch
from torch import Tensor

from instructgpt.maths.kl import k3
from instructgpt.maths.masked import masked_sum
from instructgpt.maths.ppo import policy_loss

GROUP_EPS = 1e-4
"""Added to a group's standard deviation (arXiv:2402.03300 is silent; TRL's number)."""


def reinforce_loss(logprobs: Tensor, advantages: Tensor, mask: Tensor, count: float) -> Tensor:
    """-sum over counted tokens of A * log pi, over `count`: the policy gradient as a loss.

    With `count` the number of counted tokens it is A2C's policy loss (arXiv:1602.01783, section 4.3), whose
    gradient PPO's has as well while the ratio is 1 (arXiv:2205.09123). With a reply's advantage at each of
    its tokens and `count` the number of replies it is RLOO's (arXiv:2402.14740, Eq. 7). `logprobs`,
    `advantages`, `mask` have one shape, (B, R) or (n,); no gradient flows through the advantages.
    """
    zero = torch.zeros_like(logprobs)
    logprobs, advantages = (torch.where(mask, x, zero) for x in (logprobs, advantages.detach()))
    return -(advantages * logprobs).sum() / count


def leave_one_out(rewards: Tensor, group: int) -> Tensor:
    """RLOO's advantages (B,): R_i less the mean of the group's other rewards (arXiv:2402.14740, Eq. 7).

    The baseline does not depend on the reply it is for, so the gradient stays unbiased. They sum to 0 in each
    group and are group / (group - 1) times the distances from its mean. `rewards` (B,), `group` at least 2.
    """
    each = rewards.view(-1, group)
    others = (each.sum(1, keepdim=True) - each) / (group - 1)
    return (each - others).view(-1)


def group_normalised(rewards: Tensor, group: int, scale: bool = True) -> Tensor:
    """GRPO's advantages (B,): (r_i - mean of the group) / its standard deviation (arXiv:2402.03300, section
    4.1.2).

    The deviation is the sample's (divided by group - 1), with `GROUP_EPS` added; a group of equal rewards has
    advantages 0. `scale=False` leaves the division out (Dr. GRPO, arXiv:2503.20783): dividing weighs prompts
    by how little their rewards differ. `rewards` (B,), `group` at least 2.
    """
    each = rewards.view(-1, group)
    centred = each - each.mean(1, keepdim=True)
    if scale:
        centred = centred / (each.std(1, keepdim=True) + GROUP_EPS)
    return centred.view(-1)


def reply_weights(lengths: Tensor) -> Tensor:
    """Weights (B,) for the tokens of each reply that make a mean over all tokens GRPO's mean over replies of
    means over tokens: sum(lengths) / (B * length). Their mean over tokens is 1. `lengths` (B,), at least 1.
    """
    return lengths.sum() / (len(lengths) * lengths)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    reference_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    clip: float,
    beta: float,
    count: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """GRPO's loss (arXiv:2402.03300, Eq. 3 with the KL of Eq. 4), to be minimised: sum over counted tokens of
    weight * (max(-A ratio, -A clip(ratio, 1 +- clip)) + beta * k3), over `count`.

    k3 = pi_ref / pi - 1 - log(pi_ref / pi), whose gradient flows. On replies of the policy itself that
    gradient is the gradient of KL(pi_ref, pi), not of the KL(pi, pi_ref) that k3's value estimates (field
    fault 13); both vanish at the reference alone. `weights` decide the average: those of `reply_weights`, or
    1 for a mean over all tokens. All tensors have one shape, (B, R) or (n,). Statistics as in `policy_loss`,
    and `kl_loss`: the mean k3 in nats per token, as weighted, without beta.
    """
    surrogate, stats = policy_loss(logprobs, old_logprobs, advantages * weights, mask, clip, count)
    zero = torch.zeros_like(logprobs)
    ours, theirs = (torch.where(mask, x, zero) for x in (logprobs, reference_logprobs))
    penalty = masked_sum(weights * k3(ours, theirs), mask) / count
    return surrogate + beta * penalty, stats | {"kl_loss": penalty.detach()}
