"""`reward --members N`: N models that differ in their seed alone, and how far they disagree.

OUT/data/{train,valid}.jsonl   the same split for all, where no --validation is given
    member-1/ .. member-N/     complete runs; the first has the seed of the plain run
    summary.json               names the members; the folder is an ensemble for `load_reward`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.data.jsonl import write_jsonl
from instructgpt.data.records import Ranking, to_row
from instructgpt.reward_model.comparisons import inputs_of, read_comparisons, read_parts
from instructgpt.reward_model.figure import write_reliability
from instructgpt.reward_model.measure import Pairs, accuracy_by
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.reward_model.subruns import train_in_turn
from instructgpt.reward_model.summary import held_out_summary
from instructgpt.reward_model.table import members_table
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import pick_device
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.reward import Ensemble, RewardModel

THIRDS = ("lowest third", "middle third", "highest third")


def train_members(
    config: RewardConfig, train_one: Callable[[RewardConfig], dict[str, Any]]
) -> dict[str, Any]:
    """Train the members one after another, or go on where the folder stopped; returns the summary.

    Summary: `members` (their checkpoints), `member_accuracy`, what `held_out_summary` measures of the mean
    of their scores, `disagreement` (see `disagreement_of`; None without held-out pairs), `training_seconds`
    over all restarts, counts, `table`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError, CheckError, Interrupted: as `train_one`.
    """
    _, inputs = inputs_of(config)
    with open_run(config.out, "reward", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        runs = train_in_turn(_configs(config, run.folder), "member", train_one)
        folders = [Path(summary["out"]) / summary["checkpoint"] for summary in runs]
        device = pick_device(config.device)
        ensemble = Ensemble([RewardModel.load(folder, device) for folder in folders], str(run.folder))
        context = ensemble.members[0].model.config.context
        rankings = read_comparisons(config, ensemble.tokenizer, context)
        sequences = [ids for comparison in rankings.held_out for ids in comparison.sequences]
        each = ensemble.score_ids_each(sequences)
        summary = {
            "members": [str(folder.relative_to(run.folder)) for folder in folders],
            "member_accuracy": [found["accuracy"] for found in runs],
            **held_out_summary(each.mean(0), rankings, config),
            "disagreement": disagreement_of(
                each, rankings.held_out_texts, derive_seed(config.seed, "bootstrap")
            ),
            **{name: runs[0][name] for name in ("rankings", "held_out", "training_pairs", "steps")},
            "dropped_replies": rankings.dropped_replies,
            "dropped_rankings": rankings.dropped_rankings,
            "training_seconds": round(sum(found["seconds"] for found in runs), 2),
        }
        if summary["calibration"]:
            write_reliability(run.folder, summary["calibration"])
        return run.finish(summary | {"table": members_table(summary)})


def disagreement_of(each: Tensor, rankings: Sequence[Ranking], seed: int) -> dict[str, Any] | None:
    """How far members disagree on replies, and whether they are wrong where they do.

    Args:
        each: (members, n) scores of all replies, ranking after ranking.
        rankings: the order that counts as right.
        seed: draws the bootstrap.

    Returns:
        `replies` (mean over replies of the standard deviation over members, in reward units), `pairs` (the
        same of the margins r_better - r_worse: members may differ in their zero), and the accuracy of the
        mean in rows (see `measure`) `by_tertile` of a pair's standard deviation and `by_votes`: how many
        members order the pair as their mean does. None without an untied pair.
    """
    pairs = Pairs.of(rankings)
    if not pairs.prompt.numel():
        return None
    each = each.double()
    margins = each[:, pairs.better] - each[:, pairs.worse]  # (members, P)
    spread, mean = margins.std(0, correction=0), margins.mean(0)
    third = torch.empty_like(pairs.prompt)
    order = torch.arange(len(spread))
    third[spread.argsort(stable=True)] = order * len(THIRDS) // len(spread)
    votes = (margins.sign() == mean.sign()).sum(0)
    names = [f"{count} of {len(each)}" for count in range(len(each) + 1)]
    groupings = {"by_tertile": (THIRDS, third), "by_votes": (names, votes)}
    return {
        "replies": float(each.std(0, correction=0).mean()),
        "pairs": float(spread.mean()),
        **accuracy_by(mean, pairs.prompt, groupings, seed),
    }


def _configs(config: RewardConfig, folder: Path) -> list[RewardConfig]:
    """The members' settings. The split comes from the run's own seed, so it is written down first."""
    shared = replace(config, members=1, baselines=False)
    if not config.validation:
        train, held_out = read_parts(config)
        files = {}
        for name, records in (("train", train), ("valid", held_out)):
            files[name] = folder / "data" / f"{name}.jsonl"
            write_jsonl(files[name], map(to_row, records))
        valid = str(files["valid"]) if held_out else ""
        shared = replace(shared, data=str(files["train"]), validation=valid, validation_share=0.0)
    members = []
    for number in range(1, config.members + 1):
        out = folder / f"member-{number}"
        seed = config.seed if number == 1 else derive_seed(config.seed, "member", number)
        members.append(replace(shared, out=str(out), seed=seed))
    return members
