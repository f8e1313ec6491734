"""`python -m benchmarks.scaling`: does a token cost the same, however much there is to train on?

As many steps over 1,000, 10,000 and 100,000 sequences by the verbs themselves, a dozen epochs of the fewest
and a part of one of the most, with a model so small that what lies around it would show. Reading and encoding
come before the steps and are measured as a race of their own.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.peers import FOLDER
from benchmarks.turn import Turn
from benchmarks.turns import Contender, Floor, Race, main

COUNTS = (1_000, 10_000, 100_000)
FLAT = 1 / 1.15
"""A token may take 15 % longer than with the fewest sequences."""
PLACE = FOLDER / "scaling"
MODEL = {"width": 64, "layers": 2, "heads": 2, "context": 128}
BATCH = 32
STEPS = 400
"""Of everyone: a step of a process takes some percent longer the more of them came before."""
WARM = 5
"""Steps at the start that do not count."""


def words(count: int, seed: int) -> str:
    """Text of `count` words out of 2,000, the frequent ones first, as in a language."""
    draw = random.Random(seed)
    return " ".join(f"w{min(2000, int(draw.paretovariate(1.1)))}" for _ in range(count))


def prepare() -> None:
    """Demonstrations and texts for every count, a tokenizer, a model of random weights."""
    from instructgpt.model.config import ModelConfig
    from instructgpt.model.heads import new_language_model
    from instructgpt.model.hf import save_model
    from instructgpt.text.tokenizer import train_tokenizer

    if (PLACE / "model" / "tokenizer.json").exists():  # written last
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    for count in COUNTS:
        with _data("sft", count).open("w", encoding="utf-8") as file:
            for i in range(count):
                record = {"id": str(i), "prompt": words(4 + i % 9, i), "response": words(4 + i % 23, -i - 1)}
                file.write(json.dumps(record) + "\n")
        with _data("pretrain", count).open("w", encoding="utf-8") as file:
            for i in range(count):
                file.write(json.dumps({"id": str(i), "text": words(8 + i % 31, i)}) + "\n")
    tokenizer = train_tokenizer((words(20, i) for i in range(2000)), 1024)
    model = new_language_model(ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, **MODEL), seed=0)
    special: dict[str, int | list[int] | None] = {"eos_token_id": tokenizer.eos_id}
    save_model(model, PLACE / "model", special=special)
    tokenizer.save(PLACE / "model")


def _data(verb: str, count: int) -> Path:
    return PLACE / f"{verb}-{count}.jsonl"


def run(verb: str, count: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train for `STEPS`; returns the rows of metrics and the summary."""
    from instructgpt.pretrain.train import PretrainConfig
    from instructgpt.pretrain.train import train as pretrain
    from instructgpt.runtime.metrics import read_metrics
    from instructgpt.sft.train import SFTConfig
    from instructgpt.sft.train import train as sft

    epochs = STEPS * BATCH / count
    data, folder = str(_data(verb, count)), str(PLACE / "model")
    with tempfile.TemporaryDirectory() as out:
        if verb == "sft":
            summary = sft(
                SFTConfig(
                    model=folder,
                    data=data,
                    out=out,
                    epochs=epochs,
                    batch=BATCH,
                    lr=1e-3,
                    validation_share=0.0,
                    eval_every=0,
                    eval_prompts=0,
                    keep=1,
                )
            )
        else:
            length = MODEL["context"]
            steps = round(epochs * count * 48 / (BATCH * length))
            summary = pretrain(
                PretrainConfig(
                    data=data, tokenizer=folder, out=out, steps=steps, batch=BATCH, length=length, **MODEL
                )
            )
        return read_metrics(Path(out) / "metrics.jsonl"), summary


def steps(verb: str, count: int) -> Turn:
    """Tokens a second of all steps but the first."""
    rows, summary = run(verb, count)
    counted = rows[WARM:]
    seconds = [row["seconds_data"] + row["seconds_update"] for row in counted]
    tokens = sum(row["tokens_per_second"] * taken for row, taken in zip(counted, seconds, strict=True))
    first, last = counted[: len(counted) // 2], counted[len(counted) // 2 :]
    facts = {
        "steps": len(rows),
        "seconds in all": summary["seconds"],
        "share of data": sum(row["seconds_data"] for row in counted) / sum(seconds),
        "second half over first, time a step": _mean(last) / _mean(first),
    }
    return Turn([tokens / sum(seconds)], facts=facts)


def _mean(rows: list[dict[str, Any]]) -> float:
    return sum(row["seconds_data"] + row["seconds_update"] for row in rows) / len(rows)


def reading(count: int) -> Turn:
    """Demonstrations a second from their file to ids and mask."""
    from instructgpt.sft.examples import read_examples
    from instructgpt.sft.settings import SFTConfig
    from instructgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(PLACE / "model")
    config = SFTConfig(model="-", data=str(_data("sft", count)), out="-", validation_share=0.0)
    read_examples(SFTConfig(model="-", data=str(_data("sft", COUNTS[0])), out="-"), tokenizer, 128)
    start = time.perf_counter()
    examples = read_examples(config, tokenizer, MODEL["context"])
    return Turn([(len(examples.train) + examples.dropped) / (time.perf_counter() - start)])


def _race(case: str, title: str, unit: str, measure: Callable[[int], Turn]) -> Race:
    names = {count: f"{count // 1000}k sequences" for count in COUNTS}
    return Race(
        case,
        title,
        unit,
        [Contender(name, partial(measure, count)) for count, name in names.items()],
        [Floor(names[count], FLAT, against=names[COUNTS[0]]) for count in COUNTS[1:]],
        prepare=prepare,
    )


def races() -> list[Race]:
    """SFT's and pretraining's steps, and reading."""
    size = f"{MODEL['layers']} layers of width {MODEL['width']}"
    return [
        _race("sft", f"sft, a step's tokens: {size}", "tokens/s", partial(steps, "sft")),
        _race("pretrain", f"pretrain, a step's tokens: {size}", "tokens/s", partial(steps, "pretrain")),
        _race("reading", "sft, demonstrations from file to ids", "demonstrations/s", reading),
    ]


if __name__ == "__main__":
    raise SystemExit(main("scaling", "Time per token over the amount of data, measured", races()))
