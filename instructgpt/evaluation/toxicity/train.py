"""`eval MODEL --suite toxicity_scorer`: train a scorer of toxicity with the package's own reward model.

From texts with released Perspective scores rankings are made, the less toxic text being the better reply; a
reward model learns them; a line through the logits of the scores turns its reward into a toxicity; and on
prompts that were held out its rank correlation with Perspective is measured, beside the word list's.
`--option scorer=reward:OUT/reward` uses it from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.data.records import to_row, write_jsonl
from instructgpt.errors import ConfigError
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.metrics.rank_correlation import spearman
from instructgpt.evaluation.suite.reading import find
from instructgpt.evaluation.suite.task import Options
from instructgpt.evaluation.tasks.real_toxicity import basic
from instructgpt.evaluation.toxicity.rankings import ScoredText, rankings, read_scored, split
from instructgpt.evaluation.toxicity.scorer import CALIBRATION, TOXICITY_PROMPT, RewardScorer
from instructgpt.evaluation.toxicity.words import WordList
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.reward_model.train import train as train_reward
from instructgpt.runtime.files import write_json
from instructgpt.scoring.reward import load_reward

FILES = ("prompts.jsonl", "realtoxicityprompts*.jsonl", "*real_toxicity*.jsonl", "*real_toxicity*.csv")
_HELD_OUT = 0.2
_NEAREST = 0.005  # scores of 0 and 1 have no logit
_SETTINGS = {"passes": 4, "epochs": 1.0, "lr": 1e-5, "batch": 16}


def train_scorer(
    model: str | Path,
    texts: Sequence[ScoredText],
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    passes: int = 4,
    epochs: float = 1.0,
    lr: float = 1e-5,
    batch: int = 16,
) -> dict[str, Any]:
    """Train into the run folder `out`; returns `rank_correlation` of the new scorer and of the word list on
    the texts of held-out prompts, their number, `slope`, `offset` and the `checkpoint`.

    Args:
        model: language model whose body the reward model starts from.
        texts: with Perspective's scores.
        passes: how often each text is ranked among others.

    Raises:
        ConfigError: there are too few texts.
        See `reward_model.train.train`.
    """
    learnt, held = split(texts, _HELD_OUT, seed)
    if len(learnt) < 12 or len(held) < 3:
        what = f"{len(texts)} texts with scores are too few to learn from and to hold some out"
        raise ConfigError(what, "--data", "give the whole file")
    write_jsonl(out / "rankings.jsonl", map(to_row, rankings(learnt, seed, passes)))
    write_jsonl(out / "held-out.jsonl", map(to_row, rankings(held, seed)))
    reward = train_reward(
        RewardConfig(
            model=str(model),
            data=str(out / "rankings.jsonl"),
            validation=str(out / "held-out.jsonl"),
            out=str(out / "reward"),
            epochs=epochs,
            lr=lr,
            batch=batch,
            baselines=False,
            save_every=0,
            seed=seed,
            device=device,
        )
    )
    trained = load_reward(str(out / "reward"), device if device != "auto" else "cpu")
    rewards = trained.score([TOXICITY_PROMPT] * len(learnt), [one.text for one in learnt])
    slope, offset = calibrate(rewards, [one.toxicity for one in learnt])
    write_json(out / CALIBRATION, {"slope": slope, "offset": offset, "texts": len(learnt)})
    true = [one.toxicity for one in held]
    scores = {
        scorer.name: scorer.score([one.text for one in held])
        for scorer in (RewardScorer(trained, slope, offset), WordList.built_in())
    }
    return {
        "rank_correlation": {name: _finite(spearman(found, true)) for name, found in scores.items()},
        "mean_error": {
            name: float(np.mean(np.abs(np.array(found) - np.array(true)))) for name, found in scores.items()
        },
        "held_out_texts": len(held),
        "learnt_texts": len(learnt),
        "slope": slope,
        "offset": offset,
        "checkpoint": f"reward/{reward['checkpoint']}",
    }


def calibrate(rewards: Sequence[float], toxicities: Sequence[float]) -> tuple[float, float]:
    """(slope, offset) of the least-squares line from rewards to the logits of toxicities.

    Rewards that do not vary get slope 0.
    """
    x = np.asarray(rewards, dtype=np.float64)
    y = np.clip(np.asarray(toxicities, dtype=np.float64), _NEAREST, 1 - _NEAREST)
    y = np.log(y / (1 - y))
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def run(config: EvalConfig) -> dict[str, Any]:
    """The suite, called with the configuration of `eval`; `--option` takes `passes`, `epochs`, `lr`, `batch`.

    Raises:
        ConfigError, DataError: a flag or a row can't be used.
    """
    models = config.specs
    if len(models) != 1:
        cure = "name one language model: instructgpt eval FOLDER --suite toxicity_scorer --data FOLDER"
        raise ConfigError(f"{len(models)} models were named to start the scorer from", "CHECKPOINT", cure)
    options = dict(_SETTINGS)
    for option in config.option:
        name, _, value = option.partition("=")
        if name not in options:
            raise ConfigError(f"there is no option {name!r}", "--option", "use one of " + ", ".join(options))
        options[name] = _positive(name, value)
    files = find(config.data, replace(basic(Options()), name="toxicity_scorer", files=FILES))
    summary = train_scorer(
        models[0],
        read_scored(files),
        Path(config.out),
        seed=config.seed,
        device=config.device,
        passes=int(options["passes"]),
        epochs=options["epochs"],
        lr=options["lr"],
        batch=int(options["batch"]),
    )
    lines = [f"rank correlation with Perspective on {summary['held_out_texts']} texts of held-out prompts:"]
    for name, value in summary["rank_correlation"].items():
        lines.append(f"  {name}: {'none, its scores do not vary' if value is None else format(value, '.3f')}")
    lines.append(f"use it: --option scorer=reward:{config.out}/reward")
    summary["table"] = "\n".join(lines)
    write_json(Path(config.out) / "toxicity-scorer.json", summary)
    return summary


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _positive(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise ConfigError(f"{name} is {value!r}", "--option", "give a number above 0")
    return number
