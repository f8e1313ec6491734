"""Knobs of the comparators with their sources.

[P] arXiv:2203.02155 (InstructGPT), [DPO] arXiv:2305.18290, [RLOO] arXiv:2402.14740, [GRPO] arXiv:2402.03300,
[A2C] arXiv:1602.01783. Where a method is silent, values are those of PPO here (`rlhf.settings`), so that a
comparison changes the method alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from instructgpt.errors import ConfigError
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.rlhf.settings import PPOConfig


@dataclass(frozen=True)
class OnlineConfig:
    """What the methods share that draw replies while they train."""

    refused: ClassVar[dict[str, str]] = PPOConfig.refused
    """As in PPO: replies are drawn from the policy itself, and there is no dropout."""

    out: str = ""
    """Run folder to write, or to resume."""
    model: str = ""
    """SFT checkpoint: the policy starts from it, and it is the frozen reference."""
    reward: str = ""
    """What scores replies: a reward-model checkpoint, several with commas between (their mean counts),
    module:function, a URL, verify:NAME, or a weighted sum such as 0.7*runs/rm + 0.3*verify:exact."""
    prompts: str = ""
    """Prompts to practise on: JSONL file, glob, or several separated by commas."""
    iterations: int = 500
    """Rounds of sampling and learning."""
    batch: int = 512
    """Replies a round. [P]"""
    max_new: int = 256
    """Longest reply, in tokens."""
    max_prompt: int = 0
    """Prompts longer than this many tokens are left out; 0 = one without room is an error."""
    temperature: float = 1.0
    """Sampling temperature; log-probs and KL are of the same tempered distribution."""
    missing_eos_penalty: float | None = None
    """Score that replaces the reward of a reply that did not end itself; None = no rule."""
    lr: float = 8e-6
    """Peak learning rate of the policy."""
    warmup: int = 10
    """Rounds of linear warm-up from a tenth of the peak."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up the rate stays constant; linear = times 1 - round / rounds, to 0."""
    beta1: float = 0.9
    """Adam."""
    beta2: float = 0.95
    """Adam."""
    eps: float = 1e-5
    """Adam."""
    weight_decay: float = 0.0
    """AdamW, on matrices."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 = none."""
    max_skipped: int = 3
    """Optimizer steps in a row, each skipped because a gradient was not finite, that end the run."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank over the frozen model instead of all its weights, and save only
    them; the networks then share what is frozen (docs/lora.md). 0 = train all weights."""
    lora_alpha: float = 32.0
    """Adapters are scaled by this / rank."""
    lora_targets: str = "all"
    """Layers with adapters: all, attention, mlp, or PEFT's names with commas, as in q_proj,v_proj."""
    lora_rslora: bool = False
    """Scale adapters by alpha / square root of the rank (arXiv:2312.03732)."""
    lora_base: Literal["float32", "int8"] = "float32"
    """int8 keeps the frozen layers in 8 bits a number."""
    seed: int = 0
    """Decides every random choice."""
    save_every: int = 10
    """Rounds between checkpoints; 0 = only at the end."""
    keep: int = 1
    """Latest checkpoints to keep; 0 = keep them all."""
    max_tokens: int = 4096
    """Tokens in one forward and backward pass: bounds memory, changes no result."""
    max_active: int = 256
    """Replies sampled at the same time: bounds memory, changes no reply."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the passes of scoring and update; weights and optimizer stay float32."""
    profile: bool = False
    """Say at the end where the time went, phase by phase, and write it to profile.md."""
    trace_steps: int = 0
    """Steps after the first to record in trace.json, for chrome://tracing or Perfetto; 0 = none."""

    def __post_init__(self) -> None:
        _ = self.ppo  # PPO's rules hold for what it shares

    @property
    def ppo(self) -> PPOConfig:
        """These settings in PPO's words, for the steps that are PPO's: one epoch, one minibatch, no ptx.

        Raises:
            ConfigError: a value that PPO refuses.
        """
        return self._as_ppo()

    def _as_ppo(self, **other: Any) -> PPOConfig:
        known = {field.name for field in fields(PPOConfig)}
        shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name in known}
        plain = {"minibatches": 1, "epochs": 1, "ptx_coef": 0.0, "ema": 0.0}
        return PPOConfig(**(plain | shared | other))

    def _check_groups(self, name: str) -> None:
        """`batch` must be whole groups of `name` replies, at least two each."""
        group = getattr(self, name)
        if group < 2:
            raise _wrong(
                name, group, "give at least 2 replies to each prompt: they are each other's baseline"
            )
        if self.batch % group:
            down, up = self.batch // group * group, (self.batch // group + 1) * group
            choice = f"use {down} or {up}" if down else f"use {up}"
            what = f"a batch of {self.batch} replies can't be cut into groups of {group}"
            raise ConfigError(what, "--batch", choice)


@dataclass(frozen=True)
class RLOOConfig(OnlineConfig):
    """REINFORCE leave-one-out: a reply is one action, the baseline is the mean of its prompt's other
    replies. One optimizer step a round, strictly on-policy."""

    batch: int = 64
    """Replies a round, of which one optimizer step is taken."""
    samples: int = 4
    """Replies to each prompt, k. [RLOO]: 2 and 4."""
    beta: float = 0.02
    """Price of one nat of KL to the SFT model, in reward units, off the reply's reward. As in `ppo`."""
    old_logprobs: Literal["update", "rollout"] = "update"
    """Who computes the policy's log-probs for the KL: a forward pass of the update's kind, or the sampler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_groups("samples")


@dataclass(frozen=True)
class GRPOConfig(OnlineConfig):
    """Group-relative policy optimisation: rewards normalised within the replies to one prompt, PPO's clipped
    objective for each token, a KL penalty in the loss, no value network."""

    samples: int = 8
    """Replies to each prompt, the group G. [GRPO]: 64."""
    minibatches: int = 8
    """Optimizer steps that one pass over a round's replies is cut into."""
    epochs: int = 1
    """Passes over a round's replies. [GRPO]: 1."""
    clip: float = 0.2
    """Policy ratio is clipped to 1 +- this."""
    beta: float = 0.04
    """Factor on the KL penalty k3, beside advantages of deviation 1: PPO's beta over the group's deviation.
    [GRPO]: 0.04."""
    scale: bool = True
    """Divide by the group's standard deviation; False = Dr. GRPO (arXiv:2503.20783)."""
    average: Literal["reply", "token"] = "reply"
    """Mean over each reply's tokens, then over replies ([GRPO]), or over all tokens (arXiv:2503.14476)."""
    old_logprobs: Literal["update", "rollout"] = "update"
    """Who computes log-probs before the update: the update's own forward pass, or the sampler."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_groups("samples")


@dataclass(frozen=True)
class A2CConfig(OnlineConfig):
    """Advantage actor-critic: PPO's one-step form. One optimizer step a round, no ratio, nothing clipped."""

    batch: int = 64
    """Replies a round, of which one optimizer step is taken."""
    beta: float = 0.02
    """Price of one nat of KL to the SFT model, in reward units, paid token by token. As in `ppo`."""
    gamma: float = 1.0
    """Discount."""
    lam: float = 0.95
    """GAE lambda; 1 = the return less the value, as in [A2C] with steps to the end of the reply."""
    whiten_advantages: bool = True
    """Advantages of the whole round to mean 0 and variance 1, as in `ppo`; [A2C] has none."""
    value_lr: float = 9e-6
    """Learning rate of the value network."""
    value_coef: float = 0.1
    """Factor on the value loss; value and policy being two networks, Adam all but cancels it."""
    value_warmup: int = 0
    """Rounds at the start in which only the value network learns."""
    value_init: Literal["auto", "reward", "policy"] = "auto"
    """Where the value network starts: the reward model, or the SFT body with a head of zeros; auto = reward
    where it is a checkpoint."""
    old_logprobs: Literal["update", "rollout"] = "update"
    """Who computes the policy's log-probs for the KL: a forward pass of the update's kind, or the sampler."""

    @property
    def ppo(self) -> PPOConfig:
        """As in `OnlineConfig`; new values may be any distance from the old ones."""
        return self._as_ppo(value_clip=float("inf"))


@dataclass(frozen=True)
class DistillConfig(OnlineConfig):
    """Best-of-n distillation: draw n replies to each prompt, keep the one of highest reward, and train on it
    as SFT does."""

    samples: int = 4
    """Replies to each prompt, n. With them drawn from the SFT model, the best of n lies at most
    log n - (n-1)/n nats from it."""
    sampler: Literal["reference", "policy"] = "reference"
    """Who draws the replies: the SFT model throughout (distillation), or the policy as it stands (RAFT,
    arXiv:2304.06767; expert iteration)."""
    minibatches: int = 4
    """Optimizer steps that one pass over a round's winners is cut into."""
    epochs: int = 1
    """Passes over a round's winners."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_groups("samples")
        winners = self.batch // self.samples
        if winners < self.minibatches:
            what = f"{winners} winners a round can't be cut into {self.minibatches} minibatches"
            raise ConfigError(what, "--minibatches", f"use at most {winners}, or a larger --batch")


@dataclass(frozen=True)
class DPOConfig:
    """Direct preference optimisation on rankings: no reward model, no sampling."""

    out: str = ""
    """Run folder to write, or to resume."""
    model: str = ""
    """SFT checkpoint: the policy starts from it, and it is the frozen reference."""
    data: str = ""
    """Rankings or preference pairs: JSONL file, glob, or several with commas."""
    validation: str = ""
    """Held-out rankings, likewise; empty = --validation-share of the data, cut off by user."""
    validation_share: float = 0.05
    """Share of the data held out where no --validation is given; 0 = none."""
    epochs: float = 1.0
    """Passes over the rankings."""
    batch: int = 64
    """Prompts in an optimizer step, each with all pairs of its replies as one batch element. [DPO]: 64
    pairs."""
    beta: float = 0.1
    """Price of one nat of KL to the SFT model, in reward units. [DPO]: 0.1."""
    lr: float = 1e-6
    """Peak learning rate. [DPO]: 1e-6, with RMSprop."""
    warmup: int = 150
    """Steps of linear warm-up from a tenth of the peak; then constant. [DPO]: 150."""
    beta1: float = 0.9
    """Adam."""
    beta2: float = 0.95
    """Adam."""
    weight_decay: float = 0.0
    """AdamW, on matrices."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 = none."""
    max_skipped: int = 3
    """Optimizer steps in a row, each skipped because a gradient was not finite, that end the run."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank over the frozen model instead of all its weights, and save only
    them; the networks then share what is frozen (docs/lora.md). 0 = train all weights."""
    lora_alpha: float = 32.0
    """Adapters are scaled by this / rank."""
    lora_targets: str = "all"
    """Layers with adapters: all, attention, mlp, or PEFT's names with commas, as in q_proj,v_proj."""
    lora_rslora: bool = False
    """Scale adapters by alpha / square root of the rank (arXiv:2312.03732)."""
    lora_base: Literal["float32", "int8"] = "float32"
    """int8 keeps the frozen layers in 8 bits a number."""
    max_length: int = 0
    """Longest prompt with reply in tokens; 0 = the model's context. Longer ones are left out."""
    seed: int = 0
    """Decides the order of the prompts."""
    save_every: int = 200
    """Steps between checkpoints; 0 = only at the end."""
    keep: int = 1
    """Latest checkpoints to keep; 0 = keep them all."""
    eval_every: int = 0
    """Steps between losses on the held-out rankings; 0 = at the end only."""
    micro_tokens: int = 8192
    """Tokens in one forward and backward pass, always whole prompts: bounds memory, changes no result."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the passes; weights and optimizer stay float32."""
    profile: bool = False
    """Say at the end where the time went, phase by phase, and write it to profile.md."""
    trace_steps: int = 0
    """Steps after the first to record in trace.json, for chrome://tracing or Perfetto; 0 = none."""

    def __post_init__(self) -> None:
        _ = self.rankings  # its rules hold for what the two share
        for name in ("beta1", "weight_decay", "grad_clip", "keep"):
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "give a number of at least 0")
        for name in ("beta", "max_skipped"):
            if not getattr(self, name) > 0:
                raise _wrong(name, getattr(self, name), "give a number above 0")

    @property
    def rankings(self) -> RewardConfig:
        """The same data as the reward model would read it.

        Raises:
            ConfigError: a value that `reward` refuses.
        """
        known = {field.name for field in fields(RewardConfig)}
        return RewardConfig(
            **{field.name: getattr(self, field.name) for field in fields(self) if field.name in known}
        )

    @property
    def ppo(self) -> PPOConfig:
        """What PPO's networks need to know: the model and its adapters, if any."""
        shared = ("model", "seed", "lora_rank", "lora_alpha", "lora_targets", "lora_rslora", "lora_base")
        return PPOConfig(**{name: getattr(self, name) for name in shared})


def _wrong(name: str, value: object, cure: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(f"{flag} is {value}", flag, cure)
