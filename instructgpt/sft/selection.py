"""Which checkpoint to keep: by the mean reward of sampled replies, else by validation loss ([P], App. C.1).

The paper found that validation loss is lowest after one epoch while the reward model's score, and people's
preference, go on rising.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from instructgpt.data.records import Prompt, read_prompts
from instructgpt.errors import ConfigError
from instructgpt.generation.reply import sample_replies
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.scoring.ask import check_prompts, score_records
from instructgpt.scoring.reward import Reward, load_reward
from instructgpt.sft.settings import SFTConfig
from instructgpt.text.chat import render_prompt, render_reply
from instructgpt.text.tokenizer import Tokenizer

Measured = dict[str, float]


@dataclass(frozen=True)
class Judge:
    """Answers the same prompts with the same random keys at every checkpoint, so that checkpoints compare."""

    prompts: Sequence[Prompt]
    reward: Reward | None
    tokenizer: Tokenizer
    max_new: int
    seed: int

    def measure(self, model: LanguageModel) -> Measured:
        """`eos_rate`: share of replies that end themselves (field fault 17); `reward`: their mean score,
        where a reward is given. Empty without prompts."""
        if not self.prompts:
            return {}
        with torch.no_grad():
            replies = [
                samples[0]
                for samples in sample_replies(
                    model, self.tokenizer, self.prompts, 1, self.max_new, 1.0, self.seed
                )
            ]
        found = {"eos_rate": sum(reply.stopped for reply in replies) / len(replies)}
        # A reply with broken characters may be longer when its text is encoded again; what then exceeds the
        # context can't be scored and is left out of the mean.
        answered = [
            (prompt, reply.text)
            for prompt, reply in zip(self.prompts, replies, strict=True)
            if len(render_reply(self.tokenizer, prompt.messages, reply.text).ids) <= model.config.context
        ]
        if self.reward is not None and answered:
            asked, texts = [prompt for prompt, _ in answered], [text for _, text in answered]
            scores = score_records(self.reward, asked, texts)
            found["reward"] = sum(scores) / len(scores)
        return found


def make_judge(
    config: SFTConfig, tokenizer: Tokenizer, context: int, held_out: Sequence[Prompt], device: torch.device
) -> Judge:
    """The judge that the flags describe; prompts without room for a reply in the context are left out.

    Raises:
        ConfigError: a reward is given but no prompt to answer.
        DataError, CheckpointError: the prompts or the reward can't be read.
    """
    prompts = read_prompts(config.selection_prompts) if config.selection_prompts else held_out
    room = context - config.max_new
    fitting = [prompt for prompt in prompts if len(render_prompt(tokenizer, prompt.messages)) <= room]
    chosen = fitting[: config.eval_prompts]
    if config.reward and not chosen:
        raise ConfigError(
            "the reward has no prompt to choose a checkpoint by"
            + (f": none leaves room for {config.max_new} new tokens" if prompts and not fitting else ""),
            "--reward",
            "give --selection-prompts or --validation, an --eval-prompts above 0 and a --max-new that fits",
        )
    named = config.reward
    if named and Path(named).is_dir():
        named = str(final_checkpoint(named))
    reward = load_reward(named, device) if named else None
    if reward is not None:
        check_prompts(reward, chosen, config.selection_prompts or "the held-out data")
    return Judge(chosen, reward, tokenizer, config.max_new, config.seed)


def rank(candidates: Mapping[str, Measured]) -> tuple[list[int], str]:
    """The checkpoints (step -> what was measured there) from best to worst, and by what they were ranked.

    By `reward` (highest first) where it was measured at all of them, else by `validation_loss` (lowest
    first), else the latest first; the earlier one where two are equal.
    """
    steps = sorted(map(int, candidates))
    for name, sign in (("reward", -1), ("validation_loss", 1)):
        if all(name in measured for measured in candidates.values()):
            return sorted(steps, key=lambda step: sign * candidates[str(step)][name]), name
    return steps[::-1], "last"
