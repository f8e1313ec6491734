"""What holds of PPO-ptx and its reward model whatever the data: each check runs the real code and measures.

The numbers are those of the project's list of invariants; expected values are closed forms and slow loops of
`doctor.tiny`. What needs data (user ids in splits) is left to the tests; the twelfth, that PPO reaches the
optimum of an enumerable world, is the certificate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn

from instructgpt.doctor.tiny import CONFIG, DOCUMENTS, SHAPE, Tiny, slow_logprobs, slow_values, tiny_round
from instructgpt.maths.gae import gae
from instructgpt.maths.ranking import pair_loss
from instructgpt.model.heads import LanguageModel, new_language_model, new_scalar_model
from instructgpt.reward_model.comparisons import Comparison
from instructgpt.reward_model.train import accumulate, normalise
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.checks import check_value_start
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import micro_batches
from instructgpt.rlhf.round import learn
from instructgpt.rlhf.update import ppo_gradients, ptx_gradients, update, value_gradients
from instructgpt.scoring.batches import score_ids


@dataclass(frozen=True)
class Finding:
    """An invariant with the largest deviation that was measured and the one allowed."""

    number: int
    name: str
    measured: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the bound; what is not a number never is."""
        return self.measured <= self.bound


def check_invariants(device: torch.device) -> list[Finding]:
    """All of them, in the order of the list.

    Raises:
        CheckError: the code itself refused to start.
    """
    return [check(device) for check in CHECKS]


def no_learning_keeps_the_ratio(device: torch.device) -> Finding:
    """With learning rate 0 every ratio is 1, nothing is clipped and the policy has no KL to itself."""
    tiny = tiny_round(device, minibatches=4)
    stats = learn(tiny.parts, tiny.judged, replace(tiny.config, lr=0.0, value_lr=0.0), 0)
    far = [stats["ratio_max"] - 1, stats["ratio_mean"] - 1, stats["approx_kl"], stats["clip_fraction"]]
    return Finding(1, "learning rate 0: ratio 1, no KL, nothing clipped", _largest(far), 1e-4)


def sampler_and_update_agree(device: torch.device) -> Finding:
    """The log-probs that the sampler drew with (cached, row by row) are those that the update starts from."""
    rollout = tiny_round(device).rollout
    drift = (rollout.episodes.rollout_logprobs - rollout.old_logprobs)[rollout.mask]
    return Finding(1, "log-probs of sampler and update agree", _largest(drift), 1e-4)


def first_return_is_score_less_kl(device: torch.device) -> Finding:
    """At gamma = lambda = 1 the return of the first token is score - beta * KL, each reply read alone."""
    tiny = tiny_round(device)
    rewards = shape_rewards(tiny.rollout, tiny.config.beta)
    _, returns = estimate(tiny.rollout, rewards, gamma=1.0, lam=1.0)
    reward = copy.deepcopy(tiny.parts.learner.value)  # not stepped yet: the reward model
    expected = []
    with torch.no_grad():
        for pair in tiny.pairs():
            ours = slow_logprobs(tiny.parts.learner.policy, *pair, tiny.config.temperature)
            theirs = slow_logprobs(tiny.parts.reference, *pair, tiny.config.temperature)
            expected.append(slow_values(reward, *pair)[-1] - tiny.config.beta * (ours - theirs).sum())
    far = returns[:, 0] - torch.stack(expected).cpu()
    return Finding(2, "first return = score - beta * KL", _largest(far), 1e-4)


def gae_at_lambda_one_and_zero(device: torch.device) -> Finding:
    """Lambda 1 gives the rewards still to come less V, lambda 0 the one-step error; slots beyond hold NaN."""
    tiny = tiny_round(device)
    rollout, rewards = tiny.rollout, shape_rewards(tiny.rollout, tiny.config.beta).per_token
    values = torch.where(rollout.mask, rollout.values, float("nan"))
    poisoned = torch.where(rollout.mask, rewards, float("nan"))
    monte_carlo, _ = gae(values, poisoned, rollout.mask, 1.0, 1.0)
    one_step, _ = gae(values, poisoned, rollout.mask, 1.0, 0.0)
    far = []
    for row, length in enumerate(rollout.episodes.response_length.tolist()):
        v, r = [*rollout.values[row, :length].tolist(), 0.0], rewards[row, :length].tolist()
        for t in range(length):
            far.append(monte_carlo[row, t].item() - (sum(r[t:]) - v[t]))
            far.append(one_step[row, t].item() - (r[t] + v[t + 1] - v[t]))
    return Finding(3, "GAE: lambda 1 = Monte-Carlo, lambda 0 = TD", _largest(far), 1e-5)


def gradients_of_packed_replies(device: torch.device) -> Finding:
    """Packed and cut into micro-batches, the gradients are those of the formulas, one reply at a time."""
    tiny = _moved(device)
    policy, value = tiny.parts.learner.policy, tiny.parts.learner.value
    ours, config, rollout = _gradients(tiny, tiny.config.max_tokens), tiny.config, tiny.rollout
    losses, value_losses = [], []
    for row, pair in enumerate(tiny.pairs()):
        logprobs, values = slow_logprobs(policy, *pair, config.temperature), slow_values(value, *pair)
        for t in range(len(pair[1])):
            a = tiny.judged.advantages[row, t].item()
            ratio = (logprobs[t] - rollout.old_logprobs[row, t].item()).exp()
            losses.append(torch.max(-a * ratio, -a * ratio.clamp(1 - config.clip, 1 + config.clip)))
            before, wanted = rollout.values[row, t].item(), tiny.judged.returns[row, t].item()
            kept = before + (values[t] - before).clamp(-config.value_clip, config.value_clip)
            value_losses.append(0.5 * torch.max((values[t] - wanted) ** 2, (kept - wanted) ** 2))
    loss, value_loss = torch.stack(losses).mean(), config.value_coef * torch.stack(value_losses).mean()
    loss.backward()
    value_loss.backward()
    expected = _taken(policy, "policy.") | _taken(value, "value.")
    return Finding(4, "gradients packed = one reply at a time", _apart(ours, expected), 1e-4)


def gradients_however_cut(device: torch.device) -> Finding:
    """One micro-batch of all replies and one for each reply give the same gradients."""
    tiny = _moved(device)
    whole, single = _gradients(tiny, 100_000), _gradients(tiny, 1)
    return Finding(4, "gradients: one micro-batch = many", _apart(single, whole), 1e-4)


def every_pair_counts_alike(device: torch.device) -> Finding:
    """The K-way loss is the mean over prompts of the mean over pairs of -log sigmoid(better - worse)."""
    model, batch = new_scalar_model(SHAPE, 4).to(device), _comparisons()
    loss, _ = accumulate(model, batch, 16, torch.float32)
    means = []
    for comparison in batch:
        scores = score_ids(model, comparison.sequences).tolist()
        pairs = combinations(sorted(zip(comparison.ranks, scores, strict=True)), 2)
        losses = [math.log1p(math.exp(worse - better)) for (i, better), (j, worse) in pairs if i < j]
        means.append(sum(losses) / len(losses))
    return Finding(5, "K-way loss = mean over pairs", _largest([loss - sum(means) / len(means)]), 1e-5)


def every_reply_is_read_once(device: torch.device) -> Finding:
    """A reply is forwarded once, whatever number of pairs it is in; measured: forwards too many or few."""
    model, batch = new_scalar_model(SHAPE, 4).to(device), _comparisons()
    read: list[int] = []
    # A reply is read at its last token; what it shares with the others is no reply of its own.
    model.register_forward_pre_hook(
        lambda _, arguments, named: read.append(len(named["rows"])), with_kwargs=True
    )
    accumulate(model, batch, 16, torch.float32)
    return Finding(
        5, "each reply forwarded once", _largest([sum(read) - sum(len(c.ranks) for c in batch)]), 0
    )


def a_shift_of_rewards(device: torch.device) -> Finding:
    """Adding 10 to all rewards leaves the ranking loss as it is."""
    ranks = torch.tensor([3, 1, 2, 2, 4], device=device)
    rewards = torch.tensor([0.3, -1.2, 0.8, 0.1, 2.0], dtype=torch.float64, device=device)
    far = pair_loss(rewards + 10, ranks) - pair_loss(rewards, ranks)
    return Finding(6, "reward-model loss blind to a shift", _largest(far), 1e-6)


def demonstrations_at_zero(device: torch.device) -> Finding:
    """After the shift the demonstrations' mean reward is 0."""
    model = new_scalar_model(SHAPE, 4).to(device)
    normalise(model, [list(document) for document in DOCUMENTS])
    mean = score_ids(model, DOCUMENTS).double().mean()
    return Finding(6, "mean reward of demonstrations is 0", _largest(mean), 1e-6)


def value_starts_as_the_reward_model(device: torch.device) -> Finding:
    """Before the first update V at a reply's last token is the reward model's score."""
    tiny = tiny_round(device)
    far = check_value_start(tiny.parts.learner.value, tiny.rollout, tiny.config)
    return Finding(7, "V of the last token = score, at the start", _largest([far]), 1e-5)


def ptx_gradient(device: torch.device) -> Finding:
    """The ptx gradient is ptx_coef times that of the mean next-token loss over all tokens."""
    policy = _wide(new_language_model(SHAPE, 1).to(device))
    ptx_gradients(policy, DOCUMENTS, replace(CONFIG, ptx_coef=27.8, max_tokens=6))
    ours = _taken(policy)
    (-27.8 * torch.cat([slow_logprobs(policy, d[:1], d[1:]) for d in DOCUMENTS]).mean()).backward()
    bound = 1e-6 if next(policy.parameters()).dtype == torch.float64 else 1e-4
    return Finding(8, "ptx gradient = ptx_coef * that of the LM loss", _apart(ours, _taken(policy)), bound)


def ptx_in_the_same_step(device: torch.device) -> Finding:
    """Each optimizer step of the policy is taken on the sum of the PPO gradient and the ptx gradient."""
    tiny = tiny_round(device, ptx_coef=5.0)
    learner, judged = tiny.parts.learner, tiny.judged
    micros = micro_batches(tiny.rollout.episodes, range(CONFIG.batch), CONFIG.max_tokens, device)
    ppo_gradients(learner.policy, micros, judged.rollout, judged.advantages, tiny.config)
    ptx_gradients(learner.policy, DOCUMENTS, tiny.config)
    expected, seen = _taken(learner.policy), []
    learner.policy_optimizer.register_step_pre_hook(lambda *_: seen.append(_copied(learner.policy)))
    documents = [list(document) for document in DOCUMENTS]
    update(learner, judged.rollout, judged.advantages, judged.returns, lambda _: documents, tiny.config, 0)
    far = _apart(seen[0], expected) if len(seen) == 1 else math.inf
    return Finding(8, "ptx accumulated in the step of PPO", far, 1e-4)


def average_in_closed_form(device: torch.device) -> Finding:
    """After n steps the average is d^n w_0 + (1 - d) * sum over k of d^(n - k) w_k."""
    tiny = tiny_round(device, minibatches=8, ema=0.9, lr=1e-2)
    learner, decay = tiny.parts.learner, tiny.config.ema
    path = [_weights(learner.policy)]
    learner.policy_optimizer.register_step_post_hook(lambda *_: path.append(_weights(learner.policy)))
    learn(tiny.parts, tiny.judged, tiny.config, 0)
    steps = len(path) - 1
    expected = {name: decay**steps * start for name, start in path[0].items()}
    for k, weights in enumerate(path[1:], start=1):
        expected = {n: e + (1 - decay) * decay ** (steps - k) * weights[n] for n, e in expected.items()}
    assert learner.ema is not None
    return Finding(9, "EMA = its closed form", _apart(learner.ema.values, expected), 1e-5)


def warmup_of_the_rate(device: torch.device) -> Finding:
    """The rate is a tenth of its peak in the first round and the peak in the eleventh, for both networks."""
    tiny = tiny_round(device)
    config = replace(tiny.config, warmup=10, lr=1e-6, value_lr=1e-6)
    far = []
    for iteration, share in ((0, 0.1), (10, 1.0)):
        learn(tiny.parts, tiny.judged, config, iteration)
        for optimizer in (tiny.parts.learner.policy_optimizer, tiny.parts.learner.value_optimizer):
            far += [group["lr"] / config.lr - share for group in optimizer.param_groups]
    return Finding(10, "learning rate: a tenth at first, the peak after 10", _largest(far), 1e-9)


CHECKS: tuple[Callable[[torch.device], Finding], ...] = (
    no_learning_keeps_the_ratio,
    sampler_and_update_agree,
    first_return_is_score_less_kl,
    gae_at_lambda_one_and_zero,
    gradients_of_packed_replies,
    gradients_however_cut,
    every_pair_counts_alike,
    every_reply_is_read_once,
    a_shift_of_rewards,
    demonstrations_at_zero,
    value_starts_as_the_reward_model,
    ptx_gradient,
    ptx_in_the_same_step,
    average_in_closed_form,
    warmup_of_the_rate,
)


def _moved(device: torch.device) -> Tiny:
    """A round whose policy and V have moved off what they were at its start, some of both past the clip."""
    tiny = tiny_round(device)
    noise = torch.randn(tiny.rollout.mask.shape, generator=torch.Generator().manual_seed(5))
    noise = torch.where(tiny.rollout.mask, noise, 0.0)
    rollout = replace(
        tiny.rollout,
        old_logprobs=tiny.rollout.old_logprobs + 0.3 * noise,
        values=tiny.rollout.values - 0.3 * noise,
    )
    return replace(tiny, judged=replace(tiny.judged, rollout=rollout))


def _gradients(tiny: Tiny, max_tokens: int) -> dict[str, Tensor]:
    """Gradients of policy and value loss over the whole round, in micro-batches of `max_tokens`."""
    learner, judged = tiny.parts.learner, tiny.judged
    device = learner.policy.unembedding.device
    micros = micro_batches(tiny.rollout.episodes, range(CONFIG.batch), max_tokens, device)
    ppo_gradients(learner.policy, micros, judged.rollout, judged.advantages, tiny.config)
    value_gradients(learner.value, micros, judged.rollout, judged.returns, tiny.config)
    return _taken(learner.policy, "policy.") | _taken(learner.value, "value.")


def _comparisons() -> list[Comparison]:
    """Rankings of three, five and four replies, with ties, of unequal lengths."""
    generator = torch.Generator().manual_seed(6)
    return [
        Comparison([torch.randint(1, 7, (2 + n,), generator=generator).tolist() for n in range(len(r))], r)
        for r in ([2, 1, 3], [1, 1, 2, 3, 4], [4, 3, 1, 3])
    ]


def _copied(model: nn.Module) -> dict[str, Tensor]:
    """The model's gradients as they are."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _taken(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """The model's gradients, which are then cleared."""
    found = {prefix + name: gradient for name, gradient in _copied(model).items()}
    model.zero_grad(set_to_none=True)
    return found


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _wide(model: LanguageModel) -> LanguageModel:
    """Float64 where the device has it."""
    return model if model.unembedding.device.type == "mps" else model.double()


def _apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest difference over the largest number expected; infinite where names differ."""
    if found.keys() != expected.keys():
        return math.inf
    size = _largest(torch.cat([tensor.flatten() for tensor in expected.values()]))
    return _largest(torch.cat([(found[n] - expected[n]).flatten() for n in expected])) / size


def _largest(numbers: Tensor | Sequence[float]) -> float:
    """Largest absolute value; NaN if there is one."""
    return float(torch.as_tensor(numbers, dtype=torch.float64, device="cpu").abs().max())
