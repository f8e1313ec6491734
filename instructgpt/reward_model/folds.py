"""`reward --folds N`: does the model predict labelers that it has not learned from? ([P] 4.1 and E.2.)

Labelers are put into N groups. Fold k trains on the rankings of all groups but the k-th and is measured on
the same held-out prompts twice: on the rankings of its own labelers and on those of group k.

    OUT/fold-1/ .. fold-N/                      complete runs
              data/{train,own,held_out}.jsonl   what the fold trained on and was measured on
        summary.json                            accuracies, mean and standard error over folds
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import write_jsonl
from instructgpt.data.records import Ranking, to_row
from instructgpt.errors import DataError
from instructgpt.reward_model.comparisons import encode, inputs_of, longest, read_parts
from instructgpt.reward_model.measure import agreement
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.reward_model.subruns import train_in_turn
from instructgpt.reward_model.table import folds_table
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import pick_device
from instructgpt.scoring.reward import RewardModel


@dataclass(frozen=True)
class Fold:
    """One split by labelers.

    Attributes:
        labelers: those whose rankings are kept out of training.
        train: the other labelers' rankings of training prompts.
        own: the other labelers' rankings of held-out prompts.
        held_out: rankings of held-out prompts by `labelers`.
    """

    labelers: tuple[str, ...]
    train: list[Ranking]
    own: list[Ranking]
    held_out: list[Ranking]


def cross_validate(
    config: RewardConfig, train_one: Callable[[RewardConfig], dict[str, Any]]
) -> dict[str, Any]:
    """Train and measure fold after fold, or go on where the folder stopped; returns the summary.

    Summary: `folds` (rows), `own`, `held_out`, `difference` ({mean, standard_error} over folds of the
    accuracy, of own minus held out), `groups_from` ("labeler" or "group"), `left_out` (rankings without a
    labeler, or by one without training data), `training_seconds` over all restarts, `table`. There is no
    `checkpoint`: a model for use is trained on all labelers.

    Raises:
        DataError: there are fewer labelers than folds, or a fold has nothing to train or to be measured on.
        Else as `train_one`.
    """
    _, inputs = inputs_of(config)
    with open_run(config.out, "reward", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        train, held_out = read_parts(config)
        folds, source = make_folds(train, held_out, config.folds, config.data)
        configs = [
            _config(config, fold, run.folder / f"fold-{number}") for number, fold in enumerate(folds, start=1)
        ]
        runs = train_in_turn(configs, "fold", train_one)
        rows = [
            _row(config, number, fold, found)
            for number, (fold, found) in enumerate(zip(folds, runs, strict=True), start=1)
        ]
        both = [row for row in rows if row["own_pairs"] and row["held_out_pairs"]]
        if len(both) < 2:
            raise DataError(
                "held-out replies that fit into the model's context are left in fewer than two folds",
                config.data,
                "raise --max-length, or give shorter rankings",
            )
        own, other = ([row[f"{name}_accuracy"] for row in both] for name in ("own", "held_out"))
        means = {
            "own": _mean(own),
            "held_out": _mean(other),
            "difference": _mean([a - b for a, b in zip(own, other, strict=True)]),
        }
        people = {labeler for fold in folds for labeler in fold.labelers}
        return run.finish(
            {
                "folds": rows,
                **means,
                "groups_from": source,
                "left_out": sum(ranking.labeler not in people for ranking in [*train, *held_out]),
                "training_seconds": round(sum(found["seconds"] for found in runs), 2),
                "table": folds_table(rows, means),
            }
        )


def make_folds(
    train: Sequence[Ranking], held_out: Sequence[Ranking], count: int, where: str
) -> tuple[list[Fold], str]:
    """The folds, and what the groups were made from: "group" or "labeler".

    Where every labeler's rankings carry one `group` and there are at least `count` of them, groups of
    labelers stay whole. Else labelers are taken in the order of their ids and cut into `count` parts of like
    size: neighbours in that order often share a vendor or a month, so that a fold keeps out people of a kind.
    """
    known = [ranking for ranking in train if ranking.labeler is not None]
    units, source = _units(known, count)
    if len(units) < count:
        raise DataError(
            f"--folds {count} needs rankings by at least {count} labelers, these name {len(units)}",
            where,
            'give each ranking a "labeler", or use fewer --folds',
        )
    folds = []
    for number in range(count):
        cut = units[number * len(units) // count : (number + 1) * len(units) // count]
        labelers = {labeler for unit in cut for labeler in unit}
        others = {labeler for unit in units for labeler in unit} - labelers
        folds.append(
            Fold(
                tuple(sorted(labelers)),
                [ranking for ranking in known if ranking.labeler in others],
                [ranking for ranking in held_out if ranking.labeler in others],
                [ranking for ranking in held_out if ranking.labeler in labelers],
            )
        )
        _check(folds[-1], number + 1, where)
    return folds, source


def _units(rankings: Iterable[Ranking], count: int) -> tuple[list[list[str]], str]:
    """Labelers in parts that stay together, sorted: by given group, or each alone."""
    groups: dict[str, set[str | None]] = {}
    for ranking in rankings:
        groups.setdefault(str(ranking.labeler), set()).add(ranking.prompt.group)
    given = {labeler: next(iter(found)) for labeler, found in groups.items() if len(found) == 1}
    names = {name for name in given.values() if name is not None}
    if len(given) == len(groups) and None not in given.values() and len(names) >= count:
        return [
            sorted(who for who, group in given.items() if group == name) for name in sorted(names)
        ], "group"
    return [[labeler] for labeler in sorted(groups)], "labeler"


def _check(fold: Fold, number: int, where: str) -> None:
    """Every part needs a pair, found before the first fold is trained."""
    needs = {
        "training rankings by the other labelers": fold.train,
        "held-out rankings by the other labelers": fold.own,
        f"held-out rankings by {', '.join(fold.labelers)}": fold.held_out,
    }
    for what, rankings in needs.items():
        if not any(len({reply.rank for reply in ranking.responses}) > 1 for ranking in rankings):
            raise DataError(
                f"fold {number} has no {what} with two replies of different rank",
                where,
                "hold out more with --validation-share or --validation, or use fewer --folds",
            )


def _config(config: RewardConfig, fold: Fold, folder: Path) -> RewardConfig:
    """The fold's settings, after its data were written."""
    for name in ("train", "own", "held_out"):
        write_jsonl(folder / "data" / f"{name}.jsonl", map(to_row, getattr(fold, name)))
    data, validation = (str(folder / "data" / f"{name}.jsonl") for name in ("train", "own"))
    return replace(config, folds=0, data=data, validation=validation, out=str(folder))


def _row(config: RewardConfig, number: int, fold: Fold, found: dict[str, Any]) -> dict[str, Any]:
    """Fold `number` with what its run found, and its accuracy on the held-out labelers."""
    folder = Path(found["out"])
    reward = RewardModel.load(folder / found["checkpoint"], pick_device(config.device))
    limit = longest(config, reward.model.config.context)
    comparisons, _, _ = encode(fold.held_out, reward.tokenizer, limit)
    scores = reward.score_ids([ids for comparison in comparisons for ids in comparison.sequences])
    ranks = [rank for comparison in comparisons for rank in comparison.ranks]
    other = agreement(scores, ranks, [len(comparison.ranks) for comparison in comparisons])
    return {
        "fold": number,
        "checkpoint": f"{folder.name}/{found['checkpoint']}",
        "held_out_labelers": list(fold.labelers),
        "rankings": found["rankings"],
        "own_accuracy": found["accuracy"],
        "own_pairs": found["pairs"],
        "held_out_accuracy": other.get("accuracy"),
        "held_out_pairs": other.get("pairs", 0),
        **{name: found[name] for name in ("longer_wins", "shorter_wins", "bag_of_words")},
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    """Mean and its standard error: the sample standard deviation over folds / sqrt(folds)."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return {"mean": statistics.fmean(values), "standard_error": error}
