"""`python -m benchmarks.sft`: tokens a second of instruction tuning, TRL and ours in turn.

Everyone trains all weights of the same model on the same documents of token ids (log-normal lengths of mean
120), every token but a document's first counting, 8 documents in an optimizer step, AdamW. A repeat is an
epoch; padding is nobody's token. "TRL" is `SFTTrainer` with its own defaults, which are bfloat16 under
autocast and gradient checkpointing. Ours is the train step of `instructgpt sft` in the precision that it
chooses itself.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.inputs import CONTEXT, SIZES, documents, model_folder
from benchmarks.turn import Turn
from benchmarks.turns import Contender, Floor, Race, main

DOCUMENTS = {"S": 64, "M": 16, "L": 16}
BATCH, EPOCHS, LR = 8, 4, 1e-4
PRODUCT = {"GOMP_SPINCOUNT": "5000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""What the command line sets before torch is imported."""


def trl(size: str, packing: bool = False) -> Turn:
    """TRL's SFTTrainer with its own defaults; packed into rows, without checkpointing, where asked."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    texts = documents(size, DOCUMENTS[size])
    total = sum(map(len, texts))
    seconds: list[float] = []

    class Epochs(TrainerCallback):  # type: ignore[misc]
        """Notes the seconds of each epoch."""

        def on_epoch_begin(self, *arguments: Any, **named: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, *arguments: Any, **named: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    settings: dict[str, Any] = {"per_device_train_batch_size": BATCH, "max_length": CONTEXT}
    if packing:
        rows = max(1, round(BATCH * total / len(texts) / CONTEXT))  # as many tokens in a step
        settings |= {"packing": True, "per_device_train_batch_size": rows}
        settings |= {"bf16": True, "gradient_checkpointing": False}
    with tempfile.TemporaryDirectory() as out:
        arguments = SFTConfig(
            output_dir=out,
            num_train_epochs=EPOCHS,
            learning_rate=LR,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="epoch",
            disable_tqdm=True,
            seed=0,
            **settings,
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(model_folder(size)),
            args=arguments,
            train_dataset=Dataset.from_list([{"input_ids": text} for text in texts]),
            processing_class=AutoTokenizer.from_pretrained(model_folder(size)),
            callbacks=[Epochs()],
        )
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    facts = {"loss": losses[0], "dtype": "bfloat16" if arguments.bf16 else "float32"}
    return Turn([total / s for s in seconds[1:]], 6 * SIZES[size].products, facts=facts)


def plain(size: str) -> Turn:
    """A plain packed loop, see `plain_loop`."""
    from benchmarks.plain_loop import rates

    found = rates(size, documents(size, DOCUMENTS[size]), BATCH, EPOCHS, LR)
    return Turn(found, 6 * SIZES[size].products, facts={"dtype": "bfloat16"})


def ours(size: str, dtype: str = "auto") -> Turn:
    """The steps of `instructgpt sft`, without its saving and measuring."""
    from instructgpt.model.hf import load_language_model
    from instructgpt.runtime.device import tune_malloc
    from instructgpt.runtime.optim import adamw, cosine
    from instructgpt.runtime.precision import settle
    from instructgpt.scoring.likelihood import all_counted
    from instructgpt.sft.examples import Stream
    from instructgpt.sft.settings import SFTConfig
    from instructgpt.sft.train import gradients, update

    tune_malloc()
    texts = documents(size, DOCUMENTS[size])
    total = sum(map(len, texts))
    config = SFTConfig(batch=BATCH, lr=LR, dtype=dtype, epochs=EPOCHS)  # type: ignore[arg-type]
    model = load_language_model(model_folder(size))
    with tempfile.TemporaryDirectory() as folder:
        precision = settle(Path(folder), dtype, model)
    optimizer = adamw(model, LR, (0.9, config.beta2))
    stream = Stream(all_counted(texts), BATCH, config.seed, config.epochs)
    losses: list[float] = []
    rates: list[float] = []
    for epoch in range(EPOCHS):
        start, per_epoch = time.perf_counter(), stream.steps // EPOCHS
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            losses.append(gradients(model, stream.batch(step), [], config, step, precision)["loss"])
            update(model, optimizer, LR * cosine(step, stream.steps), config.clip, f"step {step}")
        if epoch:
            rates.append(total / (time.perf_counter() - start))
    first = losses[: stream.steps // EPOCHS]
    facts = {"loss": round(sum(first) / len(first), 4), "dtype": str(precision).removeprefix("torch.")}
    return Turn(rates, 6 * SIZES[size].products, facts=facts)


def race(size: str) -> Race:
    """A size's contenders and the floors that we set ourselves."""
    contenders = [Contender("TRL", partial(trl, size), peer="trl")]
    floors = [Floor("ours", {"S": 4.5, "M": 4.0, "L": 2.5}[size], against="TRL")]
    if size != "L":
        contenders.append(Contender("TRL packing, bf16", partial(trl, size, packing=True), peer="trl"))
        contenders.append(Contender("plain packed loop, bf16", partial(plain, size)))
    if size == "M":
        floors += [Floor("ours", 2.3, against="TRL packing, bf16"), Floor("ours", 0.6, of="bfloat16")]
    contenders.append(Contender("ours", partial(ours, size), environment=PRODUCT))
    contenders.append(Contender("ours, float32", partial(ours, size, "float32"), environment=PRODUCT))
    title = f"SFT of model {size}, {DOCUMENTS[size]} documents an epoch, {BATCH} a step"
    return Race(size, title, "tokens/s", contenders, floors, sizes=[size])


if __name__ == "__main__":
    raise SystemExit(main("sft", "Instruction tuning, measured", [race(size) for size in SIZES]))
