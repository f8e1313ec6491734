"""Stage `methods` of a pipeline: ways to train a policy beside one another, at equal samples and equal time.

One of the runs sets both budgets: the replies it took and the seconds it trained. Of every other run the
last checkpoint within each budget is measured, on prompts and text that nothing was trained on. Seconds are
those of sampling, scoring and learning; loading and checkpoints are not among them. A method that needs no
reward model is measured a third time, with the seconds of the reward model's training added to its budget.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.records import read_prompts, read_texts
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.evaluation.divergence import reply_divergence
from instructgpt.evaluation.judge import WorldJudge, open_world
from instructgpt.evaluation.methods_report import methods_figure, methods_table
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.statistics import mean_interval
from instructgpt.evaluation.world_settings import name_pairs
from instructgpt.runtime.checkpoint import checkpoints, final_checkpoint, open_run
from instructgpt.runtime.device import pick_device, tune_malloc
from instructgpt.runtime.files import write_text
from instructgpt.runtime.metrics import Progress, read_metrics
from instructgpt.runtime.profile import LEARNING
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.reward import RewardModel

__all__ = ["MethodsConfig", "run"]

SAMPLES, SECONDS, WITH_REWARD = "samples", "seconds", "seconds_with_reward"
"""What is equal at a point: replies, training time, or time with the reward model's training counted too."""
REFERENCE = "sft"
FIGURE = "methods.svg"


@dataclass(frozen=True)
class MethodsConfig:
    """Measure several training runs at equal samples and at equal time."""

    out: str = ""
    """Run folder to write."""
    world: str = ""
    """Folder of the practice world, whose hidden utility is measured."""
    reward: str = ""
    """Reward-model checkpoint."""
    reference: str = ""
    """SFT checkpoint that all runs started from."""
    runs: tuple[str, ...] = ()
    """name=run folder, in the order of the table; their checkpoints are what can be measured."""
    budget: str = "ppo_ptx"
    """Name of the run whose samples and seconds are the budgets."""
    offline: tuple[str, ...] = ()
    """Names of runs that need no reward model."""
    reward_run: str = ""
    """Run folder of the reward model, whose training time those were spared; empty = not counted."""
    prompts: str = ""
    """Prompts that no stage has seen."""
    text: str = ""
    """Held-out pretraining text."""
    count: int = 500
    """How many of the prompts, from the first."""
    max_new: int = 48
    """Longest reply, in tokens."""
    seed: int = 0
    """Decides replies and resamples."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""

    def __post_init__(self) -> None:
        names = [name for name, _ in name_pairs("runs", self.runs)]
        if len(set(names)) < len(names) or REFERENCE in names:
            cure = f"give each run a name of its own, and none the name {REFERENCE}"
            raise ConfigError("two of the models have one name", "runs", cure)
        for key, wanted in (("budget", (self.budget,)), ("offline", self.offline)):
            for name in wanted:
                if name not in names:
                    raise ConfigError(f"there is no run {name!r}", key, "name one of `runs`")


@dataclass(frozen=True)
class Place:
    """A saved checkpoint and what had been spent on it."""

    path: Path
    step: int
    samples: float
    """Replies drawn, or read, until then."""
    seconds: float
    """Of sampling, scoring and learning."""


def run(config: MethodsConfig) -> dict[str, Any]:
    """Measure and write `summary.json` and `methods.svg`; returns the summary.

    Summary: `budget` (`samples`, `seconds`, `reward_seconds`), `points` (rows with `method`, `at` = samples,
    seconds or seconds_with_reward, what was spent, and what was measured), `sft` (measured), `table`.

    Raises:
        ConfigError, DataError, CheckpointError: see flags, prompts, models.
    """
    tune_malloc()
    folders = {name: Path(folder) for name, folder in name_pairs("runs", config.runs)}
    paths = {name: places_of(folder) for name, folder in folders.items()}
    inputs: dict[str, str | Path] = {
        name: ",".join(str(place.path) for place in places) for name, places in paths.items()
    }
    inputs |= {REFERENCE: final_checkpoint(config.reference), "reward": final_checkpoint(config.reward)}
    inputs |= {"world": Path(config.world) / "config.json", "prompts": config.prompts, "text": config.text}
    with open_run(config.out, "methods", config, inputs) as opened:
        if opened.finished is not None:
            return opened.finished
        whole = paths[config.budget][-1]
        spent = {"samples": whole.samples, "seconds": whole.seconds}
        if config.reward_run:
            spent["reward_seconds"] = _seconds_of(Path(config.reward_run))
        chosen = choose(paths, spent, config.offline)
        found = {"budget": spent, **_measure(config, chosen)}
        write_text(opened.folder / FIGURE, methods_figure(found))
        return opened.finish(found | {"figure": FIGURE, "table": methods_table(found)})


def places_of(folder: Path) -> list[Place]:
    """The saved checkpoints of a run, with the samples and seconds that its metrics add up to.

    Raises:
        CheckpointError: there are none, or no metrics.
    """
    known = folder / "config.json"
    settings = json.loads(known.read_text(encoding="utf-8"))["config"] if known.exists() else {}
    rows = {row["step"]: row for row in read_metrics(folder / "metrics.jsonl")}
    seconds, spent = 0.0, {}
    for step in sorted(rows):
        seconds += sum(rows[step].get(f"seconds_{phase}", 0.0) for phase in LEARNING)
        spent[step] = (rows[step].get("samples", step * settings.get("batch", 0)), seconds)
    found = [(path, int(path.name[5:])) for path in checkpoints(folder)]
    places = [Place(path, step, *spent[step]) for path, step in found if step in spent]
    if not places:
        cure = "train it with --save-every 1 --keep 0, or name the folder of a run that has checkpoints"
        raise CheckpointError("this run has no checkpoints with metrics", str(folder), cure)
    return places


def choose(
    paths: Mapping[str, Sequence[Place]], spent: Mapping[str, float], offline: Sequence[str]
) -> list[tuple[str, str, Place]]:
    """(method, at, place): of every run the last checkpoint within each budget; none where the first one is
    beyond it."""
    budgets = {SAMPLES: spent["samples"], SECONDS: spent["seconds"]}
    chosen = []
    for name, places in paths.items():
        mine = dict(budgets)
        if name in offline and "reward_seconds" in spent:
            mine[WITH_REWARD] = spent["seconds"] + spent["reward_seconds"]
        for at, budget in mine.items():
            key = "samples" if at == SAMPLES else "seconds"
            within = [place for place in places if getattr(place, key) <= budget]
            chosen += [(name, at, within[-1])] if within else []
    return chosen


def _seconds_of(folder: Path) -> float:
    path = folder / "summary.json"
    if not path.exists():
        raise CheckpointError("the reward model's run is not finished", str(folder), "run it first")
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _measure(config: MethodsConfig, chosen: Sequence[tuple[str, str, Place]]) -> dict[str, Any]:
    """Every checkpoint once; `points` and `sft`."""
    device, seed = pick_device(config.device), derive_seed(config.seed, "methods")
    judge = WorldJudge(open_world(config.world))
    reward = RewardModel.load(final_checkpoint(config.reward), device)
    prompts, texts = read_prompts(config.prompts)[: config.count], read_texts(config.text)
    reference = Candidate.load(REFERENCE, config.reference, device)

    def measure(candidate: Candidate) -> tuple[dict[str, Any], list[float]]:
        """Its row and the utility of each reply; the same prompts and random keys for every model."""
        answers = answer(candidate, prompts, max_new=config.max_new, seed=seed, source=config.prompts)[0]
        utility = judge.score(prompts, answers.texts)
        scores = reward.score_ids(answers.sequences)
        kl = reply_divergence(candidate.model, reference.model, answers.prompt_ids, answers.ids)
        row = {
            "utility": mean_interval(utility, seed).row(),
            "kl": mean_interval(kl.exact, seed).row(),
            "pretrain_loss": text_loss(candidate.model, candidate.tokenizer, texts).loss,
            "reward": scores.mean().item(),
            "length": answers.length,
            "eos_rate": answers.eos_rate,
        }
        return row, utility

    progress = Progress("methods", 1 + len({place.path for _, _, place in chosen}))
    start, base = measure(reference)
    progress.advance()
    measured: dict[Path, tuple[dict[str, Any], list[float]]] = {}
    for name, _, place in chosen:
        if place.path not in measured:
            measured[place.path] = measure(Candidate.load(name, place.path, device))
            progress.advance()
    progress.close()
    points = []
    yardstick = {at: measured[place.path][1] for name, at, place in chosen if name == config.budget}
    yardstick[WITH_REWARD] = yardstick[SECONDS]
    for name, at, place in chosen:
        row, utility = measured[place.path]
        spent = {"step": place.step, "samples": place.samples, "seconds": place.seconds}
        gains = {"over_sft": base, "over_budget": yardstick[at]}
        points.append(
            {"method": name, "at": at, **spent, **row}
            | {key: _difference(utility, other, seed) for key, other in gains.items()}
            | {"tax": row["pretrain_loss"] - start["pretrain_loss"]}
        )
    return {"budget_run": config.budget, "points": points, REFERENCE: start, "prompts": len(prompts)}


def _difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> dict[str, float]:
    """Mean of ours less theirs, prompt by prompt, with its interval."""
    return mean_interval([a - b for a, b in zip(ours, theirs, strict=True)], seed).row()
