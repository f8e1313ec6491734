"""The whole loop through the real command line, on a tiny world with a tiny model."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.model.hf import load_language_model
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.metrics import read_metrics
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import Tokenizer

STAGES = [
    *("world", "tokenizer", "pretrain", "sft", "collect", "reward"),
    *("ppo", "ppo_ptx", "ppo_drift", "ppo_ptx_drift", "sft_more", "evaluate", "report"),
]
MODELS = ["base", "sft", "best_of_4", "ppo", "ppo_ptx", "ppo_drift", "ppo_ptx_drift"]


def instructgpt(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}
    command = [sys.executable, "-m", "instructgpt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """(run folder, summary, what was printed) of one quick demo."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = instructgpt("demo", "--quick", "True", "--out", str(folder), "--seed", "1")
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "summary.json").read_text()), done.stdout


def test_the_summary_has_what_was_promised(finished: tuple[Path, dict[str, Any], str]) -> None:
    _, summary, _ = finished
    model = summary["reward_model"]
    assert 0 <= model["accuracy"] <= 1 and set(model["baselines"]) == {"longer", "shorter", "bag_of_words"}
    assert {"accuracy", "true_utility", "baselines"} <= set(model["labels"])
    assert 0 <= model["agreement"] <= 1
    for name in MODELS:
        row = summary["models"][name]
        for key in ("utility", "reward", "kl", "pretrain_loss", "length", "eos_rate"):
            assert math.isfinite(row[key]), (name, key)
        assert 0 <= row["utility"] <= 1
    assert summary["models"]["sft"]["kl"] == 0.0
    assert summary["models"]["best_of_4"]["kl"] == pytest.approx(math.log(4) - 3 / 4, abs=1e-12)
    for name in ("ppo_ptx_over_sft", "ppo_ptx_over_best_of_4"):
        rate = summary["win_rate"][name]
        assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1
    assert set(summary["stages"]) == set(STAGES)
    assert summary["seconds"] > 0 and summary["peak_memory_mib"] > 0 and summary["seed"] == 1


def test_best_of_n_is_best_by_reward(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    models = summary["models"]
    assert models["best_of_4"]["reward"] >= models["best_of_2"]["reward"]
    for line in (folder / "evaluate" / "samples.jsonl").read_text().splitlines():
        replies = json.loads(line)["replies"]
        assert replies["sft"]["reward"] <= replies["best_of_2"]["reward"] <= replies["best_of_4"]["reward"]


def test_curves_follow_the_saved_checkpoints(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    for name in ("ppo", "ppo_ptx", "ppo_drift", "ppo_ptx_drift"):
        saved = sorted(int(p.name[5:]) for p in (folder / name / "checkpoints").glob("step-*"))
        assert [point["iteration"] for point in summary["curves"][name]] == [0, *saved]
        assert summary["curves"][name][0]["kl"] == 0.0


def test_the_best_sft_is_the_best_of_all_sft_checkpoints(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    contest = summary["best_sft"]["contenders"]
    saved = [p for stage in ("sft", "sft_more") for p in (folder / stage / "checkpoints").glob("step-*")]
    assert {row["checkpoint"] for row in contest} == {str(path) for path in saved}
    best = max(contest, key=lambda row: row["utility"])
    assert summary["best_sft"]["checkpoint"] == best["checkpoint"]


def test_the_table_and_the_report_are_shown(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, printed = finished
    report = folder / "report" / "report.html"
    assert summary["report"] == str(report) and str(report) in printed
    assert "wins over best SFT" in printed and "two labelers agree" in printed
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == 7 and "http" not in page


def test_lineage_names_every_input_by_its_hash(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = finished
    stages = {s["name"]: s for s in json.loads((folder / "lineage.json").read_text())["stages"]}
    assert list(stages) == STAGES
    # the same file or folder has the same hash wherever it is used
    assert stages["sft"]["product_hash"] == stages["reward"]["inputs"]["model"]
    assert stages["collect"]["inputs"]["model"] == stages["sft"]["product_hash"]
    assert all(len(value) >= 16 for value in stages["ppo_ptx"]["inputs"].values() if value)


def test_a_second_call_skips_everything(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, summary, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    again = instructgpt("demo", "--quick", "True", "--out", str(folder), "--seed", "1", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == summary
    assert again.stderr.count("skipped") == len(STAGES)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == before
    assert not list(folder.glob("*.previous-*"))


@pytest.mark.parametrize("stage", ["pretrain", "sft", "ppo_ptx"])
def test_checkpoints_open_in_transformers(stage: str, finished: tuple[Path, dict[str, Any], str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = final_checkpoint(finished[0] / stage)
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ours, tokenizer = load_language_model(checkpoint), Tokenizer.load(checkpoint)
    ids = render_prompt(tokenizer, [Message("user", "who are you? 你是谁？")])
    rendered = AutoTokenizer.from_pretrained(checkpoint).apply_chat_template(
        [{"role": "user", "content": "who are you? 你是谁？"}], add_generation_prompt=True, return_dict=False
    )
    assert rendered == ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
        logits = ours.logits(ours(torch.tensor(ids), torch.arange(len(ids)), [len(ids)]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_to_the_same_weights(
    number: signal.Signals, finished: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    """Stopped after a checkpoint of pretraining and resumed: bit for bit what an undisturbed run gives."""
    folder = tmp_path / "run"
    arguments = ["demo", "--quick", "True", "--out", str(folder), "--seed", "1", "--until", "pretrain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INSTRUCTGPT_PROGRESS": "0"}
    command = [sys.executable, "-m", "instructgpt", *arguments]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        metrics = folder / "pretrain" / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and len(read_metrics(metrics)) > 230):
            time.sleep(0.02)
        process.send_signal(number)
        assert process.stderr is not None
        message = process.stderr.read()
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert "run the same command again" in message
    assert not (folder / "pretrain" / "summary.json").exists()
    resumed = instructgpt(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    whole = final_checkpoint(finished[0] / "pretrain") / "model.safetensors"
    assert (final_checkpoint(folder / "pretrain") / "model.safetensors").read_bytes() == whole.read_bytes()
