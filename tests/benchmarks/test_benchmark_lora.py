"""The page of LoRA: figures that hold, figures that miss; and the memory part on a tiny model."""

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lora
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.text.tokenizer import train_tokenizer

KINDS = ("total", "trained", "frozen", "gradients", "optimizer", "average", "activations")


def measured() -> dict[str, Any]:
    """LoRA with 0.4 of the memory."""
    runs = {
        name: {"peak": peak, "estimate": dict.fromkeys(KINDS, 10.0), "seconds": 60.0}
        for name, peak in (("all weights", 5000.0), ("adapters", 2000.0))
    }
    rounding = {"loss": 3.0, "loss_8_bits": 3.01, "kl": 0.002, "same": 0.98, "tokens": 100}
    return {"settings": {"batch": 16}, "runs": runs, "ratio": 0.4, "rounding": rounding}


def gained(mean: float) -> dict[str, Any]:
    return {
        "rewards": {"sft": 0.0, "full": 1.0, "lora": mean},
        "kl": {"full": 1.0, "lora": 1.1},
        "seconds": {"full": 60.0, "lora": 70.0},
        "share": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1},
        "prompts": 500,
    }


def test_figures_that_hold() -> None:
    text, missed = lora.page(measured(), {"seed-0": gained(0.95)})
    assert missed == 0
    assert "| adapters | 2000 | 10 |" in text and "0.400 (bound 0.5: holds)" in text
    assert "| seed-0 | 500 | 0.000 | 1.000 | 0.950 | 0.950 [0.850, 1.050] |" in text


def test_figures_that_miss_are_seen() -> None:
    worse = copy.deepcopy(measured()) | {"ratio": 0.51}
    text, missed = lora.page(worse, {"seed-0": gained(0.95), "seed-1": gained(0.89)})
    assert missed == 2 and "**missed**" in text and "**0.890" in text
    assert lora.page(None, {"seed-1": gained(0.89)})[1] == 1


@pytest.mark.slow
def test_the_memory_part_on_a_tiny_model(tmp_path: Path) -> None:
    """Five processes; a tiny model's peak is Python and PyTorch, so only that all parts run is looked at."""
    tokenizer = train_tokenizer(["the cat sat on the mat and the dog ran to the red house " * 3], 290)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, context=1024)
    write_checkpoint(new_language_model(shape, seed=3), tokenizer, tmp_path / "tiny")
    found = lora.memory(tmp_path / "out", str(tmp_path / "tiny"), iterations=1, batch=4, max_new=4)
    assert set(found["runs"]) == {"all weights", "adapters", "adapters, 8 bits"} and 0 < found["ratio"] < 2
    assert 0 < found["rounding"]["kl"] < 0.01
    assert (tmp_path / "out" / "memory.json").exists()
