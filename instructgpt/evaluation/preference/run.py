"""Verb `preference`: votes of people, or a judge's choices, become win rates and ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import expand
from instructgpt.data.records import write_jsonl
from instructgpt.errors import ConfigError, ServiceError
from instructgpt.evaluation.judge import judge_input, judge_spec, load_judge
from instructgpt.evaluation.preference.comparisons import (
    Comparison,
    Replies,
    names,
    read_comparisons,
    read_replies,
)
from instructgpt.evaluation.preference.judging import Judged, by_choices, by_scores
from instructgpt.evaluation.preference.llm import PREFIX, LLMJudge, read_question
from instructgpt.evaluation.preference.rates import FEW_LABELERS, win_rates
from instructgpt.evaluation.preference.ratings import ratings
from instructgpt.evaluation.preference.settings import PreferenceConfig
from instructgpt.evaluation.preference.table import table
from instructgpt.evaluation.suite.models import is_server, open_handle
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.runtime.device import pick_device

PEOPLE = "people"
_MOST_UNREADABLE = 0.05
"""Share of pairs that a judge may leave without a choice."""


def run(config: PreferenceConfig) -> dict[str, Any]:
    """Compare, and write `summary.json` and `comparisons.jsonl`; returns the summary.

    Summary: `win_rate.NAME_over_BASELINE` (see `rates.win_rate`), `ratings.NAME` (see `ratings.ratings`),
    `judge`, `baseline`, `comparisons`, `prompts`, `labelers`; of an llm: judge `unreadable` (pairs left out),
    `first_rate` (0.5 is no taste for a place) and `consistent` (share of pairs on which both orders agree);
    `table`.

    Raises:
        ConfigError, DataError, CheckpointError, ServiceError: a flag, a record, a model or a service can't be
            used.
    """
    config.check()
    # Read first, so that a mistyped path leaves no run folder behind that the right one would not fit.
    replies = read_replies(config.replies) if config.replies else None
    votes = read_comparisons(config.data) if config.data else []
    known = list(replies.texts) if replies is not None else names(votes)
    if config.baseline and config.baseline not in known:
        raise ConfigError(
            f"there is no model {config.baseline!r}", "--baseline", "use one of " + ", ".join(known)
        )
    baseline = config.baseline or known[0]
    asked = config.judge.startswith(PREFIX)
    spec = config.judge if asked else judge_spec(config.judge)
    question = read_question(config.question) if asked else ""
    with open_run(config.out, "preference", config, _inputs(config, spec)) as folder:
        if folder.finished is not None:
            return folder.finished
        if replies is None:
            judged, judge = Judged(tuple(votes)), PEOPLE
        elif asked:
            judged, judge = _choices(config, question, replies, baseline, folder.folder)
        else:
            scorer = load_judge(spec, config.seed, pick_device(config.device))
            judged, judge = by_scores(scorer, replies, baseline), scorer.name
        write_jsonl(folder.folder / "comparisons.jsonl", [asdict(one) for one in judged.comparisons])
        summary = measure(config, judged.comparisons, baseline) | {"judge": judge}
        if asked:
            summary |= {
                "unreadable": judged.unreadable,
                "first_rate": judged.first_rate,
                "consistent": judged.consistent,
            }
        return folder.finish(summary | {"table": table(summary)})


def _inputs(config: PreferenceConfig, spec: str) -> dict[str, str | Path]:
    """What the result depends on, as `open_run` takes it."""
    inputs: dict[str, str | Path] = {}
    if config.data:
        inputs["data"] = ",".join(map(str, expand(config.data)))
    if config.replies:
        files = [part.partition("=")[2] or part for part in config.replies.split(",")]
        inputs["replies"] = ",".join(file.strip() for file in files)
    if config.question:
        inputs["question"] = config.question
    judge = spec.removeprefix(PREFIX)
    if spec.startswith(PREFIX):
        inputs["judge"] = "" if is_server(judge) else final_checkpoint(judge)
    elif spec:
        inputs["judge"] = judge_input(spec)
    return inputs


def _choices(
    config: PreferenceConfig, question: str, replies: Replies, baseline: str, folder: Path
) -> tuple[Judged, str]:
    """
    Raises:
        ConfigError: the judge can't be opened. ServiceError: it stopped answering, or more than a twentieth
            of its answers name no choice.
    """
    spec = config.judge.removeprefix(PREFIX)
    try:
        handle = open_handle(spec, device=pick_device(config.device), chat=True)
    except ServiceError as error:  # before any work: the folder must not be bound to a mistyped address
        raise ConfigError(f"the judge can't be asked: {error.what}", error.where, error.cure) from error
    chooser = LLMJudge(handle, question, folder)
    judged = by_choices(chooser, replies, baseline)
    pairs = len(replies.prompts) * (len(replies.texts) - 1)
    if judged.unreadable > _MOST_UNREADABLE * pairs:
        raise ServiceError(
            f"the judge {chooser.name} named no choice for {judged.unreadable} of {pairs} pairs",
            str(folder / "judgements.jsonl"),
            'read what it said there; a clearer --question, or a stronger model, ends with {"better": 1}',
        )
    handle.close()
    return judged, chooser.name


def measure(config: PreferenceConfig, comparisons: Sequence[Comparison], baseline: str) -> dict[str, Any]:
    """Win rates over the baseline and, of three models or more, ratings."""
    rates = win_rates(
        comparisons, baseline, over=config.over, level=config.level, draws=config.draws, seed=config.seed
    )
    labelers = len({one.judge for one in comparisons})
    summary: dict[str, Any] = {
        "win_rate": rates,
        "baseline": baseline,
        "level": config.level,
        "comparisons": len(comparisons),
        "prompts": len({one.prompt for one in comparisons}),
        "labelers": labelers,
    }
    both = config.over in ("labelers", "both") or (config.over == "auto" and labelers >= FEW_LABELERS)
    if len(names(comparisons)) > 2:
        summary["ratings"] = ratings(
            comparisons,
            baseline,
            over_labelers=both,
            level=config.level,
            draws=config.draws,
            seed=config.seed,
        )
    return summary
