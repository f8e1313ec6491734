"""Direct preference optimisation: rankings teach the policy itself, no reward model stands between.

DPO (arXiv:2305.18290) turns the optimum of the KL-regularised objective around: a policy pi is the optimum of
the reward beta * log(pi / pi_ref) + a constant for each prompt (Eq. 5). With this *implicit reward* in the
reward model's loss (Eq. 1 of arXiv:2203.02155) the loss is DPO's (Eq. 7), and the constant cancels.
"""

from collections.abc import Sequence

from torch import Tensor

from instructgpt.maths.ranking import ranking_loss


def implicit_rewards(logprobs: Tensor, reference_logprobs: Tensor, beta: float) -> Tensor:
    """beta * log(pi(y|x) / pi_ref(y|x)), (n,), in reward units up to a constant for each prompt.

    Both arguments are (n,) nats, each the sum over all tokens of a reply, its end included.
    """
    return beta * (logprobs - reference_logprobs)


def dpo_loss(
    logprobs: Tensor,
    reference_logprobs: Tensor,
    ranks: Tensor,
    counts: Sequence[int],
    beta: float,
    prompts: float | None = None,
) -> tuple[Tensor, int]:
    """Eq. 7 of arXiv:2305.18290 over K-way rankings: (mean over prompts of each prompt's mean over its untied
    pairs of -log sigmoid(h), number of pairs), h = implicit reward of the better reply less the worse one's.

    In nats per pair; log 2 where the policy is the reference. A pair's gradient is -beta * sigmoid(-h) by the
    better reply's log-probability and the opposite by the worse one's (section 4): the weight is how wrong
    the implicit reward is. With two replies a prompt it is the paper's loss; with K each reply is needed
    once for all its pairs. `ranks`, `counts` and `prompts` as in `ranking_loss`.
    """
    return ranking_loss(implicit_rewards(logprobs, reference_logprobs, beta), ranks, counts, prompts)
