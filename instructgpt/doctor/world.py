"""The enumerable world: so few replies that every expectation is a sum and the optimum is known exactly.

A vocabulary of V ids, one of which ends a reply, and replies of at most `max_new` ids: each sequence of ids
is a node of a tree, each complete reply a leaf. With rewards r on the leaves, a reference policy pi_ref and a
price beta, the objective of PPO (Eq. 2 of arXiv:2203.02155 without its pretraining term)

    J(pi) = E over replies y of pi [ r(y) - beta * log(pi(y) / pi_ref(y)) ]

has its maximum at pi*(y) proportional to pi_ref(y) * exp(r(y) / beta), where J = beta * log E over pi_ref of
exp(r / beta) (section 5.1 of arXiv:1909.08593 uses the same form; arXiv:2305.18290, App. A.1, derives it).

Legend: P prompts, L replies to each, M nodes, V vocabulary. All results are float64 and averages over the
prompts, which weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from instructgpt.errors import ConfigError

END = 0
"""The id that ends a reply."""
LARGEST = 4096
"""Replies that a world may have, over all its prompts."""


@dataclass(frozen=True)
class World:
    """Prompts with every reply that there can be. Build it with `enumerate_world`."""

    vocab_size: int
    max_new: int
    prompts: tuple[tuple[int, ...], ...]
    child: Tensor
    """(M, V) int64: the node that an id leads to; 0, the root, where no sequence goes on."""
    starts: Tensor
    """(P,) int64: the node of each prompt."""
    leaves: Tensor
    """(P, L) int64: the node of each complete reply, in the same order for every prompt."""
    replies: Tensor
    """(L, max_new) int64: the ids of each reply, -1 beyond its end."""
    steps: tuple[tuple[Tensor, Tensor, Tensor], ...]
    """For each place in a reply: (parent, id, node), each (n,) int64, of all tokens that may stand there."""

    @property
    def nodes(self) -> int:
        """M: sequences that are the beginning of a prompt with a reply, the empty one included."""
        return self.child.shape[0]

    @cached_property
    def lengths(self) -> Tensor:
        """(L,) int64: ids of each reply."""
        return (self.replies >= 0).sum(1)

    def reply_logprobs(self, logits: Tensor) -> Tensor:
        """log pi(y) in nats (P, L) of the policy whose logits at each node are (M, V)."""
        token = torch.log_softmax(logits.detach().cpu().double(), dim=-1)
        total = torch.zeros(self.nodes, dtype=torch.float64)
        for parent, index, node in self.steps:
            total[node] = total[parent] + token[parent, index]
        return total[self.leaves]

    def objective(self, logprobs: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> float:
        """J in reward units, of a policy and a reference given by their `reply_logprobs`; rewards (P, L)."""
        gained = rewards.double() - beta * (logprobs - reference)
        return float((logprobs.exp() * gained).sum(1).mean())

    def divergence(self, logprobs: Tensor, reference: Tensor) -> float:
        """KL(pi, pi_ref) in nats per reply, of two policies given by their `reply_logprobs`."""
        return float((logprobs.exp() * (logprobs - reference)).sum(1).mean())


def enumerate_world(vocab_size: int, max_new: int, prompts: Sequence[Sequence[int]]) -> World:
    """Every reply of up to `max_new` ids to each prompt: those that `END` ends, and those cut at the limit.

    Raises:
        ConfigError: there would be more than `LARGEST` replies, or two prompts begin with the same id (their
            replies would then share prefixes, or one be a reply to the other).
    """
    open_prefixes = [(vocab_size - 1) ** place for place in range(max_new)]
    count = len(prompts) * (sum(open_prefixes) + (vocab_size - 1) ** max_new)
    if count > LARGEST:
        raise ConfigError(
            f"a world of {count} replies is more than the {LARGEST} that are enumerated",
            cure="use fewer ids, shorter replies or fewer prompts",
        )
    if len({prompt[0] for prompt in prompts}) < len(prompts):
        raise ConfigError("two prompts begin with the same id", cure="let each begin with one of its own")
    nodes = 1 + sum(map(len, prompts)) + len(prompts) * vocab_size * sum(open_prefixes)
    child = torch.zeros(nodes, vocab_size, dtype=torch.int64)
    used, starts = 1, []
    for prompt in prompts:
        node = 0
        for index in prompt:
            child[node, index] = used
            node, used = used, used + 1
        starts.append(node)
    every = torch.arange(vocab_size)
    growing = torch.tensor(starts)[:, None]  # (P, n): nodes of the replies that are not complete
    paths = torch.full((1, max_new), -1)  # (n, max_new): their ids
    leaves, replies, steps = [], [], []
    for place in range(max_new):
        fresh = torch.arange(used, used + growing.numel() * vocab_size).view(*growing.shape, vocab_size)
        used += fresh.numel()
        child[growing] = fresh
        steps.append(
            (growing.reshape(-1).repeat_interleave(vocab_size), every.repeat(growing.numel()), fresh.view(-1))
        )
        longer = paths[:, None].repeat(1, vocab_size, 1)  # (n, V, max_new)
        longer[:, :, place] = every
        # END is id 0; at the last place every id completes the reply.
        complete = slice(None) if place == max_new - 1 else slice(END, END + 1)
        leaves.append(fresh[:, :, complete].flatten(1))
        replies.append(longer[:, complete].flatten(0, 1))
        growing, paths = fresh[:, :, END + 1 :].flatten(1), longer[:, END + 1 :].flatten(0, 1)
    return World(
        vocab_size=vocab_size,
        max_new=max_new,
        prompts=tuple(tuple(prompt) for prompt in prompts),
        child=child,
        starts=torch.tensor(starts),
        leaves=torch.cat(leaves, 1),
        replies=torch.cat(replies),
        steps=tuple(steps),
    )


def optimal_logprobs(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """log pi*(y) (P, L): the policy of the largest J, pi_ref * exp(r / beta) made to sum to 1."""
    return torch.log_softmax(reference + rewards.double() / beta, dim=1)


def optimum(reference: Tensor, rewards: Tensor, beta: float) -> float:
    """The largest J there is, in closed form: beta * log E over pi_ref of exp(r / beta), in reward units."""
    return float(beta * torch.logsumexp(reference + rewards.double() / beta, dim=1).mean())


def reference_logits(world: World, spread: float, seed: int) -> Tensor:
    """(M, V) float32: independent N(0, spread^2) logits at each node."""
    return spread * torch.randn(world.nodes, world.vocab_size, generator=_generator(seed))


def independent_rewards(world: World, seed: int) -> Tensor:
    """(P, L) float32: N(0, 1) for each reply, whatever its ids: nothing tells a good beginning."""
    return torch.randn(world.leaves.shape, generator=_generator(seed))


def structured_rewards(world: World, reference: Tensor, seed: int) -> Tensor:
    """(P, L) float32: a sum over the reply's ids, so that replies with a common beginning share reward.

    Each id brings a number of its own for (prompt, place, id) and one for (id before it, id), all N(0, 1);
    the sums are shifted and scaled to mean 0 and variance 1 under the reference, given by its
    `reply_logprobs` (as [L] does with its reward model: arXiv:1909.08593, section 2.2).
    """
    generator = _generator(seed)
    size = world.vocab_size
    places = torch.randn(len(world.prompts), world.max_new, size, generator=generator)
    pairs = torch.randn(size, size, generator=generator)
    rewards = torch.zeros(world.leaves.shape, dtype=torch.float64)
    for row, prompt in enumerate(world.prompts):
        before = torch.full((len(world.replies),), prompt[-1])
        for place in range(world.max_new):
            ids = world.replies[:, place]
            counts = ids >= 0
            at = ids.clamp(min=0)
            rewards[row] += torch.where(counts, places[row, place, at] + pairs[before, at], 0.0)
            before = at
    weight = reference.exp() / len(world.prompts)
    rewards -= (weight * rewards).sum()
    return (rewards / (weight * rewards**2).sum().sqrt()).float()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
