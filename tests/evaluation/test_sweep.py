"""The sweep: complete runs, nothing trained twice, a failure loses nothing, Ctrl-C saves everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from instructgpt.cli import main
from instructgpt.config import parse
from instructgpt.data.records import read_prompts, read_texts
from instructgpt.errors import CheckError, ConfigError, InstructGPTError
from instructgpt.evaluation import sweep_runs
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.sweep import SweepConfig, run
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.rlhf.train import PPOConfig, train
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.tokenizer import train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "to", "red", "house"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 290)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=96)
    reward = new_scalar_model(shape, 2)
    for name, made in (("sft", new_language_model(shape, 1)), ("reward", reward)):
        save_model(made, folder / name)
        tokenizer.save(folder / name)
    write_selftest(folder / "reward", reward, tokenizer)
    files = {
        "prompts": [{"prompt": " ".join(WORDS[i:])} for i in range(8)],
        "held_out": [{"prompt": " ".join(WORDS[: i + 1]), "id": str(i)} for i in range(6)],
        "texts": [{"text": " ".join(WORDS[i:] + WORDS[:i])} for i in range(8)],
        "held_out_texts": [{"text": " ".join(WORDS[::-1][i:])} for i in range(3)],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "length_judge.py").write_text(
        "def score(prompts, replies):\n    return [len(r) for r in replies]\n"
    )
    return folder


def ppo(world: Path, **changes: Any) -> PPOConfig:
    values: dict[str, Any] = {
        "model": str(world / "sft"),
        "reward": str(world / "reward"),
        "prompts": str(world / "prompts.jsonl"),
        "pretrain": str(world / "texts.jsonl"),
        "iterations": 1,
        "batch": 4,
        "minibatches": 2,
        "max_new": 5,
        "ptx_ratio": 1.0,
        "ptx_length": 12,
        "lr": 1e-2,
        "warmup": 0,
        "ema": 0.0,
        "device": "cpu",
    }
    return PPOConfig(**(values | changes))


def config(world: Path, out: Path, **changes: Any) -> SweepConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "ptx_coefs": "0,0.5",
        "betas": "0.1",
        "prompts": str(world / "held_out.jsonl"),
        "text": str(world / "held_out_texts.jsonl"),
        "ppo": ppo(world),
    }
    return SweepConfig(**(values | changes))


def weights(folder: Path) -> dict[str, Any]:
    return {
        name: tensor.tolist()
        for name, tensor in load_file(final_checkpoint(folder) / "model.safetensors").items()
    }


@pytest.fixture(scope="module")
def swept(world: Path) -> tuple[Path, dict[str, Any]]:
    """Two ptx coefficients and two betas, each alone, judged by length."""
    out = world / "swept"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        return out, run(config(world, out, betas="0.1,2", cross=True, judge="length_judge:score", count=5))


def test_every_run_is_the_run_that_ppo_makes(world: Path, swept: tuple[Path, Any], tmp_path: Path) -> None:
    out, summary = swept
    assert [row["name"] for row in summary["runs"]] == [
        "ptx-0_beta-0.1",
        "ptx-0_beta-2",
        "ptx-0.5_beta-0.1",
    ]
    for coef, beta in ((0.0, 2.0), (0.5, 0.1)):
        alone = tmp_path / f"{coef}"
        train(ppo(world, out=str(alone), ptx_coef=coef, beta=beta))
        folder = out / f"ptx-{coef:g}_beta-{beta:g}"
        assert weights(folder) == weights(alone)
        assert (folder / "metrics.jsonl").exists() and (folder / "summary.json").exists()


def test_measures_are_those_of_the_final_policy(world: Path, swept: tuple[Path, Any]) -> None:
    out, summary = swept
    start, rows = summary["start"], {row["name"]: row for row in summary["runs"]}
    assert start["kl"] == 0.0 and summary["prompts"] == 5 and summary["documents"] == 3
    assert summary["judge"] == "length_judge:score"
    name = "ptx-0.5_beta-0.1"
    candidate = Candidate.load(name, out / name)
    texts = read_texts(world / "held_out_texts.jsonl")
    expected = text_loss(candidate.model, candidate.tokenizer, texts).loss
    assert rows[name]["pretrain_loss"] == pytest.approx(expected) != start["pretrain_loss"]
    replies = answer(candidate, read_prompts(world / "held_out.jsonl")[:5], max_new=5)[0]
    scores = RewardModel.load(world / "reward").score_ids(replies.sequences)
    assert rows[name]["reward"] == pytest.approx(scores.mean().item(), abs=1e-5)
    assert rows[name]["score"] == pytest.approx(sum(map(len, replies.texts)) / 5)
    assert rows[name]["reward_low"] <= rows[name]["reward"] <= rows[name]["reward_high"]


def test_the_front_and_the_verdict_stand_in_the_summary(swept: tuple[Path, Any]) -> None:
    out, summary = swept
    models = {"start": summary["start"]} | {row["name"]: row for row in summary["runs"]}
    for name, row in models.items():
        beaten = any(
            other["pretrain_loss"] <= row["pretrain_loss"] and other["reward"] > row["reward"]
            for other in models.values()
        )
        assert (name in summary["front"]) <= (not beaten)
    verdict = summary["verdict"]
    assert verdict["alone"] == "ptx-0_beta-0.1"
    assert [trade["name"] for trade in verdict["ptx"]] == ["ptx-0.5_beta-0.1"]
    assert [trade["name"] for trade in verdict["beta"]] == ["ptx-0_beta-2"]
    lost = models["ptx-0_beta-0.1"]["pretrain_loss"] - summary["start"]["pretrain_loss"]
    assert verdict["lost"]["mean"] == pytest.approx(lost)
    assert verdict["text"] in summary["table"]
    page = (out / "sweep.html").read_text()
    assert page.count("<svg") == 2 and "http" not in page
    for name in ("coefficients.svg", "front.svg"):
        assert (out / name).read_text().startswith("<svg xmlns=")


def test_a_longer_list_adds_to_the_sweep(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(world, tmp_path / "out"))
    trained: list[str] = []

    def watched(given: PPOConfig) -> dict[str, Any]:
        trained.extend([given.out] if not (Path(given.out) / "summary.json").exists() else [])
        return train(given)

    monkeypatch.setattr(sweep_runs, "train", watched)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "measured").iterdir()}
    summary = run(config(world, tmp_path / "out", ptx_coefs="0,0.5,1"))
    assert [Path(folder).name for folder in trained] == ["ptx-1_beta-0.1"]
    assert len(summary["runs"]) == 3 and {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(ConfigError, match=r"other settings: ppo\.lr: 0\.01 -> 0\.02"):
        run(config(world, tmp_path / "out", ppo=ppo(world, lr=2e-2)))


def test_a_failed_run_does_not_lose_the_others(world: Path, tmp_path: Path) -> None:
    """A folder that holds another run is in the way of one of the two."""
    train(ppo(world, out=str(tmp_path / "out" / "ptx-0_beta-0.1"), seed=9, ptx_coef=0.0, beta=0.1))
    summary = run(config(world, tmp_path / "out"))
    assert [row["name"] for row in summary["runs"]] == ["ptx-0.5_beta-0.1"]
    assert "seed: 9 -> 0" in summary["failed"]["ptx-0_beta-0.1"]
    assert "FAILED ptx-0_beta-0.1" in summary["table"] and summary["verdict"] is None
    with pytest.raises(CheckError, match=r"no run of the sweep succeeded; ptx-0_beta-0\.1"):
        run(config(world, tmp_path / "out", ptx_coefs="0"))


def test_averaged_weights_are_measured_where_asked_for(world: Path, tmp_path: Path) -> None:
    given = config(world, tmp_path / "out", weights="ema", ptx_coefs="0.5", ppo=ppo(world, ema=0.5))
    (row,) = run(given)["runs"]
    folder = Path(row["checkpoint"])
    assert folder.name == "ema" and folder.parent.name == "step-000001"
    candidate = Candidate.load("ema", folder)
    texts = read_texts(world / "held_out_texts.jsonl")
    expected = text_loss(candidate.model, candidate.tokenizer, texts).loss
    raw = Candidate.load("raw", folder.parent)
    assert row["pretrain_loss"] == pytest.approx(expected)
    assert row["pretrain_loss"] != pytest.approx(text_loss(raw.model, raw.tokenizer, texts).loss)


def test_which_combinations_are_asked_for(world: Path, tmp_path: Path) -> None:
    grid = config(world, tmp_path, ptx_coefs="0, 1", betas="0.1,0.2,0.2")
    assert [point.name for point in grid.points] == [
        f"ptx-{coef}_beta-{beta}" for coef in (0, 1) for beta in (0.1, 0.2)
    ]
    cross = config(world, tmp_path, ptx_coefs="0,1", betas="0.1,0.2", cross=True)
    assert len(cross.points) == 3
    base = config(world, tmp_path, ptx_coefs="", betas="", ppo=ppo(world, ptx_coef=3.0, beta=0.7))
    assert [point.name for point in base.points] == ["ptx-3_beta-0.7"]
    assert base.ppo_of(base.points[0]).out == str(tmp_path / "ptx-3_beta-0.7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ""}, "--prompts is missing"),
        ({"text": ""}, "--text is missing"),
        ({"out": ""}, "--out"),
        ({"ptx_coefs": "0,many"}, "numbers with commas"),
        ({"betas": "-1"}, "--beta is -1"),
        ({"processes": 0}, "at least 1 process"),
        ({"weights": "ema"}, "give --ppo.ema 0.992"),
        ({"judge": "nobody"}, "not the name of a function"),
    ],
)
def test_mistakes_are_one_paragraph_before_anything_is_trained(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(sweep_runs, "train", None)
    with pytest.raises(InstructGPTError, match=message):
        run(config(world, **({"out": tmp_path / "out"} | changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, r"--model is missing \(of PPO: --model\)"),
        ({"pretrain": ""}, "PPO-ptx needs pretraining text"),
        ({"out": "somewhere"}, "use --out"),
    ],
)
def test_mistakes_in_the_flags_of_ppo(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InstructGPTError, match=message):
        run(config(world, tmp_path / "out", ppo=ppo(world, **changes)))


def test_flags_of_ppo_come_from_a_table_and_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('betas = "0.1,1"\ncount = 7\n[ppo]\nlr = 0.5\nmodel = "here"\n')
    found = parse(SweepConfig, ["--config", str(tmp_path / "sweep.toml"), "--ppo.lr", "0.25"], "sweep")
    assert (found.betas, found.count, found.ppo.lr, found.ppo.model) == ("0.1,1", 7, 0.25, "here")
    (tmp_path / "wrong.toml").write_text("[ppo]\nbata = 0.5\n")
    with pytest.raises(ConfigError, match=r"unknown key 'bata'.*wrong.toml: ppo.*did you mean beta"):
        parse(SweepConfig, ["--config", str(tmp_path / "wrong.toml")], "sweep")


def flags(world: Path, out: Path, **more: object) -> list[str]:
    """The sweep's command line with a run long enough to be stopped."""
    given: dict[str, object] = {
        "out": out,
        "ptx-coefs": "0,0.5,1",
        "betas": "0.1",
        "processes": 2,
        "prompts": world / "held_out.jsonl",
        "text": world / "held_out_texts.jsonl",
        **{f"ppo.{key.replace('_', '-')}": value for key, value in vars(ppo(world)).items()},
    }
    unset = ("ppo.out", "ppo.eval-prompts", "ppo.judge", "ppo.missing-eos-penalty")
    given = {key: value for key, value in (given | more).items() if key not in unset}
    return ["sweep", *(part for key, value in given.items() for part in (f"--{key}", str(value)))]


@pytest.mark.slow
def test_processes_of_their_own_train_the_same(world: Path, tmp_path: Path) -> None:
    assert main(flags(world, tmp_path / "apart")) == 0
    for coef in (0.0, 1.0):
        alone = tmp_path / f"{coef}"
        train(ppo(world, out=str(alone), ptx_coef=coef, beta=0.1))
        found, expected = weights(tmp_path / "apart" / f"ptx-{coef:g}_beta-0.1"), weights(alone)
        for name, values in expected.items():  # another number of threads may round otherwise
            assert found[name] == [pytest.approx(row, abs=1e-5) for row in values] or found[name] == values
    log = tmp_path / "apart" / "ptx-0_beta-0.1" / "train.log"
    assert log.exists() and "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_process_that_fails_is_reported(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(ppo(world, out=str(tmp_path / "out" / "ptx-0_beta-0.1"), ptx_coef=0.0, beta=0.1, seed=4))
    (tmp_path / "out" / "ptx-0_beta-0.1" / "summary.json").unlink()  # so that it is tried again
    assert main([*flags(world, tmp_path / "out"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert "seed: 4 -> 0" in summary["failed"]["ptx-0_beta-0.1"]
    assert [row["ptx_coef"] for row in summary["runs"]] == [0.5, 1.0]


@pytest.mark.slow
def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(world: Path, tmp_path: Path) -> None:
    """The signal goes to the sweep alone, as `kill` sends it; the runs are in sessions of their own."""
    out = tmp_path / "out"
    words = flags(world, out, **{"ppo.iterations": 60, "ppo.save-every": 1, "ppo.lr": 1e-4})
    command = [sys.executable, "-m", "instructgpt", *words]
    environment = {**os.environ, "INSTRUCTGPT_PROGRESS": "0"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(list(out.glob("*/checkpoints/step-*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and errors.count("instructgpt: ") == 1, errors
    assert "the sweep stopped" in errors and "run the same command again" in errors
    assert not (out / "summary.json").exists()
    stopped = list(out.glob("*/checkpoints/step-*"))
    assert 1 <= len(stopped) < 120
    assert main(words) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["runs"]) == 3 and summary["failed"] == {}
