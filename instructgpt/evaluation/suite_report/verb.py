"""`instructgpt eval --report FOLDER,...`: one report of several result folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.sentiment.measures import METRICS
from instructgpt.evaluation.sentiment.results import TASK
from instructgpt.evaluation.suite_report.write import write


def run(config: EvalConfig) -> dict[str, Any]:
    """Write the report; returns the summary: `report`, `json`, `cards`, `table`.

    Raises:
        ConfigError: a folder has no results, or a model is named that has none.
    """
    folders = [Path(part.strip()) for part in config.report.split(",") if part.strip()]
    found = write(Path(config.out), folders, models=config.specs, metrics={TASK: METRICS}, seed=config.seed)
    return {"verb": "eval", "out": config.out, **found}
