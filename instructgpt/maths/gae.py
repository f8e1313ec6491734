"""Generalised advantage estimation over ragged replies (eq. 11-16 of arXiv:1506.02438)."""

import torch
from torch import Tensor


def gae(values: Tensor, rewards: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (B, R), in reward units, 0 where `mask` is False.

    `values` (B, R): V before each token; `rewards` (B, R): reward for each token; `mask` (B, R) bool: tokens
    that count. delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, return_t = A_t + V_t,
    where t+1 is the next token *that counts* and everything after the last one is 0. The mask is applied
    before the recursion, so what stands in the other slots cannot leak in (field fault 15). Not
    differentiable.
    """
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(values.shape[0])
    next_advantage = torch.zeros_like(next_value)
    with torch.no_grad():
        for t in range(values.shape[1] - 1, -1, -1):
            counts = mask[:, t]
            delta = rewards[:, t] + gamma * next_value - values[:, t]
            advantage = delta + gamma * lam * next_advantage
            advantages[:, t] = torch.where(counts, advantage, torch.zeros_like(advantage))
            next_advantage = torch.where(counts, advantage, next_advantage)
            next_value = torch.where(counts, values[:, t], next_value)
        returns = torch.where(mask, advantages + values, torch.zeros_like(values))
    return advantages, returns
