"""What PPO needs before its first round: models, prompts in their order, pretraining text, checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import Prompt, read_prompts, read_texts
from instructgpt.data.shards import TokenShards, write_shards
from instructgpt.errors import CheckpointError, ConfigError, DataError
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf import save_model
from instructgpt.model.lora import copy_trained
from instructgpt.rlhf.networks import Networks
from instructgpt.rlhf.settings import OldLogprobs, PPOConfig
from instructgpt.rlhf.update import Learner
from instructgpt.runtime.checkpoint import Run, final_checkpoint
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.memory import MemoryEstimate, estimate_memory
from instructgpt.runtime.optim import Ema, adamw, optimizer_tensors, restore_optimizer
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.ask import check_prompts, leaves
from instructgpt.scoring.reward import (
    Ensemble,
    Reward,
    RewardModel,
    resolve_reward,
    reward_models,
)
from instructgpt.scoring.spec import kind_of
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptSet:
    """Prompts with their rendered ids, in file order; `dropped` of them were longer than --max-prompt."""

    prompts: tuple[Prompt, ...]
    ids: tuple[tuple[int, ...], ...]
    dropped: int = 0

    def take(self, indices: Sequence[int]) -> tuple[list[Prompt], list[tuple[int, ...]]]:
        """The prompts and their ids at `indices`."""
        return [self.prompts[i] for i in indices], [self.ids[i] for i in indices]


@dataclass(frozen=True)
class Parts:
    """Everything that a run works with. `value_init` says what the value network was made from."""

    tokenizer: Tokenizer
    learner: Learner
    reference: LanguageModel
    reward: Reward
    value_init: str
    prompts: PromptSet
    eval_prompts: PromptSet | None
    pretraining: Callable[[int], list[list[int]]] | None
    kl_coefficient: float
    first: dict[str, float]
    """Metrics of the first and of the latest round, for the summary; empty at a fresh start."""
    last: dict[str, float]
    judge: Reward | None = None
    """Scores held-out replies and is never trained on."""
    alarms: dict[str, Any] | None = None
    """State of the alarms at the latest checkpoint."""
    stopped: str = ""
    """Why the run had ended when the latest checkpoint was written, if it had."""
    old_logprobs: OldLogprobs | None = None
    """Whose log-probs the run takes, if that has been decided already."""


def prompt_indices(prompts: int, batch: int, iteration: int, seed: int) -> list[int]:
    """Which prompts a round takes: the next `batch` of endless shuffles, one shuffle a pass over all prompts.

    Keyed by (seed, pass) only, so a resumed run needs no cursor beyond its round.
    """
    orders: dict[int, list[int]] = {}
    indices = []
    for place in range(iteration * batch, (iteration + 1) * batch):
        epoch, rank = divmod(place, prompts)
        if epoch not in orders:
            orders[epoch] = list(range(prompts))
            random.Random(derive_seed(seed, "prompt order", epoch)).shuffle(orders[epoch])
        indices.append(orders[epoch][rank])
    return indices


def resolve(config: PPOConfig) -> dict[str, str | Path]:
    """The run's inputs by name, finished stages resolved to their final checkpoint.

    Raises:
        ConfigError: a needed flag is missing.
        CheckpointError: there is no model where one is named.
    """
    wanted = {
        "model": "an SFT checkpoint",
        "reward": "a reward model, module:function, a URL or verify:NAME",
        "prompts": "a JSONL file",
    }
    for name, what in wanted.items():
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing", f"--{name}", f"give {what}")
    if config.ptx_coef > 0 and not config.pretrain:
        raise ConfigError(
            "PPO-ptx needs pretraining text",
            "--pretrain",
            "name the text the base model was trained on, or use --ptx-coef 0 for PPO without ptx",
        )
    if config.eval_every > 0 and not config.eval_prompts:
        raise ConfigError("--eval-every needs prompts", "--eval-prompts", "name held-out prompts")
    scorers = {"reward": config.reward, "judge": config.judge}
    # The checkpoints within a sum; a spec alone is hashed as what it names.
    within = {
        f"{name}_models": ",".join(map(str, reward_models(spec)))
        for name, spec in scorers.items()
        if spec and kind_of(spec) == "sum"
    }
    return {
        "model": final_checkpoint(config.model),
        **{name: resolve_reward(spec) for name, spec in scorers.items()},
        **within,
        "prompts": _files(config.prompts, JSONL_ENDINGS),
        "pretrain": _files(config.pretrain, (*JSONL_ENDINGS, *TEXT_ENDINGS)),
        "eval_prompts": _files(config.eval_prompts, JSONL_ENDINGS),
    }


def _files(path: str, endings: tuple[str, ...]) -> str:
    """What a flag of data depends on: the files that it means, or a folder of token shards."""
    if not path or (Path(path) / "index.json").exists():
        return path
    return ",".join(map(str, expand(path, endings)))


def prepare(config: PPOConfig, inputs: dict[str, str | Path], run: Run) -> Parts:
    """Load everything, from the latest checkpoint of `run` where there is one.

    Raises:
        ConfigError, CheckpointError, DataError: an input that is missing, foreign or does not fit the others.
    """
    device = pick_device(config.device)
    folder = Path(inputs["model"])
    tokenizer = Tokenizer.load(tokenizer_folder(folder))
    networks = Networks(config, folder, run.latest, device)
    reference = networks.reference()
    prompts = load_prompts(config.prompts, tokenizer, reference.config.context, config)
    reward = networks.reward(str(inputs["reward"]))
    for leaf in leaves(reward):
        if isinstance(leaf, RewardModel | Ensemble) and leaf.tokenizer.fingerprint != tokenizer.fingerprint:
            raise CheckpointError(
                "the reward model reads other tokens than the policy writes",
                str(inputs["reward"]),
                "train the reward model from a model with the policy's tokenizer",
            )
    judge = networks.reward(str(inputs["judge"])) if config.judge else None
    check_prompts(reward, prompts.prompts, config.prompts)
    value_init = _value_init(config, reward)
    policy = networks.policy()
    value = networks.value(value_init, str(inputs["reward"]), policy)
    learner = make_learner(policy, value, config)
    state, tensors = run.load_state()
    if run.latest is not None:
        _restore(learner, tensors, networks)
        learner.skipped_in_a_row = int(state.get("skipped_in_a_row", 0))
    evaluation = None
    if config.eval_every > 0:
        evaluation = load_prompts(config.eval_prompts, tokenizer, reference.config.context, config)
        for scorer in (reward, *([judge] if judge is not None else [])):
            check_prompts(scorer, evaluation.prompts, config.eval_prompts)
    return Parts(
        tokenizer=tokenizer,
        learner=learner,
        reference=reference,
        reward=reward,
        value_init=value_init,
        prompts=prompts,
        eval_prompts=evaluation,
        pretraining=_pretraining(
            config,
            tokenizer,
            reference.config.context,
            run.folder / "pretrain_tokens",
            resumed=run.latest is not None,
        ),
        kl_coefficient=float(state.get("kl_coefficient", config.beta)),
        first=dict(state.get("first", {})),
        last=dict(state.get("last", {})),
        judge=judge,
        alarms=state.get("alarms"),
        stopped=str(state.get("stopped", "")),
        old_logprobs=state.get("old_logprobs"),
    )


def memory_of(parts: Parts, config: PPOConfig) -> MemoryEstimate:
    """What the four networks and their training take; what they share counts once."""
    learner = parts.learner
    frozen: list[nn.Module] = [parts.reference]
    for scorer in (parts.reward, parts.judge):
        for leaf in leaves(scorer) if scorer is not None else ():
            members = leaf.members if isinstance(leaf, Ensemble) else (leaf,)
            frozen += [member.model for member in members if isinstance(member, RewardModel)]
    averaged = learner.policy if learner.ema is not None else None
    networks = (learner.policy, learner.value)
    return estimate_memory(networks, frozen, tokens=config.max_tokens, averaged=averaged)


def save(run: Run, finished: int, parts: Parts, config: PPOConfig, state: dict[str, Any]) -> None:
    """Write the checkpoint of `finished` rounds: the policy, with folders `ema/` and `value/`."""
    learner = parts.learner
    special = special_ids(parts.tokenizer)
    # transformers finds the last token of a batch's row by its padding and refuses a scorer that has none.
    pad = parts.tokenizer.eos_id if parts.tokenizer.pad_id is None else parts.tokenizer.pad_id

    def write(folder: Path) -> None:
        save_model(learner.policy, folder, special=special)
        save_model(learner.value, folder / "value", special=special | {"pad_token_id": pad})
        written = [folder, folder / "value"]
        if learner.ema is not None:
            average = copy_trained(learner.policy)
            learner.ema.copy_to(average)
            save_model(average, folder / "ema", special=special)
            written.append(folder / "ema")
        for place in written:
            parts.tokenizer.save(place)

    tensors = optimizer_tensors(learner.policy_optimizer, learner.policy, "policy.")
    tensors |= optimizer_tensors(learner.value_optimizer, learner.value, "value.")
    state = {"skipped_in_a_row": learner.skipped_in_a_row, **state}
    run.save(finished, write, tensors, state, keep=config.keep or None)


def special_ids(tokenizer: Tokenizer) -> dict[str, int | list[int] | None]:
    """Ids for a policy's folder: generation ends with a document's end as well as with a reply's."""
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.eos_id, *others] if others else tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def load_prompts(path: str, tokenizer: Tokenizer, context: int, config: PPOConfig) -> PromptSet:
    """Read and render prompts; those above `max_prompt` tokens are left out ([P] drops prompts above 1k).

    Raises:
        DataError: a prompt leaves no room for `max_new` tokens in the model's context, or none is left.
    """
    kept: list[Prompt] = []
    rendered: list[tuple[int, ...]] = []
    dropped = 0
    for prompt in read_prompts(path):
        ids = tuple(render_prompt(tokenizer, prompt.messages))
        if 0 < config.max_prompt < len(ids):
            dropped += 1
            continue
        room = context - config.max_new
        if len(ids) > room:
            raise DataError(
                f"prompt {prompt.id} has {len(ids)} tokens, and {config.max_new} for the reply do not fit a "
                f"context of {context}",
                path,
                f"use a smaller --max-new, or leave such prompts out with --max-prompt {max(room, 1)}",
            )
        kept.append(prompt)
        rendered.append(ids)
    if not kept:
        raise DataError("no prompt is left", path, "raise --max-prompt or give shorter prompts")
    return PromptSet(tuple(kept), tuple(rendered), dropped)


def _value_init(config: PPOConfig, reward: Reward) -> str:
    is_model = isinstance(reward, RewardModel | Ensemble)
    if config.value_init == "reward" and not is_model:
        raise ConfigError(
            "only a reward model, or an ensemble, has weights to start the value network from",
            "--value-init",
            "use --value-init policy, or auto",
        )
    return config.value_init if config.value_init != "auto" else "reward" if is_model else "policy"


def make_learner(policy: LanguageModel, value: ScalarModel, config: PPOConfig) -> Learner:
    """Policy and value network with their optimizers, and the average."""
    betas = (config.beta1, config.beta2)
    return Learner(
        policy=policy,
        value=value,
        policy_optimizer=adamw(policy, config.lr, betas, config.eps, config.weight_decay),
        value_optimizer=adamw(value, config.value_lr, betas, config.eps, config.weight_decay),
        ema=Ema(policy, config.ema) if config.ema > 0 else None,
    )


def _restore(learner: Learner, tensors: dict[str, Tensor], networks: Networks) -> None:
    restore_optimizer(learner.policy_optimizer, learner.policy, tensors, "policy.")
    restore_optimizer(learner.value_optimizer, learner.value, tensors, "value.")
    if learner.ema is not None:
        average = dict(networks.average().named_parameters())
        with torch.no_grad():
            for name, value in learner.ema.values.items():
                value.copy_(average[name])


def _pretraining(
    config: PPOConfig, tokenizer: Tokenizer, context: int, tokens: Path, resumed: bool
) -> Callable[[int], list[list[int]]] | None:
    """Optimizer step -> its pretraining examples, cut where documents meet; None without a ptx term.

    Texts are encoded once, into folder `tokens`.
    """
    if config.ptx_coef == 0:
        return None
    if config.ptx_length > context:
        raise ConfigError(
            f"pretraining examples of {config.ptx_length} tokens do not fit a context of {context}",
            "--ptx-length",
            f"use at most {context}",
        )
    if (Path(config.pretrain) / "index.json").exists():
        shards = TokenShards.open(config.pretrain, tokenizer)
    elif resumed and (tokens / "index.json").exists():
        shards = TokenShards.open(tokens, tokenizer)
    else:
        shards = write_shards(read_texts(config.pretrain), tokenizer, tokens)
    seed = derive_seed(config.seed, "ptx")
    return lambda step: shards.batch(step, config.ptx_examples, config.ptx_length, seed)
