"""`python -m benchmarks.ppo`: episodes a second of PPO, by TRL's PPOTrainer and ours in turn.

A round is a batch of prompts of 32 tokens with replies of up to 48: rollout, scores of policy, reference,
value network and reward model, and four optimizer steps over all of it. No pretraining mix and no average,
which TRL has not. TRL is 1.12.0, the last that has PPO, in float32 (its bfloat16 was no faster). Ours are the
steps of the verb `ppo`: `rlhf.round`'s sample, judge and learn, on networks that `rlhf.networks` opened.

`S`, `M`: all replies have 48 tokens. `M-early`: the model ends its replies by itself, after 24 tokens on
average; TRL samples 48 all the same and cuts. `M` also compares peak memory, with LoRA too.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.inputs import EOS, SIZES, model_folder, tokens
from benchmarks.sft import PRODUCT
from benchmarks.turn import Turn
from benchmarks.turns import Contender, Floor, Race, main

EPISODES = {"S": 64, "M": 32}
PROMPT, REPLY = 32, 48
MINIBATCHES = 4
ROUNDS = 4
"""The first is warming up."""
BETA, RATE = 0.05, 1e-5
END = 0.033
"""Share of tokens that end a reply of `M-early`: of a geometric length cut at 48 the mean is then 24."""


def folder_of(size: str, early: bool) -> Path:
    """The policy's folder."""
    plain = model_folder(size)
    return plain.with_name(f"{plain.name}-early") if early else plain


def scorer_folder(size: str) -> Path:
    """The reward model's folder, from which the value network starts too."""
    plain = model_folder(size)
    return plain.with_name(f"{plain.name}-reward")


def prepare(size: str, early: bool) -> None:
    """Make the reward model and, for `early`, the policy that ends its replies."""
    import torch

    from instructgpt.model.heads import scalar_from_language
    from instructgpt.model.hf import load_language_model, save_model
    from instructgpt.reward_model.train import write_checkpoint
    from instructgpt.text.tokenizer import Tokenizer

    plain = model_folder(size)
    tokenizer = Tokenizer.load(plain)
    if not (scorer_folder(size) / "selftest.json").exists():
        scorer = scalar_from_language(load_language_model(plain), seed=1)
        scorer_folder(size).mkdir(exist_ok=True)
        write_checkpoint(scorer, tokenizer, scorer_folder(size))
    folder = folder_of(size, early)
    if (folder / "tokenizer.json").exists():
        return
    model = load_language_model(plain)
    width, vocabulary = SIZES[size].width, SIZES[size].vocab
    direction = torch.zeros(width)
    direction[: width // 2], direction[width // 2 :] = 1 / math.sqrt(width), -1 / math.sqrt(width)
    # The last norm adds 16 x direction, of which only the ending id's row sees a part of its own. The other
    # logits are nearly normal with variance 1 + 16^2 / width: at M their exponentials sum to about V e^(2/3).
    # The rest is for the ending id's own logit, which spreads by half a nat and so lengthens replies.
    logit = math.log(END / (1 - END) * vocabulary) + 2 / 3 + 0.1
    with torch.no_grad():
        model.get_parameter("transformer.final_norm.bias").copy_(16 * direction)
        model.unembedding[EOS] = logit / 16 * direction
    folder.mkdir(exist_ok=True)
    save_model(model, folder, special={"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": 0})
    tokenizer.save(folder)


def prompts(size: str, rounds: int = ROUNDS) -> list[list[int]]:
    """Ids of every prompt of a turn."""
    return [tokens(size, PROMPT, 1000 + number) for number in range(EPISODES[size] * rounds)]


def trl(size: str, early: bool = False) -> Turn:
    """TRL's PPOTrainer, four optimizer steps a batch.

    `per_device_train_batch_size` is the whole batch: with gradient accumulation it would take one step.
    """
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    episodes, folder = EPISODES[size], folder_of(size, early)
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(scorer_folder(size), dtype=torch.float32)
        for _ in range(2)
    )
    rows = Dataset.from_list([{"input_ids": ids} for ids in prompts(size)])
    seconds: list[float] = []

    class Watch(TrainerCallback):
        """Notes the seconds of each round."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.last = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            seconds.append(now - self.last)
            self.last = now

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        config = PPOConfig(
            output_dir=out,
            per_device_train_batch_size=episodes,
            gradient_accumulation_steps=1,
            num_mini_batches=MINIBATCHES,
            num_ppo_epochs=1,
            total_episodes=episodes * ROUNDS,
            response_length=REPLY,
            local_rollout_forward_batch_size=64,
            num_sample_generations=0,
            learning_rate=RATE,
            kl_coef=BETA,
            temperature=1.0,
            stop_token="eos" if early else None,
            missing_eos_penalty=None,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=rows,
            eval_dataset=rows.select(range(2)),
            callbacks=[Watch()],
        )
        trainer.train()
    rates = [episodes / spent for spent in seconds[1:]]
    return Turn(
        rates, unit_flops=flops(size, REPLY), facts={"dtype": "float32", "seconds": _rounded(seconds)}
    )


def ours(size: str, early: bool = False, dtype: str = "auto", rank: int = 0) -> Turn:
    """The rounds of `instructgpt ppo`, without its saving and its self-check at the start."""
    from instructgpt.rlhf.precision import settle_old_logprobs, settle_precision
    from instructgpt.rlhf.round import judge, learn, sample
    from instructgpt.rlhf.settings import PPOConfig
    from instructgpt.runtime.checkpoint import open_run
    from instructgpt.runtime.device import tune_malloc

    tune_malloc()
    config = PPOConfig(
        model=str(folder_of(size, early)),
        reward=str(scorer_folder(size)),
        batch=EPISODES[size],
        minibatches=MINIBATCHES,
        epochs=1,
        max_new=REPLY,
        beta=BETA,
        lr=RATE,
        value_lr=RATE,
        warmup=0,
        ptx_coef=0.0,
        ema=0.0,
        iterations=ROUNDS,
        lora_rank=rank,
        device="cpu",
        dtype=dtype,  # type: ignore[arg-type]
    )
    rates, lengths = [], []
    seconds: dict[str, list[float]] = {"rollout": [], "scoring": [], "update": []}
    with tempfile.TemporaryDirectory() as out, open_run(out, "ppo", config, {}) as run:
        parts = _parts(config, early)
        config = settle_precision(run, parts, config)
        for iteration in range(ROUNDS):
            began = time.perf_counter()
            episodes = sample(parts, parts.prompts, config, iteration)
            sampled = time.perf_counter()
            judged = judge(parts, episodes, config, config.beta)
            config = settle_old_logprobs(judged.rollout, config)
            scored = time.perf_counter()
            stats = learn(parts, judged, config, iteration)
            done = time.perf_counter()
            lengths.append(episodes.response_length.double().mean().item())
            if iteration:
                rates.append(config.batch / (done - began))
                for name, spent in zip(
                    seconds, (sampled - began, scored - sampled, done - scored), strict=True
                ):
                    seconds[name].append(spent)
    facts = {
        "dtype": config.dtype,
        "old_logprobs": config.old_logprobs,
        "reply_tokens": round(mean(lengths), 2),
        "seconds": {name: _rounded(spent) for name, spent in seconds.items()},
        "value_loss": round(stats["value_loss"], 5),
        "approx_kl": stats["approx_kl"],
    }
    return Turn(rates, unit_flops=flops(size, mean(lengths)), facts=facts)


def _parts(config: Any, early: bool) -> Any:
    """What `rlhf.prepare` makes of files, with prompts of ids instead of texts."""
    import torch

    from instructgpt.data.records import Prompt
    from instructgpt.rlhf.networks import Networks
    from instructgpt.rlhf.prepare import Parts, PromptSet, make_learner
    from instructgpt.text.tokenizer import Tokenizer

    size = "S" if config.batch == EPISODES["S"] else "M"
    tokenizer = Tokenizer.load(config.model)
    if not early:
        tokenizer.stop_ids = frozenset()  # nothing ends a reply
    networks = Networks(config, Path(config.model), None, torch.device("cpu"))
    reference, reward, policy = networks.reference(), networks.reward(config.reward), networks.policy()
    value = networks.value("reward", config.reward, policy)
    ids = prompts(size)
    return Parts(
        tokenizer=tokenizer,
        learner=make_learner(policy, value, config),
        reference=reference,
        reward=reward,
        value_init="reward",
        prompts=PromptSet(
            tuple(Prompt.of(f"prompt {number}") for number in range(len(ids))), tuple(map(tuple, ids))
        ),
        eval_prompts=None,
        pretraining=None,
        kl_coefficient=config.beta,
        first={},
        last={},
    )


def flops(size: str, reply: float) -> float:
    """Of one episode by the usual formula: the sampler's pass and those of policy, reference, value network
    and reward model at 2 N a token, policy and value network learning at 6 N; heads for replies only."""
    body, head = SIZES[size].body, SIZES[size].products - SIZES[size].body
    passes = 2 + 1 + 1 + 1 + 3 + 3  # sampling, old; reference; value; reward; learning twice
    return 2.0 * (passes * body * (PROMPT + reply) + (2 + 1 + 3) * head * reply)


def _rounded(seconds: list[float]) -> list[float]:
    return [round(spent, 2) for spent in seconds]


def race(size: str, early: bool = False) -> Race:
    """One size, replies of fixed length or ending early."""
    ends = (
        f"replies that end early, {REPLY // 2} tokens on average" if early else f"replies of {REPLY} tokens"
    )
    title = f"PPO, model {size}, {EPISODES[size]} episodes a round, prompts of {PROMPT} tokens, {ends}"
    contenders = [
        Contender("TRL", partial(trl, size, early), peer="trl-ppo"),
        Contender("ours", partial(ours, size, early), environment=PRODUCT),
    ]
    floors = [Floor("ours", 4.0 if early else 2.2, against="TRL")]
    if not early:
        plain = partial(ours, size, early, "float32")
        contenders.append(Contender("ours, float32", plain, environment=PRODUCT))
    if size == "M" and not early:
        lora = partial(ours, size, early, rank=16)
        contenders.append(Contender("ours, LoRA", lora, environment=PRODUCT))
        floors += [Floor("ours", 0.75, against="TRL", of="memory")]
        floors += [Floor("ours, LoRA", 0.45, against="TRL", of="memory")]
    case = f"{size}-early" if early else size
    return Race(
        case, title, "episodes/s", contenders, floors, sizes=[size], prepare=partial(prepare, size, early)
    )


if __name__ == "__main__":
    raise SystemExit(main("ppo", "PPO, measured", [race("S"), race("M"), race("M", early=True)]))
