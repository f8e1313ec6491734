"""Verb `eval`: which of its ways a command line asks for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.evaluation.eval_settings import EvalConfig

__all__ = ["EvalConfig", "run"]


def run(config: EvalConfig) -> dict[str, Any]:
    """Run a suite, measure released samples, or compare replies; returns the summary.

    Raises:
        ConfigError: the flags belong to different ways; and what each of them raises.
    """
    samples = isinstance(config.samples, str)
    if config.suite and (samples or config.prompts or config.judge or config.text):
        given = {"--samples FILE": samples, "--prompts": config.prompts, "--judge": config.judge}
        other = next((flag for flag, value in given.items() if value), "--text")
        raise ConfigError(f"--suite and {other} are different evaluations", other, "run them one by one")
    if config.report and (samples or config.suite or config.prompts):
        cure = "evaluate first, then write the report"
        raise ConfigError("--report only reads what is there", "--report", cure)
    if config.report:
        module = "instructgpt.evaluation.suite_report.verb"
    elif samples:
        module = "instructgpt.evaluation.released_samples"
    elif config.suite:
        module = "instructgpt.evaluation.suite.run"
    else:
        module = "instructgpt.evaluation.compare"
    summary: dict[str, Any] = import_module(module).run(config)
    return summary
