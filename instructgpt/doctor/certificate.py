"""The exact certificate: our PPO against the optimum of enumerable worlds, which is known in closed form.

What trains is the code of `rlhf.round` (sample, judge, check, learn), with the sampling engine, the reward
model's scoring, the optimizers and everything below it; only the models are tables (`doctor.tables`). The
figure of a run is the share of the way from the reference's objective to the largest one that the policy has
come, (J(pi) - J(pi_ref)) / (J(pi*) - J(pi_ref)), each J a sum over all replies.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from instructgpt.data.records import Prompt
from instructgpt.doctor.tables import policy_logits, tabular_policy, tabular_scalar, world_tokenizer
from instructgpt.doctor.world import (
    World,
    enumerate_world,
    independent_rewards,
    optimal_logprobs,
    optimum,
    reference_logits,
    structured_rewards,
)
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.rlhf.prepare import Parts, PromptSet
from instructgpt.rlhf.round import check, judge, learn, sample
from instructgpt.rlhf.settings import PPOConfig
from instructgpt.rlhf.update import Learner
from instructgpt.runtime.optim import Ema, adamw
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.reward import RewardModel

SEEDS = (0, 1, 2, 3, 4)
VOCABULARY, MAX_NEW = 7, 4
PROMPTS = ((1, 2), (3,))
"""Of different lengths, so that prompts are padded, packed and read into the cache in pieces."""
SPREADS = {"flat": 0.3, "peaked": 1.0}
"""Standard deviation of the reference's logits."""
BETAS = (0.05, 0.1, 0.2, 0.5)
SHIFT = 10.0
"""Added to every reward in the runs that must come out the same."""
SHIFT_TOLERANCE = 0.02
"""Largest change of a figure that the shift may bring."""

RUN = PPOConfig(
    iterations=100,
    batch=2048,
    minibatches=8,
    max_new=MAX_NEW,
    ptx_coef=0.0,
    lr=0.1,
    value_lr=0.2,
    lr_schedule="linear",
    value_warmup=8,
    warmup=0,
    # Tight and with a high rate: only prefixes that are met often in a round come up against the bound, so
    # the policy can't settle for a beginning before it knows what the rare replies behind it are worth.
    clip=0.03,
    value_clip=100.0,
    grad_clip=0.0,
    eps=1e-8,
    ema=0.98,
    max_tokens=16384,
    max_active=1024,
    save_every=0,
)
"""PPO's settings in every run of the certificate with a flat reference."""
PEAKED = replace(RUN, batch=8192, minibatches=32)
"""The same for a peaked reference, which tries the best reply once in thousands: four times as many
episodes, in minibatches of the same size. With 2,048 the best reply of some worlds is not met before the
policy has settled for another (shares of 0.78 to 0.85), in however many rounds; with 8,192 it is."""


@dataclass(frozen=True)
class Setting:
    """One kind of world with a price of KL; a seed makes it a world."""

    reference: Literal["flat", "peaked"]
    rewards: Literal["structured", "independent"]
    beta: float
    shift: float = 0.0
    """Added to every reward."""

    @property
    def least(self) -> tuple[float, float]:
        """(mean over the seeds, worst seed) that must be reached; a worst of -inf is reported only.

        With rewards that a prefix tells nothing of, or a reference that hardly ever tries some replies, the
        best reply can be missed.
        """
        if self.reference == "flat" and self.rewards == "structured":
            return 0.99, 0.97
        return 0.95, float("-inf")


@dataclass(frozen=True)
class Outcome:
    """What a run came to. `raw` and `ema` are shares of the possible gain in J, KL is in nats per reply."""

    setting: Setting
    seed: int
    raw: float
    ema: float
    kl: float
    optimal_kl: float
    seconds: float


@dataclass(frozen=True)
class Problem:
    """A world with its reference and rewards, and what is known of it exactly."""

    world: World
    logits: Tensor
    """(M, V): the reference's."""
    rewards: Tensor
    """(P, L), shift included."""
    beta: float
    shift: float = 0.0
    """What of the rewards is the same for every reply."""

    @property
    def reference(self) -> Tensor:
        """log pi_ref(y), (P, L)."""
        return self.world.reply_logprobs(self.logits)

    def share(self, policy_logprobs: Tensor) -> float:
        """(J(pi) - J(pi_ref)) / (J(pi*) - J(pi_ref)) of a policy given by its `reply_logprobs`."""
        reference = self.reference
        start = self.world.objective(reference, reference, self.rewards, self.beta)
        reached = self.world.objective(policy_logprobs, reference, self.rewards, self.beta)
        return (reached - start) / (optimum(reference, self.rewards, self.beta) - start)


def problem(setting: Setting, seed: int) -> Problem:
    """The world that a setting and a seed make; a shift of the rewards changes nothing else."""
    world = enumerate_world(VOCABULARY, MAX_NEW, PROMPTS)
    logits = reference_logits(world, SPREADS[setting.reference], derive_seed("reference", seed))
    reward_seed = derive_seed("rewards", seed)
    if setting.rewards == "structured":
        rewards = structured_rewards(world, world.reply_logprobs(logits), reward_seed)
    else:
        rewards = independent_rewards(world, reward_seed)
    return Problem(world, logits, rewards.double() + setting.shift, setting.beta, setting.shift)


def table_models(found: Problem, device: torch.device) -> tuple[LanguageModel, LanguageModel, ScalarModel]:
    """(policy, reference, reward model) as tables, the policy equal to the reference.

    The reward model knows complete replies only and gives 0 to prefixes; a shift of all rewards is one of
    its head's bias, as in a checkpoint, and so is seen at prefixes too. Float64, where the device has it: the
    distance to a known optimum should not be one of rounding.
    """
    values = torch.zeros(found.world.nodes)
    values[found.world.leaves] = (found.rewards - found.shift).float()
    dtype = torch.float32 if device.type == "mps" else torch.float64
    policy = tabular_policy(found.world, found.logits).to(device, dtype)
    reward = tabular_scalar(found.world, values).to(device, dtype)
    reward.reward_bias.fill_(-found.shift)
    return policy, copy.deepcopy(policy).requires_grad_(False), reward


def assemble(
    found: World, policy: LanguageModel, reference: LanguageModel, reward: ScalarModel, config: PPOConfig
) -> Parts:
    """What `rlhf.round` works with: the world's prompts, each as often in a batch, V a copy of the reward."""
    tokenizer = world_tokenizer(found)
    value = copy.deepcopy(reward)
    betas = (config.beta1, config.beta2)
    learner = Learner(
        policy=policy,
        value=value,
        policy_optimizer=adamw(policy, config.lr, betas, config.eps, config.weight_decay),
        value_optimizer=adamw(value, config.value_lr, betas, config.eps, config.weight_decay),
        ema=Ema(policy, config.ema) if config.ema > 0 else None,
    )
    copies = -(-config.batch // len(found.prompts))
    prompts = [Prompt.of(tokenizer.decode(ids)) for ids in found.prompts]
    return Parts(
        tokenizer=tokenizer,
        learner=learner,
        reference=reference,
        reward=RewardModel(reward, tokenizer),
        value_init="reward",
        prompts=PromptSet(tuple(prompts) * copies, found.prompts * copies),
        eval_prompts=None,
        pretraining=None,
        kl_coefficient=config.beta,
        first={},
        last={},
    )


def settings_of(setting: Setting) -> PPOConfig:
    """PPO's settings for worlds of this kind, with their beta."""
    return replace(PEAKED if setting.reference == "peaked" else RUN, beta=setting.beta)


def certify(
    setting: Setting,
    seed: int,
    device: torch.device,
    config: PPOConfig | None = None,
    on_round: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train a table by PPO and measure how far it came; a pure function of its arguments on a CPU.

    `config` stands for `settings_of(setting)`, its beta and seed apart. `on_round` is called with (round,
    share reached by the raw weights) after each round.

    Raises:
        CheckError: a self-check of PPO failed.
    """
    started = time.perf_counter()
    found = problem(setting, seed)
    config = replace(config or settings_of(setting), beta=setting.beta, seed=seed)
    policy, reference, reward = table_models(found, device)
    parts = assemble(found.world, policy, reference, reward, config)
    for iteration in range(config.iterations):
        judged = judge(parts, sample(parts, parts.prompts, config, iteration), config, config.beta)
        if iteration == 0:
            check(parts, judged, config, fresh=True)
        learn(parts, judged, config, iteration)
        if on_round is not None:
            on_round(iteration, found.share(found.world.reply_logprobs(policy_logits(policy))))
    raw = found.world.reply_logprobs(policy_logits(policy))
    averaged = raw
    if parts.learner.ema is not None:
        parts.learner.ema.copy_to(policy)
        averaged = found.world.reply_logprobs(policy_logits(policy))
    best = optimal_logprobs(found.reference, found.rewards, setting.beta)
    return Outcome(
        setting=setting,
        seed=seed,
        raw=found.share(raw),
        ema=found.share(averaged),
        kl=found.world.divergence(raw, found.reference),
        optimal_kl=found.world.divergence(best, found.reference),
        seconds=time.perf_counter() - started,
    )


def keep_out_of_collection() -> None:
    """Spare the garbage collector what is loaded already; a round makes and drops thousands of objects."""
    gc.collect()
    gc.freeze()
