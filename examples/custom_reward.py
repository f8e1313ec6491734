"""PPO with a reward function of your own: no reward model, no labels.

Run it with `python examples/custom_reward.py`. A random model of two layers is rewarded for plain letters;
after some rounds of PPO its replies hold more of them. The same on the command line, from this folder:

    instructgpt ppo --reward custom_reward:plain_letters --ptx-coef 0 --model ... --prompts ... --out ...
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tiny_model import make_tiny_model

from instructgpt.data.records import Prompt, to_row, write_jsonl
from instructgpt.rlhf.train import PPOConfig, train


def plain_letters(prompts: list[list[dict[str, str]]], replies: list[str]) -> list[float]:
    """Share of plain letters and spaces in each reply; 0 for an empty one.

    Args:
        prompts: for each reply its conversation, as messages with `role` and `content`; not needed here.
        replies: the replies as text, without the token that ended them.
    """
    return [
        sum(c == " " or (c.isascii() and c.isalpha()) for c in reply) / max(1, len(reply))
        for reply in replies
    ]


def main(folder: Path) -> dict[str, Any]:
    """Train for twelve rounds in `folder` and return the summary."""
    model = make_tiny_model(folder / "model")
    prompts = [Prompt.of(f"please name {count} rivers") for count in range(1, 9)]
    write_jsonl(folder / "prompts.jsonl", [to_row(prompt) for prompt in prompts])
    return train(
        PPOConfig(
            model=str(model),
            reward="custom_reward:plain_letters",  # module:function, looked for in the current folder too
            prompts=str(folder / "prompts.jsonl"),
            out=str(folder / "ppo"),
            iterations=12,
            batch=64,
            minibatches=4,
            max_new=8,
            beta=0.01,  # a random model has nothing worth staying near to
            lr=3e-3,
            value_lr=3e-3,
            warmup=0,
            ptx_coef=0.0,  # no pretraining text here
            save_every=0,
            device="cpu",
        )
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        summary = main(Path(place))
    before, after = summary["first"], summary["last"]
    print(f"share of plain letters: {before['reward']:.2f} -> {after['reward']:.2f}")
    print(f"KL to the model it started from: {after['kl']:.2f} nats per reply")
