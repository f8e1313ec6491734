"""Every knob of PPO-ptx with its source.

[P] is arXiv:2203.02155 (section 3.5, App. C.4), [L] openai/lm-human-preferences (2019 code), [N]
vwxyzjn/summarize_from_feedback_details (code) and arXiv:2403.17031; "ours" is said where it is neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from instructgpt.errors import ConfigError
from instructgpt.model.lora_settings import lora_of

_PURE = (
    "RL must sample from the policy itself: a truncated or forced sampler draws from another distribution "
    "than the one whose log-probs are trained, and the KL turns negative"
)
_NO_DROPOUT = "with dropout the policy's ratio is not 1 before the first update, so RL trains without it"
_REFUSED = dict.fromkeys(
    (
        "top_k", "top_p", "min_p", "typical_p", "min_new", "min_length", "min_new_tokens", "suppress_eos",
        "suppress_tokens", "repetition_penalty", "no_repeat_ngram_size", "bad_words", "logit_bias",
        "num_beams",
    ),
    _PURE,
) | dict.fromkeys(("dropout", "residual_dropout", "attention_dropout"), _NO_DROPOUT)  # fmt: skip

OldLogprobs = Literal["auto", "update", "rollout"]


@dataclass(frozen=True)
class PPOConfig:
    """PPO-ptx with the values of InstructGPT, and those of [L] and [N] where the paper is silent."""

    refused: ClassVar[dict[str, str]] = _REFUSED
    """Settings that other programs have and this one must not (field faults 10 and 12), with the reason."""

    out: str = ""
    """Run folder to write, or to resume."""
    model: str = ""
    """SFT checkpoint: the policy starts from it and the KL is measured against it, frozen."""
    reward: str = ""
    """What scores replies: a reward-model checkpoint, several with commas between (their mean counts),
    module:function, a URL, verify:NAME, or a weighted sum such as 0.7*runs/rm + 0.3*verify:exact."""
    prompts: str = ""
    """Prompts to practise on: JSONL file, glob, or several separated by commas."""
    pretrain: str = ""
    """Pretraining text for the ptx term: a folder of token shards, or texts as JSONL or .txt."""
    eval_prompts: str = ""
    """Held-out prompts for --eval-every; not trained on."""
    judge: str = ""
    """A second opinion on the replies to --eval-prompts, never trained on: given like --reward, logged as
    eval_judge; an alarm rings when it falls while the reward rises."""

    iterations: int = 500
    """Rollout-and-update rounds. [P]: 256k episodes / 512."""
    batch: int = 512
    """Episodes (prompts with one reply each) a round. [P]"""
    minibatches: int = 8
    """Optimizer steps that one pass over a round's episodes is cut into. [P]: 512 / 64."""
    epochs: int = 1
    """Passes over a round's episodes. [P]: one inner epoch ([L] and [N]: 4, with one minibatch)."""
    max_new: int = 256
    """Longest reply, in tokens. Ours; [P] allows 1,000."""
    max_prompt: int = 0
    """Prompts longer than this many tokens are left out ([P]: 1,000); 0 = one without room is an error."""
    temperature: float = 1.0
    """Sampling temperature; log-probs and KL are of the same tempered distribution. [P]: 1."""

    beta: float = 0.02
    """Price of one nat of KL to the SFT model, in reward units. [P]: 0.02."""
    kl_target: float = 0.0
    """Adapt beta towards this KL in nats per reply; 0 = beta stays fixed. [P] fixed; [L] sentiment: 6."""
    kl_horizon: float = 10_000.0
    """Episodes over which the adaptive beta moves by its relative error. [L]"""
    max_kl: float = 0.0
    """Stop before the update of a round whose mean KL (nats per reply) is above this; 0 = never. The policy
    that was measured is kept, the first above the limit; --save-every 1 --keep 2 keeps the one before it,
    the last below, beside it. Ours."""
    missing_eos_penalty: float | None = None
    """Score that replaces the reward of a reply that did not end itself. [L], [N]: -1; None = no rule [P]."""
    whiten_rewards: bool = False
    """Scale per-token rewards, KL part and score alike, to variance 1 over the round before GAE, keeping
    their mean: values and returns change unit with them. [L]; [N]: shortens replies."""
    gamma: float = 1.0
    """Discount. [P]: none."""
    lam: float = 0.95
    """GAE lambda. [L], [N]; not in [P]."""
    whiten_advantages: bool = True
    """Shift and scale the advantages of the whole round to mean 0 and variance 1; returns, and so what the
    value network learns, stay as they are. [L], [N]; not in [P]."""

    clip: float = 0.2
    """Policy ratio is clipped to 1 +- this. [P]"""
    value_clip: float = 0.2
    """New values stay within this of the old ones in the loss, in reward units. [L], [N]; not in [P]."""
    value_coef: float = 0.1
    """Factor on the value loss. [L], [N]; value and policy being two networks, Adam all but cancels it."""
    ptx_coef: float = 27.8
    """gamma of Eq. 2: factor on the mean pretraining loss; 0 = plain PPO. [P]: 27.8."""
    ptx_ratio: float = 8.0
    """Pretraining examples for each episode. [P]: 8 (swept 4, 8, 32)."""
    ptx_length: int = 128
    """Tokens of one pretraining example. Ours; [P] does not say."""

    lr: float = 8e-6
    """Peak learning rate of the policy. [P] gives only its sweep, 2.55e-6 to 2.55e-5; without ptx, above
    8.05e-6 diverged."""
    value_lr: float = 9e-6
    """Learning rate of the value network. [P]: 9e-6 (1.3B and 6B)."""
    warmup: int = 10
    """Rounds of linear warm-up from a tenth of the peak. [P]: 10; [L], [N]: none."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up the rates stay constant ([P]); linear = times 1 - round / rounds, to 0 ([L], [N])."""
    value_warmup: int = 0
    """Rounds at the start in which only the value network learns; the policy's warm-up follows. Ours."""
    beta1: float = 0.9
    """Adam. [P]"""
    beta2: float = 0.95
    """Adam. [P]"""
    eps: float = 1e-5
    """Adam. [L], [N]; not in [P]."""
    weight_decay: float = 0.0
    """AdamW, on matrices. [L]: none; [N] leaves PyTorch's 0.01; not in [P]."""
    grad_clip: float = 1.0
    """Largest gradient norm, policy and value apart; 0 = none. Ours; not in [P]."""
    max_skipped: int = 3
    """Optimizer steps in a row, each skipped because a gradient was not finite, that end the run. Ours."""
    ema: float = 0.992
    """Decay per optimizer step of the policy's moving average (saved as ema/); 0 = keep none. [P]: 0.992; the
    paper does not say per which step."""
    value_init: Literal["auto", "reward", "policy"] = "auto"
    """Where the value network starts: from the reward model ([P]), or from the SFT body with a head of zeros;
    auto = reward where it is a checkpoint."""
    old_logprobs: OldLogprobs = "auto"
    """Who computes log-probs before the update: the update's own forward pass, or the sampler, which saves
    one pass and is refused at the start unless both agree to 1e-4 in float32. auto = in the first round both,
    and from then on the sampler where they agreed so. Ours."""

    lora_rank: int = 0
    """Train low-rank adapters of this rank over the frozen model instead of all its weights, and save only
    them; the four networks then share what is frozen (docs/lora.md). 0 = train all weights. Ours."""
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
    on_alarm: Literal["warn", "stop"] = "warn"
    """What an alarm of the live checks does: warn says so and goes on, stop saves and ends the run."""
    eval_every: int = 0
    """Rounds between measurements on --eval-prompts; 0 = never."""
    max_tokens: int = 4096
    """Tokens in one forward and backward pass: bounds memory, changes no result."""
    max_active: int = 256
    """Replies sampled at the same time: bounds memory, changes no reply."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of all passes; weights that learn and the optimizer stay float32. auto = what is faster here,
    measured at the first start and kept in choices.json; always float32 for models narrower than 256."""
    profile: bool = False
    """Say at the end where the time went, phase by phase, and write it to profile.md."""
    trace_steps: int = 0
    """Steps after the first to record in trace.json, for chrome://tracing or Perfetto; 0 = none."""

    def __post_init__(self) -> None:
        lora_of(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and math.isnan(value):  # it would pass the comparisons below
                raise _invalid(field.name, value, "a number")
        counts = ("iterations", "batch", "minibatches", "epochs", "max_new", "max_tokens", "max_active")
        for name in (*counts, "max_skipped"):
            if getattr(self, name) < 1:
                raise _invalid(name, getattr(self, name), "a whole number of at least 1")
        positive = ("lr", "value_lr", "kl_horizon", "temperature")
        for name in positive:
            # A rate of 0 is allowed: it is the self-check of the recipe, and trains nothing.
            if getattr(self, name) < 0 or (getattr(self, name) == 0 and not name.endswith("lr")):
                raise _invalid(name, getattr(self, name), "a number above 0")
        for name in (
            "beta",
            "kl_target",
            "max_kl",
            "ptx_coef",
            "value_coef",
            "grad_clip",
            "weight_decay",
            "eps",
            "max_prompt",
            "warmup",
            "save_every",
            "keep",
            "eval_every",
            "value_warmup",
        ):
            if getattr(self, name) < 0:
                raise _invalid(name, getattr(self, name), "a number of at least 0")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise _invalid(name, getattr(self, name), "a number from 0 to 1")
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise _invalid(name, getattr(self, name), "a number from 0 up to, not including, 1")
        for name in ("clip", "value_clip"):
            if getattr(self, name) <= 0:
                raise _invalid(name, getattr(self, name), "a number above 0")
        if self.judge and not self.eval_every:
            raise ConfigError("a judge is asked at --eval-every only", "--judge", "give --eval-every 10")
        if self.ptx_coef > 0 and (self.ptx_ratio <= 0 or self.ptx_length < 2):
            raise _invalid("ptx_ratio", self.ptx_ratio, "above 0, with a ptx_length of at least 2")
        if self.batch % self.minibatches:
            n, m = self.batch, self.minibatches
            raise ConfigError(
                f"a batch of {n} episodes can't be cut into {m} equal minibatches",
                "--batch",
                f"use {n // m * m or m} or {(n // m + 1) * m}",
            )

    @property
    def ptx_examples(self) -> int:
        """Pretraining examples for each minibatch (at least 1)."""
        return max(1, round(self.ptx_ratio * self.batch / self.minibatches))


def _invalid(name: str, value: object, wanted: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(f"{flag} is {value}", flag, f"give {wanted}")
