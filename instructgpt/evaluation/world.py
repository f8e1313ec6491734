"""The demo's evaluation: every model of the recipe measured on the practice world, where utility is known.

Each model's replies are sampled once and measured in every way: hidden utility, reward, divergence from the
SFT model that PPO started from, length, and the model's loss on held-out pretraining text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from instructgpt.data.records import Prompt, Text, read_prompts, read_rankings, read_texts, write_jsonl
from instructgpt.evaluation.answers import Answers, Candidate, answer
from instructgpt.evaluation.collect import agreement
from instructgpt.evaluation.divergence import reply_divergence
from instructgpt.evaluation.judge import RewardJudge, WorldJudge, open_world
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.result_table import result_table
from instructgpt.evaluation.reward_accuracy import accuracy, compare_rewards, ranked_by, scores_of
from instructgpt.evaluation.statistics import Estimate, mean_interval, win_rate
from instructgpt.evaluation.world_settings import (
    REFERENCE,
    WorldEvalConfig,
    checkpoints_of,
    inputs_of,
    name_pairs,
)
from instructgpt.runtime.checkpoint import Run, final_checkpoint, open_run
from instructgpt.runtime.device import pick_device, tune_malloc
from instructgpt.runtime.metrics import Progress
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.reward import RewardModel

__all__ = ["WorldEvalConfig", "run"]

BEST_SFT = "sft_best"


@dataclass
class Measured:
    """What one model's replies are worth, one number a prompt, and the means that the table shows."""

    answers: Answers
    utility: list[float]
    reward: list[float]
    row: dict[str, Any] = field(default_factory=dict)


def run(config: WorldEvalConfig) -> dict[str, Any]:
    """Measure and write `summary.json` and `samples.jsonl`; returns the summary.

    Summary: `reward_model`, `models`, `win_rate`, `gain`, `tax`, `curves` (see docs), `table` as text.
    """
    tune_malloc()
    models = dict(name_pairs("models", config.models))
    paths = dict(name_pairs("paths", config.paths))
    with open_run(config.out, "evaluate", config, inputs_of(config)) as run:
        if run.finished is not None:
            return run.finished
        return run.finish(_Evaluation(config, models, paths, run).measure())


class _Evaluation:
    """What all measurements share: prompts, judges, the reference; open for the length of one `run`."""

    def __init__(
        self, config: WorldEvalConfig, models: dict[str, str], paths: dict[str, str], run: Run
    ) -> None:
        self.config, self.models, self.paths, self.run = config, models, paths, run
        self.device = pick_device(config.device)
        self.judge = WorldJudge(open_world(config.world))
        self.reward = RewardModel.load(final_checkpoint(config.reward), self.device)
        self.prompts = read_prompts(config.prompts)[: config.main_prompts]
        self.texts: list[Text] = read_texts(config.text)
        self.reference = Candidate.load(REFERENCE, models[REFERENCE], self.device)
        self.seed = derive_seed(config.seed, "evaluate")

    def measure(self) -> dict[str, Any]:
        """All of the summary but time and memory."""
        config = self.config
        contenders = checkpoints_of(config.contenders)
        tracks = {name: checkpoints_of([folder]) for name, folder in self.paths.items()}
        steps = 1 + max(1, len(contenders)) + len(self.models) + sum(map(len, tracks.values()))
        progress = Progress("evaluate", steps)
        reward_model = self._reward_model()
        progress.advance()
        best, contest = self._best_sft(contenders, progress)
        measured = self._models(best, progress)
        curves = {name: self._curve(track, measured[REFERENCE], progress) for name, track in tracks.items()}
        curves["best_of_n"] = self._best_of_n_curve(measured)
        progress.close()
        win_rates = self._win_rates(measured)
        summary = {
            "reward_model": reward_model,
            "models": {name: found.row for name, found in measured.items()},
            "best_sft": {"checkpoint": str(best), "contenders": contest},
            "win_rate": {name: estimate.row() for name, estimate in win_rates.items()},
            "gain": _gains(measured, self.seed),
            "tax": _taxes(measured),
            "curves": curves,
        }
        self._write_samples(measured)
        return summary | {"table": result_table(summary)}

    def _reward_model(self) -> dict[str, Any]:
        """Accuracy on held-out rankings: against the labelers and against the true order."""
        config = self.config
        held_out, second = read_rankings(config.rankings_valid), read_rankings(config.rankings_second)
        training = read_rankings(config.rankings)
        scores = scores_of(RewardJudge(self.reward).score, held_out)
        utilities = scores_of(self.judge.score, held_out)
        labels = compare_rewards(scores, held_out, training)
        agree, pairs = agreement(held_out, second)
        return {
            **compare_rewards(scores, ranked_by(utilities, held_out), training),
            "labels": {**labels, "true_utility": accuracy(utilities, held_out)[0]},
            "agreement": agree,
            "agreement_pairs": pairs,
            "prompts": len(held_out),
        }

    def _best_sft(self, contenders: Sequence[Path], progress: Progress) -> tuple[Path, list[dict[str, Any]]]:
        """The SFT checkpoint of the highest hidden utility on the dev prompts, and all that competed."""
        prompts = read_prompts(self.config.dev_prompts)[: self.config.dev_count]
        rows: list[dict[str, Any]] = []
        paths = [*contenders] or [final_checkpoint(self.models[REFERENCE])]
        for path in paths:
            candidate = Candidate.load(path.name, path, self.device)
            seed = derive_seed(self.seed, "dev")
            answers = answer(candidate, prompts, max_new=self.config.max_new, seed=seed)[0]
            utility = self.judge.score(prompts, answers.texts)
            rows.append({"checkpoint": str(path), "utility": sum(utility) / len(utility)})
            progress.advance()
        best = max(range(len(rows)), key=lambda i: rows[i]["utility"])
        return paths[best], rows

    def _models(self, best: Path, progress: Progress) -> dict[str, Measured]:
        """Every model of the table, best-of-n after `sft`, and the best SFT (which may be `sft` itself)."""
        config = self.config
        few = self.prompts[: config.others_prompts]
        measured: dict[str, Measured] = {}
        same = best == final_checkpoint(self.models[REFERENCE])
        for name, folder in self.models.items():
            candidate = Candidate.load(name, folder, self.device)
            whole = name in config.main or (name == REFERENCE and same)
            measured[name] = self._one(candidate, self.prompts if whole else few)
            if name == REFERENCE:
                measured |= self._best_of_n(measured[name], few)
                measured[BEST_SFT] = (
                    measured[name]
                    if same
                    else self._one(Candidate.load(BEST_SFT, best, self.device), self.prompts)
                )
            progress.advance()
        return measured

    def _one(self, candidate: Candidate, prompts: Sequence[Prompt]) -> Measured:
        """Sample once, measure everything."""
        answers = answer(candidate, prompts, max_new=self.config.max_new, seed=self.seed)[0]
        found = self._judged(answers)
        # Its interval is narrow on few prompts already, and it is the dearest of the measurements.
        few = answers.head(self.config.others_prompts)
        divergence = reply_divergence(candidate.model, self.reference.model, few.prompt_ids, few.ids)
        kl = mean_interval(divergence.exact, self.seed)
        loss = text_loss(candidate.model, candidate.tokenizer, self.texts).loss
        found.row |= {"kl": kl.mean, "kl_low": kl.low, "kl_high": kl.high, "pretrain_loss": loss}
        return found

    def _judged(self, answers: Answers) -> Measured:
        utility = self.judge.score(answers.prompts, answers.texts)
        return self._means(answers, utility, self.reward.score_ids(answers.sequences).tolist())

    def _means(self, answers: Answers, utility: list[float], reward: list[float]) -> Measured:
        interval = mean_interval(utility, self.seed)
        row = {
            "utility": interval.mean,
            "utility_low": interval.low,
            "utility_high": interval.high,
            "reward": sum(reward) / len(reward),
            "length": answers.length,
            "eos_rate": answers.eos_rate,
            "prompts": len(reward),
        }
        return Measured(answers, utility, reward, row)

    def _best_of_n(self, first: Measured, prompts: Sequence[Prompt]) -> dict[str, Measured]:
        """Best of 2, 4, ... replies by the reward model; the first of them are the SFT model's own."""
        n = self.config.best_of
        rest = answer(self.reference, prompts, samples=n, max_new=self.config.max_new, seed=self.seed)[1:]
        groups = [_head(first, len(prompts)), *(self._judged(answers) for answers in rest)]
        found = {}
        for count in _powers_of_two(n):
            best = [
                max(groups[:count], key=lambda group, i=i: group.reward[i])  # type: ignore[misc]
                for i in range(len(prompts))
            ]
            replies = tuple(group.answers.replies[i] for i, group in enumerate(best))
            chosen = self._means(
                replace(groups[0].answers, replies=replies),
                [group.utility[i] for i, group in enumerate(best)],
                [group.reward[i] for i, group in enumerate(best)],
            )
            # The bound log n - (n - 1) / n on KL(best-of-n, reference), reached where no two replies tie.
            chosen.row |= {
                "kl": math.log(count) - (count - 1) / count,
                "pretrain_loss": first.row["pretrain_loss"],
            }
            found[f"best_of_{count}"] = chosen
        return found

    def _curve(self, track: Sequence[Path], start: Measured, progress: Progress) -> list[dict[str, float]]:
        """One point a saved checkpoint of a PPO run, after one for the SFT model it started from."""
        prompts = self.prompts[: self.config.path_prompts]
        first = self._judged(start.answers.head(len(prompts)))
        points = [_point(0, 0.0, first)]
        for path in track:
            candidate = Candidate.load(path.name, path, self.device)
            answers = answer(candidate, prompts, max_new=self.config.max_new, seed=self.seed)[0]
            kl = reply_divergence(candidate.model, self.reference.model, answers.prompt_ids, answers.ids)
            points.append(_point(_step(path), kl.mean, self._judged(answers)))
            progress.advance()
        return points

    def _best_of_n_curve(self, measured: Mapping[str, Measured]) -> list[dict[str, float]]:
        """Best of 1, 2, 4, ...: utility and reward against the bound on the KL."""
        start = _head(measured[REFERENCE], self.config.others_prompts)
        points = [{"n": 1, "kl": 0.0, "utility": _mean(start.utility), "reward": _mean(start.reward)}]
        for count in _powers_of_two(self.config.best_of):
            row = measured[f"best_of_{count}"].row
            points.append({"n": count} | {name: row[name] for name in ("kl", "utility", "reward")})
        return points

    def _win_rates(self, measured: Mapping[str, Measured]) -> dict[str, Estimate]:
        """Under the hidden utility. Every model over the best SFT (`_over_sft`) and over best-of-n."""
        found = {}
        best_of = f"best_of_{self.config.best_of}"
        for name, ours in measured.items():
            for short, other in (("sft", BEST_SFT), (best_of, best_of)):
                if name in (other, BEST_SFT) or (name == REFERENCE and measured[BEST_SFT] is ours):
                    continue
                theirs = measured[other]
                n = min(len(ours.utility), len(theirs.utility))
                found[f"{name}_over_{short}"] = win_rate(ours.utility[:n], theirs.utility[:n], self.seed)
        return found

    def _write_samples(self, measured: Mapping[str, Measured]) -> None:
        """Prompts with every model's reply, for the report and for reading."""
        rows = []
        for i, prompt in enumerate(self.prompts[: min(self.config.samples, self.config.others_prompts)]):
            replies = {
                name: {
                    "text": found.answers.replies[i].text,
                    "utility": found.utility[i],
                    "reward": found.reward[i],
                }
                for name, found in measured.items()
            }
            row = {"id": prompt.id, "category": prompt.category, "group": prompt.group}
            rows.append({"prompt": prompt.text, **row, "replies": replies})
        write_jsonl(self.run.folder / "samples.jsonl", rows)


def _gains(measured: Mapping[str, Measured], seed: int) -> dict[str, dict[str, Any]]:
    """Utility above the SFT model that PPO started from, and above the best SFT, on the same prompts."""
    gains: dict[str, dict[str, Any]] = {}
    for label, other in (("over_sft", REFERENCE), ("over_sft_best", BEST_SFT)):
        theirs = measured[other].utility
        gains[label] = {
            name: mean_interval([a - b for a, b in zip(found.utility, theirs, strict=False)], seed).row()
            for name, found in measured.items()
            if found is not measured[other] and name != "base"
        }
    return gains


def _taxes(measured: Mapping[str, Measured]) -> dict[str, float]:
    """Loss on pretraining text above the SFT model's, nats per token."""
    start = measured[REFERENCE].row["pretrain_loss"]
    return {
        name: found.row["pretrain_loss"] - start
        for name, found in measured.items()
        if not name.startswith("best_of") and name != REFERENCE
    }


def _point(iteration: int, kl: float, found: Measured) -> dict[str, float]:
    names = ("utility", "utility_low", "utility_high", "reward", "length", "eos_rate")
    return {"iteration": iteration, "kl": kl} | {name: found.row[name] for name in names}


def _head(found: Measured, count: int) -> Measured:
    return Measured(found.answers.head(count), found.utility[:count], found.reward[:count], found.row)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _powers_of_two(n: int) -> list[int]:
    """2, 4, 8, ... below n, then n."""
    return [2**i for i in range(1, n.bit_length()) if 2**i < n] + ([n] if n > 1 else [])


def _step(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
