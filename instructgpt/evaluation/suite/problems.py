"""A task made ready: its items read, its solved examples drawn, its settings checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.suite.reading import FilesMissing, find, find_shots
from instructgpt.evaluation.suite.results import data_hash
from instructgpt.evaluation.suite.tables import make_task
from instructgpt.evaluation.suite.task import Item, Options, Task
from instructgpt.runtime.seeds import derive_seed


@dataclass(frozen=True)
class Problem:
    """A task with what it is asked on.

    Attributes:
        items: those to ask, in the data set's order.
        pool: solved examples, one more than are shown where they are the task's own items.
        shots: how many an item is shown.
        options: the settings that the user gave it.
        files: where items and examples come from.
    """

    task: Task
    items: tuple[Item, ...]
    pool: tuple[Item, ...]
    shots: int
    options: Options
    files: tuple[Path, ...]

    def shots_for(self, item: Item) -> Sequence[Item]:
        """The solved examples before an item: the same ones for all, but never the item itself."""
        return [example for example in self.pool if example is not item][: self.shots]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a result depends on, but for the model."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "data": data_hash(self.files),
            "items": len(self.items),
            "shots": self.shots,
            "seed": self.options.seed,
            "options": dict(self.options.values),
        }

    @property
    def about(self) -> dict[str, Any]:
        """What a result's file says of the task."""
        identity = dict(self.identity)
        data = {"files": [str(path) for path in self.files], "sha256": identity.pop("data")}
        return {**identity, "limit": self.options.limit, "source": self.task.source, "data": data}


def prepare(name: str, config: EvalConfig) -> Problem:
    """Make the task and read its files.

    Raises:
        ConfigError: an option is unknown, or there are too few examples.
        DataError: the files can't be used.
    """
    options = _options(name, config)
    task = make_task(name, options)
    unknown = sorted(set(options.values) - set(task.options) - _bare(config))
    if unknown:
        cure = f"it takes {', '.join(task.options)}" if task.options else "it takes none"
        raise ConfigError(f"{name} has no option {unknown[0]!r}", "--option", cure)
    own = {key: value for key, value in options.values.items() if key in task.options}
    options = Options(options.seed, options.shots, options.limit, own)
    files = find(config.data, task)
    items = task.read(files)
    _check(task, items)
    shots = task.shots if config.shots is None else config.shots
    pool: tuple[Item, ...] = ()
    if shots:
        examples = find_shots(config.data, task)
        pool = _draw(task, task.read(examples) if examples else items, shots, not examples, config.seed)
        files = [*files, *examples]
    chosen = tuple(items[: config.limit or None])
    return Problem(task, chosen, pool, shots, options, tuple(files))


def prepare_all(names: Sequence[str], config: EvalConfig) -> list[Problem]:
    """All tasks made ready; files that are missing are told of all tasks at once.

    Raises:
        ConfigError, DataError: see `prepare`.
    """
    problems: list[Problem] = []
    missing: list[FilesMissing] = []
    for name in names:
        try:
            problems.append(prepare(name, config))
        except FilesMissing as error:
            missing.append(error)
    if len(missing) == 1:
        raise missing[0]
    if missing:
        needs = "; ".join(f"{error.task}: {error.patterns[0]}" for error in missing)
        cure = f"put these files there, or ask for fewer tasks; one alone: --data {missing[0].task}=FILE"
        what = f"{len(missing)} of {len(names)} tasks find no file in {missing[0].looked}: {needs}"
        raise ConfigError(what, "--data", cure)
    return problems


def _options(name: str, config: EvalConfig) -> Options:
    """What `--option` says to this task: its own settings win over those said to all."""
    shared: dict[str, str] = {}
    own: dict[str, str] = {}
    for text in config.option:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} sets nothing", "--option", "write NAME=VALUE or TASK.NAME=VALUE")
        task, dot, setting = key.rpartition(".")
        if not dot:
            shared[setting] = value
        elif task == name:
            own[setting] = value
    return Options(config.seed, config.shots, config.limit, shared | own)


def _bare(config: EvalConfig) -> set[str]:
    """Names of settings said to all tasks: one that knows none of them is left alone."""
    return {key for key in (text.partition("=")[0] for text in config.option) if "." not in key}


def _check(task: Task, items: Sequence[Item]) -> None:
    if not items:
        raise DataError(f"the files of {task.name} hold no item", task.name, "give the data set's own file")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise DataError(
                f"two items of {task.name} have the id {item.id!r}", task.name, "give each its own"
            )
        seen.add(item.id)


def _draw(task: Task, items: Sequence[Item], shots: int, own: bool, seed: int) -> tuple[Item, ...]:
    """As many examples as are shown, and one to stand in where an item would be its own example."""
    wanted = shots + own
    if len(items) < wanted:
        what = f"{shots} solved examples are wanted of {task.name}, which has {len(items)} to draw from"
        raise ConfigError(what, "--shots", "use fewer")
    generator = np.random.default_rng(derive_seed("shots", seed, task.name))
    return tuple(items[i] for i in generator.permutation(len(items))[:wanted])
