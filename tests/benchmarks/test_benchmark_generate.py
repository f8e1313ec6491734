"""The generation benchmark on a tiny model: everyone draws what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generate, peers
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import save_model
from instructgpt.text.tokenizer import train_tokenizer


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPT-2 that stands for size S; prompts of 4 tokens, replies of up to 6."""
    tokenizer = train_tokenizer(["one two three four five six"] * 4, 270)
    sizes = {"width": 32, "layers": 1, "heads": 2, "context": 16}
    model = new_language_model(ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, **sizes), 0)
    save_model(model, tmp_path, special={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    tokenizer.save(tmp_path)
    monkeypatch.setattr(generate, "model_folder", lambda size: tmp_path)
    monkeypatch.setattr(
        generate, "tokens", lambda size, count, seed: [(seed + i) % 200 for i in range(count)]
    )
    for name, value in (("PROMPT", 4), ("MOST", 6), ("MEAN", 3), ("SINGLE", 2)):
        monkeypatch.setattr(generate, name, value)


def test_races_are_well_formed() -> None:
    for race in generate.races():
        names = [contender.name for contender in race.contenders]
        assert len(set(names)) == len(names) >= 2 and not any("/" in name for name in names)
        assert all(contender.peer in (peers.OURS, *peers.PEERS) for contender in race.contenders)
        assert all(floor.contender in names and floor.against in names for floor in race.floors)


def test_the_work_is_the_same_for_all(tiny: None) -> None:
    asked = generate.groups("S", 1)
    assert len(asked) == 2 and asked == generate.groups("S", 1)
    assert all(len(prompt) == 4 and 1 <= stop <= 6 for group in asked for prompt, stop in group)
    assert len(generate.groups("S", 5)[0]) == 5


@pytest.mark.parametrize("batch", [1, 3])
def test_turns_on_little_data(tiny: None, batch: int) -> None:
    for turn in (
        generate.transformers("S", batch, "float32"),
        generate.ours("S", batch, "float32"),
        generate.ours("S", batch, "bfloat16", "int8"),
    ):
        assert len(turn.rates) == 3 and min(turn.rates) > 0 and turn.facts["batch"] == batch
