"""Models side by side on the same prompts, the first being the baseline: `eval` without a suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import Prompt, read_prompts, read_texts, write_jsonl
from instructgpt.errors import ConfigError
from instructgpt.evaluation.answers import Answers, Candidate, answer
from instructgpt.evaluation.divergence import reply_divergence
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.judge import judge_input, judge_spec, load_judge
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.statistics import Estimate, mean_interval, outcomes, win_rate
from instructgpt.maths.length_control import length_controlled_win_rate
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.metrics import Progress

__all__ = ["EvalConfig", "run"]

_SHOWN = 3  # prompts whose replies the terminal shows


def run(config: EvalConfig) -> dict[str, Any]:
    """Measure and write `summary.json` and `samples.jsonl`; returns the summary.

    Summary: `models.NAME.{score, score_low, score_high, length, eos_rate, kl, text_loss}` as far as asked for
    (`kl` in nats per reply against the baseline), `win_rate.NAME_over_BASELINE.{mean, low, high, n}` with
    ties half and a 95 % bootstrap interval over prompts, `win_rate_at_equal_length.NAME_over_BASELINE` by
    logistic regression on the difference in tokens, `judge`, `table`.

    Raises:
        ConfigError, DataError, CheckpointError: a flag, a record or a model can't be used.
    """
    named = _names(config)
    spec, device = judge_spec(config.judge), pick_device(config.device)
    # Read first, so that a mistyped path leaves no run folder behind that the right one would not fit.
    prompts = read_prompts(config.prompts)[: config.count or None] if config.prompts else []
    judge = load_judge(spec, config.seed, device) if spec and prompts else None
    texts = read_texts(config.text) if config.text else []
    with open_run(config.out, "eval", config, _inputs(config, named, spec)) as folder:
        if folder.finished is not None:
            return folder.finished
        baseline: Candidate | None = None
        rows: dict[str, dict[str, Any]] = {}
        answers: dict[str, Answers] = {}
        scores: dict[str, list[float]] = {}
        progress = Progress("eval", len(named))
        for name, path in named.items():
            candidate = Candidate.load(name, path, device)
            baseline = baseline or candidate
            row: dict[str, Any] = {"checkpoint": str(path)}
            if prompts:
                found = answer(
                    candidate,
                    prompts,
                    max_new=config.max_new,
                    temperature=config.temperature,
                    seed=config.seed,
                    source=config.prompts,
                )[0]
                answers[name] = found
                row |= _replies(found, candidate, baseline, config)
            if judge is not None:
                scores[name] = judge.score(prompts, answers[name].texts)
                row |= _score(scores[name], config.seed)
            if texts:
                row["text_loss"] = text_loss(candidate.model, candidate.tokenizer, texts).loss
            rows[name] = row
            progress.advance()
        progress.close()
        rates = _win_rates(scores, config.seed)
        assert isinstance(config.samples, int), "a file of samples is measured elsewhere"
        write_jsonl(folder.folder / "samples.jsonl", _sample_rows(prompts[: config.samples], answers, scores))
        summary = {
            "judge": judge.name if judge is not None else None,
            "models": rows,
            "win_rate": {name: rate.row() for name, rate in rates.items()},
            "win_rate_at_equal_length": _at_equal_length(scores, answers),
            "prompts": len(prompts),
        }
        shown = _sample_rows(prompts[:_SHOWN], answers, scores)
        return folder.finish(summary | {"table": _table(summary, shown)})


def _names(config: EvalConfig) -> dict[str, Path]:
    """Name -> checkpoint folder, in order."""
    parts = config.specs
    if not parts:
        raise ConfigError("no models were named", "--models", "give checkpoints with commas between")
    if not config.prompts and not config.text:
        raise ConfigError("there is nothing to measure", "--prompts, --text", "give prompts, text or both")
    named: dict[str, Path] = {}
    for part in parts:
        name, equals, folder = part.partition("=")
        path = final_checkpoint(folder if equals else part)
        if name in named:
            raise ConfigError(f"two models are called {name}", "--models", "name them: a=FOLDER,b=FOLDER")
        named[name] = path
    return named


def _inputs(config: EvalConfig, named: Mapping[str, Path], spec: str) -> dict[str, str | Path]:
    """What the result depends on, as `open_run` takes it."""
    inputs: dict[str, str | Path] = {f"model {name}": folder for name, folder in named.items()}
    endings = (*JSONL_ENDINGS, *TEXT_ENDINGS)
    for key, value in (("prompts", config.prompts), ("text", config.text)):
        inputs[key] = ",".join(map(str, expand(value, endings))) if value else ""
    if spec:
        inputs["judge"] = judge_input(spec)
    return inputs


def _replies(
    found: Answers, candidate: Candidate, baseline: Candidate, config: EvalConfig
) -> dict[str, float | None]:
    comparable = candidate.tokenizer.fingerprint == baseline.tokenizer.fingerprint
    kl = None
    if comparable and config.temperature == 1.0:
        kl = reply_divergence(candidate.model, baseline.model, found.prompt_ids, found.ids).mean
    return {"length": found.length, "eos_rate": found.eos_rate, "kl": kl}


def _score(values: Sequence[float], seed: int) -> dict[str, float]:
    estimate = mean_interval(values, seed)
    return {"score": estimate.mean, "score_low": estimate.low, "score_high": estimate.high}


def _win_rates(scores: Mapping[str, list[float]], seed: int) -> dict[str, Estimate]:
    names = list(scores)
    return {f"{name}_over_{names[0]}": win_rate(scores[name], scores[names[0]], seed) for name in names[1:]}


def _at_equal_length(scores: Mapping[str, list[float]], answers: Mapping[str, Answers]) -> dict[str, float]:
    """Win rates over the first model with the length of replies held equal (field fault 47)."""
    names = list(scores)
    lengths = {name: torch.tensor([len(ids) for ids in answers[name].ids]) for name in names}
    return {
        f"{name}_over_{names[0]}": length_controlled_win_rate(
            torch.tensor(outcomes(scores[name], scores[names[0]])), lengths[name], lengths[names[0]]
        )
        for name in names[1:]
    }


def _sample_rows(
    prompts: Sequence[Prompt], answers: Mapping[str, Answers], scores: Mapping[str, list[float]]
) -> list[dict[str, Any]]:
    rows = []
    for i, prompt in enumerate(prompts):
        replies = {
            name: {"text": found.texts[i]} | ({"score": scores[name][i]} if name in scores else {})
            for name, found in answers.items()
        }
        rows.append({"id": prompt.id, "prompt": prompt.text, "replies": replies})
    return rows


def _table(summary: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """One line a model, then some replies."""
    columns = {
        "score": "score",
        "kl": "KL",
        "text_loss": "text loss",
        "length": "length",
        "eos_rate": "ended",
    }
    names = list(summary["models"])
    width = max(len(name) for name in [*names, "model"]) + 2
    titles = "".join(f"{title:>11}" for title in columns.values())
    lines = [f"{'model':<{width}}{titles}{'wins over the first':>24}{'at equal length':>18}"]
    for name, row in summary["models"].items():
        values = [row.get(column) for column in columns]
        cells = "".join(f"{'-' if value is None else format(value, '.3f'):>11}" for value in values)
        rate = summary["win_rate"].get(f"{name}_over_{names[0]}")
        even = summary["win_rate_at_equal_length"].get(f"{name}_over_{names[0]}")
        wins = (
            f"{str(Estimate(**rate)) if rate else '-':>24}{'-' if even is None else format(even, '.3f'):>18}"
        )
        lines.append(f"{name:<{width}}{cells}{wins}")
    for sample in samples:
        lines += ["", f"prompt: {sample['prompt']}"]
        for name, reply in sample["replies"].items():
            score = f" ({reply['score']:.3f})" if "score" in reply else ""
            lines.append(f"  {name}{score}: {reply['text']}")
    return "\n".join(lines)
