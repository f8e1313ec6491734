"""Models between two: measured like any other, kept on disk, weighed by hand arithmetic, drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import interpolate as benchmark
from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.data.records import Prompt, Text
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.interpolation import Ground, row, traded
from instructgpt.evaluation.judge import load_judge
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.reward import load_reward
from instructgpt.text.tokenizer import train_tokenizer

TEXTS = ["the cat sat on a mat", "a dog ran to the red house and sat"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("interpolation")
    shape = ModelConfig.llama(vocab_size=290, width=16, layers=1, heads=2, context=64)
    for seed, name in enumerate(("sft", "ppo"), 1):
        save_model(new_language_model(shape, seed), folder / name)
        train_tokenizer(TEXTS * 4, 290).save(folder / name)
    (folder / "length_reward.py").write_text(
        "def score(prompts, replies):\n    return [len(r) for r in replies]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        reward, judge = load_reward("length_reward:score"), load_judge("length_reward:score")
    return Ground(
        reference=Candidate.load("sft", folder / "sft"),
        reward=reward,
        judge=judge,
        prompts=[Prompt.of(text, id=str(i)) for i, text in enumerate(TEXTS * 2)],
        texts=[Text(text) for text in TEXTS],
        max_new=6,
        seed=0,
        folder=folder / "measured",
        device=torch.device("cpu"),
    )


def test_a_model_between_is_the_one_that_convert_writes(ground: Ground, tmp_path: Path) -> None:
    pair = [ground.folder.parent / name for name in ("sft", "ppo")]
    found = ground.measure("half", pair, 0.5)
    convert(ConvertConfig(interpolate=tuple(map(str, pair)), alpha=0.5, out=str(tmp_path / "half")))
    written = ground.measure("written", [tmp_path / "half"])
    for key in ("position", "nats", "tokens"):
        assert found[key] == written[key]
    ends = [ground.measure(name, [path]) for name, path in zip(("sft", "ppo"), pair, strict=True)]
    assert all(found["nats"] != end["nats"] for end in ends)
    assert ends[0]["position"]["kl"] == pytest.approx([0.0] * 4, abs=1e-5)


def test_what_was_measured_is_not_measured_again(ground: Ground, monkeypatch) -> None:
    pair = [ground.folder.parent / name for name in ("sft", "ppo")]
    first = ground.measure("again", pair, 0.25)
    monkeypatch.setattr("instructgpt.evaluation.interpolation.locate", None)
    assert ground.measure("again", pair, 0.25) == first
    with pytest.raises(TypeError):  # another alpha is another model
        ground.measure("again", pair, 0.75)


def measured(loss: float, reward: float, alpha: float | None = None) -> dict[str, Any]:
    """Documents of 30 and 10 tokens with this mean loss; prompts that scatter around the reward."""
    rewards = [reward + 0.4, reward - 0.4] * 5
    position = {"reward": rewards, "kl": [1.0] * 10, "score": rewards, "length": 4.0, "eos_rate": 1.0}
    return {"alpha": alpha, "position": position, "nats": [30 * loss, 10 * loss], "tokens": [30, 10]}


def test_figures_by_hand() -> None:
    """Lost 0.5 and gained 2 at the end; half way 0.05 and 1.8: 90 % recovered, 10 % paid."""
    start, end, half = measured(1.0, 0.0), measured(1.5, 2.0), measured(1.05, 1.8, 0.5)
    found = row(half, start, 0)
    assert found["lost"] == pytest.approx(0.05) and found["pretrain_loss"] == pytest.approx(1.05)
    assert found["reward"] == pytest.approx(1.8) and found["alpha"] == 0.5
    assert found["reward_low"] < 1.8 < found["reward_high"] and found["lost_low"] == pytest.approx(0.05)
    trade = traded(half, start, end, 0)
    assert trade["recovered"]["mean"] == pytest.approx(0.9) and trade["cost"]["mean"] == pytest.approx(0.1)
    assert trade["good"] and not traded(measured(1.2, 1.9), start, end, 0)["good"]


def made_up() -> dict[str, Any]:
    """A whole summary in the benchmark's form."""
    start, end = measured(1.0, 0.0), measured(1.5, 2.0, 1.0)

    def rows(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row(found, start, 0) | traded(found, start, end, 0) for found in models]

    line = [measured(1.0 + 0.5 * a**2, 2 * a, a) for a in benchmark.ALPHAS]
    pair = {"weights": rows([*line, end]), "path": rows([line[4], end]), "ptx": rows([measured(1.01, 1.9)])}
    found = {"start": row(start, start, 0), "prompts": 10, "documents": 2, "seconds": 60.0}
    return found | {name: pair for name in benchmark.PAIRS}


def test_the_page_says_what_the_numbers_say(tmp_path: Path, monkeypatch, capsys) -> None:
    """On this line loss goes with alpha squared: at 0.4 84 % are recovered, at a cost of 60 %."""
    summary = made_up()
    text = benchmark.page(summary, "runs/x")
    assert "- It adds +0.5000 nats per token to SFT's loss and gains +2.000 reward." in text
    assert "reward: no α does so; PPO-ptx recovers 98% at 5%." in text
    assert "The largest between SFT and PPO is 1.800, at α 0.9" in text
    assert "| α 0.4 | 0.800 [" in text and "84% [84%, 84%] | 60% [60%, 60%] |" in text
    assert text.count("| PPO, checkpoint 1 of 2 |") == 1 and "| PPO-ptx, checkpoint 1 of 1 |" in text
    for name in ("RESULTS", "FIGURE"):
        monkeypatch.setattr(benchmark, name, tmp_path / name)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr("sys.argv", ["interpolate", "--out", str(tmp_path), "--draw"])
    assert benchmark.main() == 0
    drawn = (tmp_path / "FIGURE").read_text()
    assert "weights from SFT to PPO" in drawn and "α 0.5" in drawn and "PPO-ptx, its checkpoints" in drawn


def test_no_tax_is_said() -> None:
    summary = made_up()
    for name in benchmark.PAIRS:
        summary[name]["weights"][-1]["lost"] = -0.01
    assert "there is no tax to trade" in benchmark.page(summary, "x")
