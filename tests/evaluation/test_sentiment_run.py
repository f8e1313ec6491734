"""The sentiment experiment from the reviews to the report, with a random tiny model."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import imdb as benchmark
from instructgpt.cli import main
from instructgpt.data.jsonl import write_jsonl
from instructgpt.data.records import read_demonstrations
from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment import run as stage
from instructgpt.evaluation.sentiment import systems
from instructgpt.evaluation.sentiment.lstm import LSTMSettings
from instructgpt.evaluation.sentiment.parts import asked
from instructgpt.evaluation.sentiment.reviews import LABELS, question, read_reviews, split_reviews, views
from instructgpt.evaluation.sentiment.settings import ReviewsConfig, SentimentConfig
from instructgpt.evaluation.sentiment.write import write
from instructgpt.evaluation.suite.models import open_handle
from instructgpt.evaluation.suite.results import read_results
from instructgpt.maths.logprobs import token_logprobs
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model
from instructgpt.pipeline import RunConfig
from instructgpt.pipeline import run as run_pipeline
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.runtime.checkpoint import RunChanged
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "imdb.toml"
WORDS = {0: ["dull", "cold", "clumsy"], 1: ["fine", "warm", "clever"]}
PLAIN = ["the", "film", "was", "and", "with", "actors", "plot"]


def write_reviews(path: Path, count: int, seed: int) -> None:
    draw, rows = random.Random(seed), []
    for i in range(count):
        words = draw.choices([*PLAIN, *WORDS[i % 2]], k=draw.randrange(6, 30))
        text = " ".join([*words, WORDS[i % 2][0]])
        rows.append({"id": f"{seed}/{i}", "text": text, "label": i % 2, "movie": f"{seed}-{i // 4}"})
    write_jsonl(path, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews, and a random model that reads them."""
    folder = tmp_path_factory.mktemp("reviews")
    write_reviews(folder / "supervised" / "imdb-train.jsonl.gz", 60, 1)
    write_reviews(folder / "supervised" / "imdb-test.jsonl.gz", 24, 2)
    tokenizer = train_tokenizer([question(" ".join([*PLAIN, *WORDS[0], *WORDS[1], *LABELS]))] * 3, 300)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=256)
    write_checkpoint(new_language_model(shape, 0), tokenizer, folder / "base")
    return folder


def config(world: Path, out: Path, **more: object) -> SentimentConfig:
    values = {
        "models": (f"zero={world / 'base'}",),
        "train": str(world / "supervised" / "imdb-train.jsonl.gz"),
        "test": str(world / "supervised" / "imdb-test.jsonl.gz"),
        "valid_share": 0.2,
        "tokens": 16,
        "seeds": 2,
        "out": str(out),
        "device": "cpu",
    }
    return SentimentConfig(**{**values, **more})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, and an LSTM that is quickly trained."""
    monkeypatch.setattr(stage, "DRAWS", 40)
    monkeypatch.setattr(systems, "LSTM", LSTMSettings(width=4, hidden=4, epochs=2))


def test_a_models_answer_is_the_likelier_of_the_two_replies(world: Path) -> None:
    """The probabilities, from the model's own log-probabilities of whole replies."""
    seen = ["the film was fine", "dull plot and cold actors"]
    found = asked(open_handle(str(world / "base"), chat=True), seen)
    model, tokenizer = load_language_model(world / "base"), Tokenizer.load(world / "base")
    for view, p in zip(seen, found, strict=True):
        nats = []
        for label in LABELS:
            rendered = render_reply(tokenizer, [Message("user", question(view))], label)
            ids = torch.tensor(rendered.ids)
            with torch.no_grad():
                hidden = model(ids, torch.arange(len(ids)), [len(ids)])
                logprobs = token_logprobs(hidden[:-1], model.unembedding, ids[1:])
            counts = torch.tensor(rendered.train_mask[1:])
            nats.append(float(logprobs[counts][:-1].sum()))  # the word, without the end of the turn
        assert p == pytest.approx(1 / (1 + np.exp(nats[0] - nats[1])), abs=1e-4)


def test_the_stage_writes_what_the_models_train_on(world: Path, tmp_path: Path) -> None:
    source = str(world / "supervised" / "imdb-train.jsonl.gz")
    settings = ReviewsConfig(
        model=str(world / "base"), train=source, valid_share=0.2, tokens=16, out=str(tmp_path)
    )
    summary = write(settings)
    train, valid = split_reviews(read_reviews(source), 0.2)
    assert (summary["train"], summary["valid"]) == (len(train), len(valid)) and len(valid) > 0
    (view,) = views(Tokenizer.load(world / "base"), [valid[0].text], 16)
    first = read_demonstrations(tmp_path / "valid.jsonl")[0]
    assert (first.prompt.text, first.response) == (question(view), LABELS[valid[0].label])
    assert write(settings) == summary


def test_all_systems_are_measured_and_finished_parts_stay(world: Path, tmp_path: Path) -> None:
    summary = stage.measure(config(world, tmp_path), "a command")
    assert list(summary["systems"]) == ["zero", "logistic", "lstm"]
    assert summary["systems"]["logistic"]["accuracy"]["mean"] == 1.0  # a word says it
    assert summary["systems"]["lstm"]["seeds"] == 2 and summary["systems"]["zero"]["train_loss"] is None
    assert list(summary["difference"]) == ["zero_over_logistic", "zero_over_lstm"]
    assert summary["difference"]["zero_over_logistic"]["accuracy"]["high"] <= 0 and not summary["above_both"]
    parts = sorted(path.name for path in (tmp_path / "sentiment").iterdir())
    assert parts == ["logistic.json", "lstm-0.json", "lstm-1.json", "zero-0.json"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sentiment").iterdir()}
    assert stage.measure(config(world, tmp_path), "a command") == summary
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (tmp_path / "sentiment" / "lstm-1.json").unlink()  # as after a kill: that part alone is made again
    assert (
        stage.measure(config(world, tmp_path))["systems"]["lstm"]["loss"]
        == summary["systems"]["lstm"]["loss"]
    )
    report = json.loads((tmp_path / "report.json").read_text())
    (task,) = report["tasks"]
    assert task["results"]["lstm"]["f1"]["value"] == pytest.approx(summary["systems"]["lstm"]["f1"]["mean"])
    assert task["made"]["lstm"]["command"] == ""  # the last call named none
    assert [result.model for result in read_results(tmp_path)] == ["zero", "logistic", "lstm"]
    assert (tmp_path / "loss.svg").read_text().startswith("<svg")
    with pytest.raises(RunChanged, match="zero-0 was computed with other settings: tokens: 16 -> 12"):
        stage.measure(config(world, tmp_path, tokens=12))


def test_mistakes_are_told_before_anything_runs(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model was named"):
        stage.measure(config(world, tmp_path, models=()))
    with pytest.raises(ConfigError, match="is no NAME=FOLDER"):
        stage.measure(config(world, tmp_path, models=("lstm=runs/x",)))
    with pytest.raises(ConfigError, match="no test reviews"):
        stage.measure(config(world, tmp_path, test=""))
    with pytest.raises(ConfigError, match="two ends"):
        config(world, tmp_path, tokens=1)
    assert not any(tmp_path.iterdir())


def test_the_verb_finds_the_reviews(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    flags = ["--suite", "sentiment", "--data", str(world), "--out", out, "--device", "cpu"]
    options = ["--option", "seeds=1", "--option", "tokens=16", "--option", "curve=0"]
    assert main(["eval", f"zero={world / 'base'}", *flags, *options]) == 0
    printed = capsys.readouterr().out
    assert "zero - logistic: accuracy" in printed and "24 test reviews" in printed
    assert (
        "--suite sentiment"
        in json.loads((Path(out) / "report.json").read_text())["tasks"][0]["made"]["lstm"]["command"]
    )
    assert main(["eval", f"zero={world / 'base'}", *flags, "--option", "colour=3"]) == 2
    assert "'colour=3' is no option" in capsys.readouterr().err


@pytest.mark.slow
def test_the_example_runs_from_the_weights_to_the_verdict(world: Path, tmp_path: Path) -> None:
    """Every stage of examples/imdb.toml, three seeds, on a model too small to learn anything."""
    short = [f"sft_{seed}.{key}" for seed in range(3) for key in ("batch=8", "dtype=float32")]
    changes = (f"base.source={world / 'base'}", 'sentiment.option=["seeds=1", "curve=8"]', *short)
    settings = RunConfig(file=str(EXAMPLE), data=str(world), out=str(tmp_path / "imdb"), set=changes)
    summary = run_pipeline(settings)
    found = summary["systems"]["sft"]
    kept = json.loads((tmp_path / "imdb" / "reviews" / "summary.json").read_text())["train"]
    every = math.ceil(kept / 8 / 2)
    steps = [every, 2 * every, math.ceil(round(1.5 * kept) / 8)]
    assert found["seeds"] == 3 and len(found["train_seconds"]) == 3
    assert [len(curve) for curve in summary["curves"]["sft"]] == [3, 3, 3]
    assert [row["epoch"] for row in summary["curves"]["sft"][0]] == pytest.approx(
        [8 * step / kept for step in steps]
    )
    assert summary["systems"]["zero_shot"]["seeds"] == 1
    assert Path(summary["report"]).exists()


@pytest.mark.slow
def test_the_benchmark_makes_a_seed_at_a_time(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the weights to the page, each seed in a run folder of its own as on another machine."""
    monkeypatch.setattr(benchmark, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "imdb.md")
    monkeypatch.setattr(benchmark, "FIGURE", tmp_path / "imdb.svg")
    for number, seed in enumerate((2, 0), start=1):
        short = [f"sft_{seed}.batch=8", f"sft_{seed}.dtype=float32", f"base.source={world / 'base'}"]
        flags = ["--data", str(world), "--out", str(tmp_path / f"run-{seed}"), "--seeds", str(seed)]
        monkeypatch.setattr("sys.argv", ["imdb", *flags, "--set", *short])
        assert benchmark.main() == 1  # seeds are missing
        assert f"**{3 - number} of 3 seeds have not been run yet.**" in (tmp_path / "imdb.md").read_text()
    assert (tmp_path / "imdb.svg").read_text().startswith("<svg")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert {path.name for path in kept} == {"seed-0.json", "seed-2.json", "baselines.json"}
    assert benchmark.main() == 1
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = json.loads((tmp_path / "kept" / "seed-2.json").read_text())
    assert len(found["sft"]["log_odds"][0]) == 24 and len(found["sft"]["about"]["train_seconds"]) == 1
    assert [len(curve) for curve in found["sft"]["curves"]] == [3]
    assert found["lstm"]["identity"]["seed"] == [2]
    assert not any(str(tmp_path) in path.read_text() for path in kept)
