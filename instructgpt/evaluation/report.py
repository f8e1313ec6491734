"""Stage `report`: what a run came to, as one HTML file that opens offline."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.evaluation import figures
from instructgpt.evaluation.figures import colour, label
from instructgpt.evaluation.page import render_page
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.files import write_text
from instructgpt.runtime.metrics import read_metrics

FILE = "report.html"
_READ = ("summary.json", "metrics.jsonl", "samples.jsonl")
_COLUMNS = {
    "utility": "utility",
    "score": "score",
    "reward": "reward",
    "kl": "KL, nats",
    "pretrain_loss": "text loss",
    "text_loss": "text loss",
    "length": "length",
    "eos_rate": "ended",
    "prompts": "prompts",
}
_FORMATS = {"length": ".1f", "prompts": "d"}
_EACH = 3  # samples of each kind


@dataclass(frozen=True)
class ReportConfig:
    """Write the HTML report of a run folder."""

    out: str = ""
    """Folder to write report.html into."""
    folder: str = ""
    """Run folder whose stages (lineage.json) are reported."""
    title: str = "InstructGPT on the practice world"
    """Heading of the page."""
    title_zh: str = "练习世界上的 InstructGPT 全流程"
    """Chinese line below it."""
    before: str = "sft"
    """Model whose replies the samples show first."""
    after: str = "ppo_ptx"
    """Model whose replies they are compared with."""
    seed: int = 0
    """Draws the random samples."""


@dataclass(frozen=True)
class StageData:
    """What a finished stage left in its folder."""

    name: str
    verb: str
    folder: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]] = field(default_factory=list)


def write(config: ReportConfig) -> dict[str, Any]:
    """Write the report; the summary's `report` is its path."""
    stages = read_stages(config.folder)
    inputs = {
        stage.name: ",".join(str(stage.folder / file) for file in _READ if (stage.folder / file).exists())
        for stage in stages
    }
    with open_run(config.out, "report", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        path = run.folder / FILE
        write_text(path, build(config, stages))
        return run.finish({"report": str(path), "stages": len(stages)})


def read_stages(folder: str | Path) -> list[StageData]:
    """The finished stages of a run folder, in order.

    Raises:
        ConfigError: it is not a run's folder.
    """
    path = Path(folder) / "lineage.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError) as error:
        cure = "name the folder of `instructgpt run` or `instructgpt demo`"
        raise ConfigError(f"this is not the folder of a run: {error}", str(path), cure) from error
    stages = []
    for entry in entries:
        place = Path(entry["folder"])
        if entry["verb"] == "report" or not (place / "summary.json").exists():
            continue
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        metrics = read_metrics(place / "metrics.jsonl")
        stages.append(StageData(entry["name"], entry["verb"], place, entry["config"], summary, metrics))
    return stages


def build(config: ReportConfig, stages: Sequence[StageData]) -> str:
    """The page; a section is left out where its stage did not run."""
    evaluated = [stage for stage in stages if stage.verb in ("evaluate", "eval")]
    sections: list[dict[str, Any]] = []
    for stage in evaluated:
        sections.append(_result_section(stage, config))
        sections += _win_sections(stage)
    sections += _loss_section(stages)
    sections += _reward_section(stages)
    sections += _ppo_section(stages)
    for stage in evaluated:
        sections += _curve_sections(stage)
        sections += _sample_section(stage, config)
    sections.append(_stage_section(stages))
    return render_page(
        title=config.title,
        title_zh=config.title_zh,
        lead="Results are measured on prompts and text that no stage trained on. Intervals are 95 % "
        "bootstrap intervals over prompts; ties count half.",
        cards=[card for stage in evaluated for card in _cards(stage, config)],
        sections=sections,
        footer=f"Run folder: {config.folder}. Units: KL in nats per reply at temperature 1 against the SFT "
        "model, losses in nats per token, lengths in tokens, times in seconds.",
    )


def _cards(stage: StageData, config: ReportConfig) -> list[dict[str, str]]:
    summary, cards = stage.summary, []
    if model := summary.get("reward_model"):
        best = max(model["baselines"].values())
        note = f"best baseline {best:.3f}; chance 0.5"
        cards.append(
            {"title": "Reward model, unseen pairs", "value": f"{model['accuracy']:.3f}", "note": note}
        )
    for name, rate in summary.get("win_rate", {}).items():
        if name.startswith(f"{config.after}_over_"):
            title = f"{label(config.after)} wins over {label(_over(name, summary))}"
            note = f"95 % interval {rate['low']:.3f} to {rate['high']:.3f}, {rate['n']} prompts"
            cards.append({"title": title, "value": f"{rate['mean']:.3f}", "note": note})
    gain = summary.get("gain", {}).get("over_sft_best", {}).get(config.after)
    if gain:
        note = f"95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}"
        title = "Hidden utility above best SFT"
        cards.append({"title": title, "value": f"{gain['mean']:+.3f}", "note": note})
    return cards


def _over(name: str, summary: Mapping[str, Any]) -> str:
    """The baseline in `ppo_ptx_over_sft`; in a world evaluation `sft` there is the best SFT."""
    other = name.split("_over_", 1)[1]
    return "sft_best" if other == "sft" and "best_sft" in summary else other


def _result_section(stage: StageData, config: ReportConfig) -> dict[str, Any]:
    models = stage.summary["models"]
    columns = [key for key in _COLUMNS if any(row.get(key) is not None for row in models.values())]
    rows = []
    for name, row in models.items():
        cells = [
            "–" if row.get(key) is None else format(row[key], _FORMATS.get(key, ".3f")) for key in columns
        ]
        rows.append(
            {"name": label(name), "colour": colour(name), "cells": cells, "main": name == config.after}
        )
    note = "KL of best-of-n is its bound log n − (n − 1)/n." if any("best_of" in n for n in models) else ""
    return {
        "title": "Results",
        "zh": "结果：各模型在未见过的提示上的表现",
        "note": note,
        "table": {"head": ["model", *(_COLUMNS[key] for key in columns)], "rows": rows},
    }


def _win_sections(stage: StageData) -> list[dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for name, rate in stage.summary.get("win_rate", {}).items():
        groups.setdefault(_over(name, stage.summary), {})[name.split("_over_", 1)[0]] = rate
    if not groups:
        return []
    plots = [figures.win_rates(rates, baseline) for baseline, rates in groups.items()]
    by = stage.summary.get("judge") or "the hidden utility"
    return [{"title": "Win rates", "zh": "胜率与置信区间", "note": f"Judged by {by}.", "figures": plots}]


def _loss_section(stages: Sequence[StageData]) -> list[dict[str, Any]]:
    runs = {
        stage.name: stage.metrics for stage in stages if stage.verb in ("pretrain", "sft") and stage.metrics
    }
    if not runs:
        return []
    title, zh = "Training and validation loss", "训练损失与验证损失"
    return [{"title": title, "zh": zh, "figures": [figures.losses(runs)]}]


def _reward_section(stages: Sequence[StageData]) -> list[dict[str, Any]]:
    """By the practice world's evaluation where there is one, else what the reward stage measured itself."""
    by_world = [stage.summary["reward_model"] for stage in stages if "reward_model" in stage.summary]
    by_people = [_people_accuracy(stage.summary) for stage in stages if stage.verb == "reward"]
    found = next((entry for entry in by_world + by_people if entry.get("pairs")), None)
    if found is None:
        return []
    note = f"{found['pairs']} pairs of replies to unseen prompts."
    if "agreement" in found:
        note += (
            f" Two labelers agree on {found['agreement']:.3f} of the pairs that neither ties, so no model "
            "can agree with them on all."
        )
    plots = [figures.reward_accuracy(found)]
    return [{"title": "Reward model", "zh": "奖励模型的准确率与简单基线", "note": note, "figures": plots}]


def _people_accuracy(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A reward stage's summary in the shape of the world evaluation's `reward_model`."""
    names = {"longer": "longer_wins", "shorter": "shorter_wins", "bag_of_words": "bag_of_words"}
    baselines = {name: summary[key] for name, key in names.items() if summary.get(key) is not None}
    return {
        "accuracy": summary.get("accuracy"),
        "pairs": summary.get("pairs"),
        "baselines": baselines,
        "order": "people's order",
    }


def _ppo_section(stages: Sequence[StageData]) -> list[dict[str, Any]]:
    runs = {stage.name: stage.metrics for stage in stages if stage.verb == "ppo"}
    if not runs:
        return []
    return [
        {
            "title": "PPO, iteration by iteration",
            "zh": "PPO 训练过程：奖励、KL、长度、熵",
            "note": "Measured on the replies that each iteration trains on.",
            "figures": [figures.ppo_curves(runs)],
        }
    ]


def _curve_sections(stage: StageData) -> list[dict[str, Any]]:
    sections = []
    if curves := stage.summary.get("curves"):
        sections.append(
            {
                "title": "Reward and hidden utility against KL",
                "zh": "奖励与真实效用随 KL 的变化（过度优化）",
                "note": "Each point is a saved checkpoint. Where the left curve still rises and the right "
                "one falls, the policy exploits the reward model's errors: with β near 0 nothing holds it "
                "back. Best of n is drawn at the bound on its KL; bands are 95 % intervals.",
                "figures": [figures.over_optimisation(curves)],
            }
        )
    if taxes := stage.summary.get("tax"):
        shown = {name: value for name, value in taxes.items() if name not in ("base", "sft_best")}
        sections.append(
            {
                "title": "Alignment tax",
                "zh": "对齐税：预训练文本上的损失变化",
                "note": "What training by PPO cost on plain text, and what the pretraining mix (ptx) saves.",
                "figures": [figures.tax(shown)],
            }
        )
    return sections


def choose_samples(
    rows: Sequence[Mapping[str, Any]], before: str, after: str, measure: str, seed: int
) -> list[tuple[str, Mapping[str, Any]]]:
    """(reason, row) by rule: the largest gains, the largest losses, and some at random; none twice."""
    both = [row for row in rows if before in row["replies"] and after in row["replies"]]
    both.sort(key=lambda row: row["replies"][before][measure] - row["replies"][after][measure])
    gains, rest = both[:_EACH], both[_EACH:]
    losses = rest[::-1][:_EACH]
    rest = rest[: len(rest) - len(losses)]
    drawn = random.Random(seed).sample(rest, min(_EACH, len(rest)))
    reasons = (("largest gain", gains), ("largest loss", losses), ("drawn at random", drawn))
    return [(reason, row) for reason, group in reasons for row in group]


def _sample_section(stage: StageData, config: ReportConfig) -> list[dict[str, Any]]:
    rows = read_metrics(stage.folder / "samples.jsonl")
    names = list(rows[0]["replies"]) if rows else []
    if len(names) < 2:
        return []
    before = config.before if config.before in names else names[0]
    after = config.after if config.after in names else names[-1]
    measure = next((key for key in ("utility", "score") if key in rows[0]["replies"][after]), "")
    if not measure:
        return []
    samples = []
    for why, row in choose_samples(rows, before, after, measure, config.seed):
        old, new = row["replies"][before], row["replies"][after]
        trend = "up" if new[measure] > old[measure] else "down" if new[measure] < old[measure] else ""
        replies = [
            {"name": label(name), "text": reply["text"], "measure": _measure(reply), "trend": mark}
            for name, reply, mark in ((before, old, ""), (after, new, trend))
        ]
        about = " · ".join(part for part in (why, row.get("category"), row.get("group")) if part)
        samples.append({"why": about, "prompt": row["prompt"], "replies": replies})
    return [
        {
            "title": "Before and after",
            "zh": "前后对比：最大进步、最大退步与随机抽取",
            "note": f"{_EACH} largest gains, {_EACH} largest losses and {_EACH} random ones of {len(rows)} "
            f"prompts, by {measure}; one sampled reply a model.",
            "samples": samples,
        }
    ]


def _measure(reply: Mapping[str, Any]) -> str:
    shown = [f"{key} {reply[key]:.2f}" for key in ("utility", "score", "reward") if key in reply]
    return ", ".join(shown)


def _stage_section(stages: Sequence[StageData]) -> dict[str, Any]:
    rows = [
        {"name": stage.name, "cells": [stage.verb, f"{stage.summary['seconds']:.1f}", str(stage.folder)]}
        for stage in stages
    ]
    total = sum(stage.summary["seconds"] for stage in stages)
    memory = max((stage.summary["peak_memory_mib"] for stage in stages), default=0.0)
    return {
        "title": "Stages",
        "zh": "各阶段用时",
        "note": f"{total:.0f} seconds in all, at most {memory:.0f} MiB of memory.",
        "table": {"head": ["stage", "verb", "seconds", "folder"], "rows": rows},
    }
