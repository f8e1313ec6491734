"""Stage `rounds`: what each round of a flywheel brought, and what it cost.

The model of every round answers the same prompts that nothing was trained on. Reported per round: the hidden
utility; the loss on held-out pretraining text; and forgetting, after Chaudhry et al. 2018 (arXiv:1801.10112,
eq. 3): for each kind of task the best utility of an earlier round less the utility now. The best of several
noisy means is a little too high, so small forgetting is no sign of any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.records import Prompt, read_prompts, read_texts
from instructgpt.errors import ConfigError
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.evaluation.judge import WorldJudge, open_world
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.statistics import mean_interval
from instructgpt.evaluation.world_settings import name_pairs
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.metrics import Progress
from instructgpt.runtime.seeds import derive_seed

FEWEST = 20
"""Prompts of a kind that make its mean worth reporting."""


@dataclass(frozen=True)
class RoundsConfig:
    """Measure the model of every round on the practice world: utility, forgetting, pretraining loss."""

    out: str = ""
    """Run folder to write."""
    world: str = ""
    """Folder of the world stage."""
    models: tuple[str, ...] = ()
    """name=checkpoint of each round, the start first."""
    decisions: tuple[str, ...] = ()
    """name=folder of the promote stage that ended the round; for the table."""
    prompts: str = ""
    """Prompts of the world that nothing was trained on."""
    text: str = ""
    """Held-out pretraining text."""
    count: int = 1000
    """How many prompts, from the first; 0 = all."""
    max_new: int = 48
    """Longest reply, in tokens."""
    seed: int = 0
    """Decides replies and resamples."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError("fewer than two rounds were named", "models", 'write models = ["0={sft}", ...]')


def run(config: RoundsConfig) -> dict[str, Any]:
    """Measure and write; returns the summary.

    Summary: `rounds.NAME.{utility, utility_low, utility_high, pretrain_loss, forgetting, forgetting_worst,
    kinds, win_rate, promoted}`, and `gain`: the utility of the last round less that of the first, on the same
    prompts, with its interval.

    Raises:
        ConfigError, DataError, CheckpointError: see flags, prompts, models.
    """
    models = {name: final_checkpoint(path) for name, path in name_pairs("models", config.models)}
    decisions = {
        name: Path(folder) / "summary.json" for name, folder in name_pairs("decisions", config.decisions)
    }
    inputs: dict[str, str | Path] = {f"model {name}": path for name, path in models.items()}
    inputs |= {f"decision {name}": path for name, path in decisions.items()}
    inputs |= {"prompts": config.prompts, "text": config.text, "world": Path(config.world) / "config.json"}
    with open_run(config.out, "rounds", config, inputs) as folder:
        if folder.finished is not None:
            return folder.finished
        measured = _measure(config, models)
        rows = {name: found.row for name, found in measured.items()}
        for name, forgot in zip(rows, forgetting([row["kinds"] for row in rows.values()]), strict=True):
            rows[name] |= forgot
        for name, path in decisions.items():
            said = json.loads(path.read_text(encoding="utf-8"))
            rows[name] |= {"win_rate": said["win_rate"], "promoted": said["promoted"]}
        first, last = (list(measured.values())[place].utility for place in (0, -1))
        gain = mean_interval([b - a for a, b in zip(first, last, strict=True)], config.seed)
        return folder.finish(
            {"rounds": rows, "gain": gain.row(), "prompts": len(first), "table": table(rows, str(gain))}
        )


@dataclass(frozen=True)
class _Measured:
    utility: list[float]  # one a prompt
    row: dict[str, Any]


def _measure(config: RoundsConfig, models: Mapping[str, Path]) -> dict[str, _Measured]:
    device = pick_device(config.device)
    judge = WorldJudge(open_world(config.world))
    prompts = read_prompts(config.prompts)[: config.count or None]
    texts = read_texts(config.text)
    seed = derive_seed(config.seed, "rounds")
    found: dict[str, _Measured] = {}
    known: dict[Path, _Measured] = {}  # a round whose model was not promoted has that of the round before
    progress = Progress("rounds", len(models))
    for name, path in models.items():
        place = path.resolve()
        if place not in known:
            candidate = Candidate.load(name, path, device)
            answers = answer(candidate, prompts, max_new=config.max_new, seed=seed, source=config.prompts)[0]
            utility = judge.score(prompts, answers.texts)
            mean = mean_interval(utility, config.seed)
            row = {
                "checkpoint": str(path),
                "utility": mean.mean,
                "utility_low": mean.low,
                "utility_high": mean.high,
                "length": answers.length,
                "pretrain_loss": text_loss(candidate.model, candidate.tokenizer, texts).loss,
                "kinds": _by_kind(prompts, utility),
            }
            known[place] = _Measured(utility, row)
        found[name] = _Measured(known[place].utility, dict(known[place].row))
        progress.advance()
    progress.close()
    return found


def _by_kind(prompts: Sequence[Prompt], utility: Sequence[float]) -> dict[str, float]:
    """Mean utility of each category that has enough prompts."""
    groups: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, utility, strict=True):
        groups.setdefault(prompt.category or "", []).append(value)
    return {kind: sum(v) / len(v) for kind, v in sorted(groups.items()) if len(v) >= FEWEST}


def forgetting(kinds: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Of each round: `forgetting`, the mean over kinds of (best utility of an earlier round - utility now),
    and `forgetting_worst`, the kind that lost most. The first round has nothing to forget."""
    found: list[dict[str, Any]] = [{"forgetting": 0.0, "forgetting_worst": None}]
    for number in range(1, len(kinds)):
        lost = {
            kind: max(earlier[kind] for earlier in kinds[:number]) - now
            for kind, now in kinds[number].items()
        }
        worst = max(lost, key=lambda kind: lost[kind], default=None)
        mean = sum(lost.values()) / len(lost) if lost else 0.0
        shown = None if worst is None else {"kind": worst, "lost": lost[worst]}
        found.append({"forgetting": mean, "forgetting_worst": shown})
    return found


def table(rows: Mapping[str, Mapping[str, Any]], gain: str) -> str:
    """One line a round, for the terminal."""
    head = f"{'round':<7}{'utility':>24}{'people prefer it':>26}{'promoted':>10}{'text loss':>11}"
    lines = [f"{head}{'forgetting':>12}  most forgotten"]
    for name, row in rows.items():
        utility = f"{row['utility']:.3f} [{row['utility_low']:.3f}, {row['utility_high']:.3f}]"
        rate = row.get("win_rate")
        wins = f"{rate['mean']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]" if rate else "-"
        promoted = {True: "yes", False: "no", None: "-"}[row.get("promoted")]
        worst = row["forgetting_worst"]
        most = f"{worst['kind']} {worst['lost']:+.3f}" if worst else "-"
        line = f"{name:<7}{utility:>24}{wins:>26}{promoted:>10}{row['pretrain_loss']:>11.3f}"
        lines.append(f"{line}{row['forgetting']:>+12.3f}  {most}")
    return "\n".join([*lines, "", f"utility, last round less first: {gain}"])
