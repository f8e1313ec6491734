"""`python -m benchmarks.reward`: pairs a second of reward-model training, TRL and ours in turn.

A pair is a prompt of 60 tokens on average (log-normal) with two replies of 60. TRL is its RewardTrainer with
its own defaults (bfloat16 autocast, gradient checkpointing); ours is the step of the verb `reward`, on the
very same model, ids and number of pairs in a step.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.inputs import SIZES, documents, model_folder
from benchmarks.sft import PRODUCT
from benchmarks.turn import Turn, repeat
from benchmarks.turns import Contender, Floor, Race, main

PAIRS = {"S": 64, "M": 16}
BATCH = 8
RATE = 1e-5
LONGEST = 256
"""Tokens of a prompt, and of a reply, so that both fit the context of 512."""
EPOCHS = 4


def pairs(size: str) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, better reply, worse reply)."""
    parts = [documents(size, PAIRS[size], seed, mean=60) for seed in (1, 2, 3)]
    return [(p[:LONGEST], a[:LONGEST], b[:LONGEST]) for p, a, b in zip(*parts, strict=True)]


def flops(size: str) -> float:
    """Of one pair by the usual formula, 6 N a token, with both sides whole: the same for who shares."""
    tokens = sum(2 * len(prompt) + len(better) + len(worse) for prompt, better, worse in pairs(size))
    return 6.0 * SIZES[size].body * tokens / PAIRS[size]


def trl(size: str, epochs: int = EPOCHS) -> Turn:
    """TRL's RewardTrainer as a user runs it; the first epoch is warming up."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    folder = model_folder(size)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    rows = [{"chosen_ids": p + a, "rejected_ids": p + b} for p, a, b in pairs(size)]
    seconds: list[float] = []
    losses: list[float] = []

    class Watch(TrainerCallback):
        """Notes the seconds of each epoch and its loss."""

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            losses.extend([logs["loss"]] if logs and "loss" in logs else [])

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        config = RewardConfig(
            output_dir=out,
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=RATE,
            max_length=512,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="epoch",
            disable_tqdm=True,
        )
        RewardTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Watch()],
        ).train()
    rates = [PAIRS[size] / spent for spent in seconds[1:]]
    return Turn(rates, unit_flops=flops(size), facts={"losses": [round(loss, 4) for loss in losses]})


def ours(size: str, dtype: str = "auto") -> Turn:
    """The steps of `instructgpt reward`."""
    from instructgpt.model.heads import scalar_from_language
    from instructgpt.model.hf import load_language_model
    from instructgpt.reward_model.comparisons import Comparison, Stream
    from instructgpt.reward_model.train import RewardConfig, take_step
    from instructgpt.runtime.device import tune_malloc
    from instructgpt.runtime.optim import adamw
    from instructgpt.runtime.precision import settle

    tune_malloc()
    config = RewardConfig(batch=BATCH, lr=RATE, epochs=EPOCHS, dtype=dtype)  # type: ignore[arg-type]
    model = scalar_from_language(load_language_model(model_folder(size)), seed=0)
    with tempfile.TemporaryDirectory() as out:
        chosen = settle(Path(out), config.dtype, model)
    optimizer = adamw(model, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay)
    comparisons = [Comparison([p + a, p + b], [1, 2]) for p, a, b in pairs(size)]
    stream = Stream(comparisons, config.batch, config.seed, config.epochs)
    each = stream.steps // EPOCHS
    steps = iter(range(stream.steps))
    losses: list[float] = []

    def epoch() -> float:
        found = 0.0
        for step in (next(steps) for _ in range(each)):
            batch, where = stream.batch(step), f"step {step}"
            found += take_step(model, optimizer, batch, config.lr, config, chosen, where)["loss"] / each
        losses.append(round(found, 4))
        return PAIRS[size]

    facts = {"dtype": str(chosen).removeprefix("torch."), "losses": losses}
    return Turn(repeat(epoch, times=EPOCHS - 1), unit_flops=flops(size), facts=facts)


def race(size: str) -> Race:
    """TRL and ours, ours in float32 too."""
    title = f"Reward model, model {size}, {PAIRS[size]} pairs in batches of {BATCH}"
    contenders = [
        Contender("TRL", partial(trl, size), peer="trl"),
        Contender("ours", partial(ours, size), environment=PRODUCT),
        Contender("ours, float32", partial(ours, size, "float32"), environment=PRODUCT),
    ]
    return Race(size, title, "pairs/s", contenders, [Floor("ours", 2.5, against="TRL")], sizes=[size])


if __name__ == "__main__":
    raise SystemExit(main("reward", "Reward-model training, measured", [race(size) for size in PAIRS]))
