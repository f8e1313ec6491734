"""Verb `sweep`: the alignment-tax dial. PPO-ptx at several ptx coefficients and betas, measured side by side.

Every combination is a complete run folder of `ppo`, and a finished one is not trained again: a sweep that was
stopped goes on, and a longer list adds to it. Each final policy is then measured on prompts and text that no
run has seen, beside the SFT model that all started from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import Prompt, Text, read_prompts, read_texts
from instructgpt.errors import CheckError, ConfigError
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.judge import Judge, judge_input, judge_spec, load_judge
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.position import Position, locate
from instructgpt.evaluation.statistics import mean_interval
from instructgpt.evaluation.sweep_report import sweep_table, write_sweep_report
from instructgpt.evaluation.sweep_runs import train_all
from instructgpt.evaluation.sweep_settings import Point, SweepConfig
from instructgpt.evaluation.tax import Measured, Verdict, judge_dials, pareto_front
from instructgpt.rlhf.prepare import resolve
from instructgpt.runtime.checkpoint import Run, final_checkpoint, open_run
from instructgpt.runtime.device import pick_device, release_memory, tune_malloc
from instructgpt.runtime.files import hash_path, write_json
from instructgpt.runtime.metrics import Progress
from instructgpt.scoring.reward import Reward, load_reward

__all__ = ["SweepConfig", "run"]

START = "start"
_FOLDER = "measured"


def run(config: SweepConfig) -> dict[str, Any]:
    """Train what is missing, measure, compare; returns the summary.

    Writes into `config.out`: a run folder for each combination, `measured/NAME.json` (one value a prompt and
    a document), coefficients.svg, front.svg, sweep.html and summary.json: `start` and `runs` with `reward`,
    `score` (the judge's) and their intervals, `kl` (nats per reply), `pretrain_loss` (nats per token),
    `length`, `eos_rate`; `front` (names of the Pareto front of reward against pretraining loss), `verdict`
    (see `tax`), `failed` (name -> reason).

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, prompts, models, disk.
        CheckError: every run failed.
        Interrupted: Ctrl-C; the same command goes on from there.
    """
    inputs = _inputs(config)
    tune_malloc()
    prompts = read_prompts(config.prompts)[: config.count or None]
    texts = read_texts(config.text)
    with open_run(config.out, "sweep", config.shared(), inputs) as opened:
        # Before the long work: what can't be measured shows on the model that all start from.
        _Meter(config, opened, prompts, texts).measure(START, config.ppo.model)
        release_memory()
        failed = train_all(config, config.points)
        points = [point for point in config.points if point.name not in failed]
        if not points:
            name, reason = next(iter(failed.items()))
            cure = f"mend that, then run the same command again; see the folders in {config.out}"
            raise CheckError(f"no run of the sweep succeeded; {name}: {reason}", config.out, cure)
        meter = _Meter(config, opened, prompts, texts)
        return opened.finish(_summary(opened, config, meter, points, failed))


def _inputs(config: SweepConfig) -> dict[str, str | Path]:
    """What runs and measurements depend on, as `open_run` takes it; refuses what is missing."""
    wanted = {"prompts": "held-out prompts", "text": "held-out pretraining text"}
    for name, what in wanted.items():
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing", f"--{name}", f"give {what}")
    try:
        given = [resolve(config.ppo_of(point)) for point in config.points]
    except ConfigError as error:
        raise ConfigError(error.what, f"of PPO: {error.where}", error.cure) from error
    inputs = {f"ppo.{name}": path for name, path in given[0].items()}
    inputs["prompts"] = ",".join(map(str, expand(config.prompts, JSONL_ENDINGS)))
    inputs["text"] = ",".join(map(str, expand(config.text, (*JSONL_ENDINGS, *TEXT_ENDINGS))))
    inputs["judge"] = judge_input(judge_spec(config.judge))
    return inputs


class _Meter:
    """What all measurements share; each is kept on disk under the hash of its checkpoint."""

    def __init__(
        self, config: SweepConfig, run: Run, prompts: Sequence[Prompt], texts: Sequence[Text]
    ) -> None:
        self.config, self.folder, self.prompts, self.texts = config, run.folder / _FOLDER, prompts, texts
        self.device: torch.device = pick_device(config.ppo.device)
        self.reward: Reward = load_reward(config.ppo.reward, self.device)
        self.judge: Judge | None = None
        if config.judge:
            self.judge = load_judge(judge_spec(config.judge), config.ppo.seed, self.device)
        self.reference = Candidate.load(START, config.ppo.model, self.device)

    def measure(self, name: str, folder: str | Path) -> dict[str, Any]:
        """One value a prompt and a document: `position`, `nats`, `tokens`, from disk if measured before."""
        checkpoint = final_checkpoint(folder)
        if self.config.weights == "ema" and name != START:
            checkpoint = checkpoint / "ema"
        path, made = self.folder / f"{name}.json", hash_path(checkpoint)
        if path.exists():
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if known["hash"] == made:
                return known
        candidate = self.reference if name == START else Candidate.load(name, checkpoint, self.device)
        position = locate(
            candidate,
            self.reference,
            self.reward,
            self.judge,
            self.prompts,
            max_new=self.config.ppo.max_new,
            seed=self.config.ppo.seed,
            source=self.config.prompts,
        )
        loss = text_loss(candidate.model, candidate.tokenizer, self.texts)
        found = {
            "checkpoint": str(checkpoint),
            "hash": made,
            "position": position.row(),
            "nats": loss.nats,
            "tokens": loss.tokens_each,
        }
        write_json(path, found)
        return found


def _summary(
    run: Run, config: SweepConfig, meter: _Meter, points: Sequence[Point], failed: Mapping[str, str]
) -> dict[str, Any]:
    progress = Progress("measuring", 1 + len(points))
    found = {START: meter.measure(START, config.ppo.model)}
    progress.advance()
    for point in points:
        found[point.name] = meter.measure(point.name, Path(config.out) / point.name)
        progress.advance()
    progress.close()
    seed = config.ppo.seed
    rows = {name: _row(values, seed) for name, values in found.items()}
    models = [(START, None), *((point.name, point) for point in points)]
    front = pareto_front([(rows[name]["pretrain_loss"], rows[name]["reward"]) for name, _ in models])
    measured = {name: _measured(name, point, found[name]) for name, point in models}
    usual = config.points[0].beta
    runs = [measured[point.name] for point in points]
    verdict = judge_dials(measured[START], runs, usual, seed)
    summary: dict[str, Any] = {
        "prompts": len(meter.prompts),
        "documents": len(meter.texts),
        "reward_from": meter.reward.name,
        **({"judge": meter.judge.name} if meter.judge is not None else {}),
        "usual_beta": usual,
        "start": rows[START],
        "runs": [
            {"name": point.name, "ptx_coef": point.ptx_coef, "beta": point.beta, **rows[point.name]}
            for point in points
        ],
        "front": [models[i][0] for i in front],
        "failed": dict(failed),
        "verdict": _verdict_row(verdict) if verdict is not None else None,
    }
    return summary | {"table": sweep_table(summary)} | write_sweep_report(run.folder, summary)


def _measured(name: str, point: Point | None, found: Mapping[str, Any]) -> Measured:
    return Measured(
        name,
        point.ptx_coef if point is not None else 0.0,
        point.beta if point is not None else 0.0,
        np.array(found["position"]["reward"]),
        np.array(found["nats"]),
        np.array(found["tokens"], dtype=np.float64),
    )


def _row(found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    position = Position(**found["position"])
    row: dict[str, Any] = {"checkpoint": found["checkpoint"]} | position.means()
    kinds = {"reward": position.reward} | ({"score": position.score} if position.score else {})
    for name, values in kinds.items():
        interval = mean_interval(values, seed)
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row | {"pretrain_loss": sum(found["nats"]) / sum(found["tokens"])}


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict) | {"holds": verdict.holds}
