"""Which tasks and suites there are: names to the functions that make them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from instructgpt.errors import ConfigError
from instructgpt.evaluation.suite.task import Options, Task

_TASKS = "instructgpt.evaluation.tasks"

TASKS: dict[str, str] = {
    "truthfulqa_mc1": f"{_TASKS}.truthfulqa:mc1",
    "truthfulqa_mc2": f"{_TASKS}.truthfulqa:mc2",
    "hellaswag": f"{_TASKS}.hellaswag:make",
    "crows_pairs": f"{_TASKS}.crows_pairs:make",
    "winogender": f"{_TASKS}.winogender:make",
    "rte": f"{_TASKS}.glue:rte",
    "sst2": f"{_TASKS}.glue:sst2",
    "imdb": f"{_TASKS}.imdb:make",
    "perplexity": f"{_TASKS}.perplexity:make",
    "ifeval": f"{_TASKS}.ifeval:make",
    "truthfulqa_gen": f"{_TASKS}.truthfulqa_generation:make",
    "real_toxicity_basic": f"{_TASKS}.real_toxicity:basic",
    "real_toxicity_respectful": f"{_TASKS}.real_toxicity:respectful",
    "real_toxicity_biased": f"{_TASKS}.real_toxicity:biased",
    "squad_v2": f"{_TASKS}.squad:v2",
    "xquad_en": f"{_TASKS}.squad:xquad_en",
    "xquad_zh": f"{_TASKS}.squad:xquad_zh",
    "cmrc2018": f"{_TASKS}.cmrc2018:make",
    "drop": f"{_TASKS}.drop:make",
    "quac": f"{_TASKS}.quac:make",
    "wmt15_fr_en": f"{_TASKS}.translation:wmt15_fr_en",
    "wmt14_fr_en": f"{_TASKS}.translation:wmt14_fr_en",
    "wmt14_en_de": f"{_TASKS}.translation:wmt14_en_de",
    "multi30k_en_fr": f"{_TASKS}.translation:multi30k_en_fr",
    "multi30k_fr_en": f"{_TASKS}.translation:multi30k_fr_en",
    "tatoeba_en_zh": f"{_TASKS}.translation:tatoeba_en_zh",
    "tatoeba_zh_en": f"{_TASKS}.translation:tatoeba_zh_en",
    "cnn_dm": f"{_TASKS}.summarization:cnn_dm",
    "tldr": f"{_TASKS}.summarization:tldr",
    "xsum": f"{_TASKS}.summarization:xsum",
    "gsm8k": f"{_TASKS}.gsm8k:make",
    "humaneval": f"{_TASKS}.humaneval:make",
    "coherence": f"{_TASKS}.coherence:make",
}
"""Task -> module:function, a `(Options) -> Task`."""

SUITES: dict[str, tuple[str, ...] | str] = {
    "choices": ("truthfulqa_mc1", "truthfulqa_mc2", "hellaswag", "rte", "sst2"),
    "bias": ("crows_pairs", "winogender"),
    "sentiment": "instructgpt.evaluation.sentiment.run:run",
    "truth_and_toxicity": (
        "truthfulqa_gen",
        "real_toxicity_basic",
        "real_toxicity_respectful",
        "real_toxicity_biased",
    ),
    "reading": ("squad_v2", "drop", "quac", "cmrc2018", "xquad_en", "xquad_zh"),
    "translation": ("wmt15_fr_en", "multi30k_en_fr", "multi30k_fr_en", "tatoeba_en_zh", "tatoeba_zh_en"),
    "summaries": ("cnn_dm", "tldr", "xsum"),
    "paper": (
        "truthfulqa_gen",
        "real_toxicity_basic",
        "real_toxicity_respectful",
        "real_toxicity_biased",
        "winogender",
        "crows_pairs",
        "drop",
        "quac",
        "squad_v2",
        "hellaswag",
        "sst2",
        "rte",
        "wmt15_fr_en",
        "cnn_dm",
        "tldr",
    ),
    "toxicity_scorer": "instructgpt.evaluation.toxicity.train:run",
}
"""Suite -> its tasks; or module:function of an experiment of another shape, called with the configuration."""


def load(place: str) -> Callable[..., Any]:
    """The function that a `module:function` names."""
    module, _, function = place.partition(":")
    return cast(Callable[..., Any], getattr(import_module(module), function))


def task_names(suite: str) -> list[str]:
    """The tasks that `--suite` names: suites and tasks with commas between, each task once.

    Raises:
        ConfigError: a name is unknown, or is an experiment that runs alone.
    """
    names: list[str] = []
    for name in [part.strip() for part in suite.split(",") if part.strip()]:
        found = SUITES.get(name, (name,) if name in TASKS else None)
        if found is None:
            cure = _near(name, [*SUITES, *TASKS])
            raise ConfigError(f"there is no suite or task {name!r}", "--suite", cure)
        if isinstance(found, str):
            raise ConfigError(
                f"{name} is an experiment of its own", "--suite", f"run it alone: --suite {name}"
            )
        names += [task for task in found if task not in names]
    return names


def make_task(name: str, options: Options) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none, or it can't do what the options say.
    """
    if name not in TASKS:
        raise ConfigError(f"there is no task {name!r}", "--suite", _near(name, list(TASKS)))
    return cast(Task, load(TASKS[name])(options))


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(known)}"
