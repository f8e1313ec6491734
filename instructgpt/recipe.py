"""A pipeline's file, read and checked: which stages, with what settings, on what of earlier ones.

The form of the file is described in `instructgpt.pipeline`, which runs it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from instructgpt.config import from_table, near, read_toml
from instructgpt.errors import ConfigError
from instructgpt.runtime.signals import deferred_interrupts

STAGES: dict[str, tuple[str, str, str]] = {
    "world": ("evaluation.collect", "WorldStageConfig", "write"),
    "convert": ("conversion.convert", "ConvertConfig", "convert"),
    "tokenizer": ("pretrain.tokenizer", "TokenizerConfig", "train"),
    "pretrain": ("pretrain.train", "PretrainConfig", "train"),
    "sft": ("sft.train", "SFTConfig", "train"),
    "collect": ("evaluation.collect", "CollectConfig", "run"),
    "reward": ("reward_model.train", "RewardConfig", "train"),
    "ppo": ("rlhf.train", "PPOConfig", "train"),
    "a2c": ("comparators.a2c", "A2CConfig", "train"),
    "rloo": ("comparators.rloo", "RLOOConfig", "train"),
    "grpo": ("comparators.grpo", "GRPOConfig", "train"),
    "dpo": ("comparators.dpo", "DPOConfig", "train"),
    "distill": ("comparators.distill", "DistillConfig", "train"),
    "best-of-n": ("evaluation.best_of_n", "BestOfNConfig", "run"),
    "generate": ("generation.run", "GenerateConfig", "run"),
    "eval": ("evaluation.verb", "EvalConfig", "run"),
    "evaluate": ("evaluation.world", "WorldEvalConfig", "run"),
    "methods": ("evaluation.methods", "MethodsConfig", "run"),
    "reviews": ("evaluation.sentiment.write", "ReviewsConfig", "write"),
    "report": ("evaluation.report", "ReportConfig", "write"),
    "users": ("evaluation.users", "UsersConfig", "run"),
    "data": ("serving.export", "DataConfig", "run"),
    "promote": ("evaluation.promote", "PromoteConfig", "run"),
    "rounds": ("evaluation.rounds", "RoundsConfig", "run"),
}
"""Verb of a stage -> module, configuration class, function. Modules are imported when their stage is met."""

_REFERENCE = re.compile(r"\{([^{}]*)\}")
_FILE_KEYS = ("out", "seed", "data", "summary", "jobs", "stage")
_GIVEN = ("folder", "seed", "data")  # what {...} may name beside stages


@dataclass(frozen=True)
class Stage:
    """One entry of the file: `values` as written, references not yet replaced."""

    name: str
    verb: str
    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Plan:
    """A file, read and checked."""

    stages: tuple[Stage, ...]
    folder: Path
    seed: int
    data: str
    summary: str
    text: str
    jobs: int = 1

    def given(self) -> dict[str, str]:
        """What references mean before any stage has run."""
        known = {"folder": str(self.folder), "seed": str(self.seed)}
        return known | ({"data": self.data} if self.data else {})


def read_plan(path: Path, out: str, seed: int, changes: Sequence[str], data: str = "", jobs: int = 0) -> Plan:
    """Read a file and check everything that can be checked before its first stage runs.

    Args:
        out, data: instead of the file's; empty = the file's.
        seed: likewise; negative = the file's.
        changes: `stage.key=value`, the value in TOML.
        jobs: likewise; 0 = the file's.

    Raises:
        ConfigError: what can't be used, and where.
    """
    table = read_toml(path)
    for key in table:
        if key not in _FILE_KEYS:
            raise ConfigError(f"unknown key {key!r}", str(path), near(key, _FILE_KEYS))
    entries = table.get("stage")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(
            "the file lists no stages", str(path), "start each with a line [[stage]] and a verb"
        )
    stages = _changed([_stage(entry, path) for entry in entries], changes)
    folder = Path(out or table.get("out") or f"runs/{path.stem}")
    plan = Plan(
        stages,
        folder,
        seed if seed >= 0 else int(table.get("seed", 0)),
        data or str(table.get("data", "")),
        str(table.get("summary", "")),
        path.read_text(encoding="utf-8"),
        _jobs(jobs, table, path),
    )
    _check(plan, path)
    return plan


def _jobs(asked: int, table: Mapping[str, Any], path: Path) -> int:
    jobs, where = (asked, "--jobs") if asked else (table.get("jobs", 1), f"{path}: jobs")
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise ConfigError(f"jobs is {jobs!r}", where, "give a number of stages at a time, 1 or more")
    return jobs


def _stage(entry: Any, path: Path) -> Stage:
    if not isinstance(entry, dict) or not isinstance(entry.get("verb"), str):
        raise ConfigError("a stage names no verb", str(path), 'write verb = "sft" below its [[stage]]')
    verb, name = entry["verb"], str(entry.get("name", entry["verb"]))
    where = f"{path}: stage {name}"
    if verb not in STAGES:
        raise ConfigError(f"unknown verb {verb!r}", where, near(verb, list(STAGES)))
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in _GIVEN:
        raise ConfigError(f"{name!r} can't name a stage", where, "use letters, digits, _ and -")
    values = {key: value for key, value in entry.items() if key not in ("verb", "name")}
    if "out" in values:
        raise ConfigError("a stage's folder is its name", f"{where}: out", "leave `out` out")
    return Stage(name, verb, values, where)


def _changed(stages: list[Stage], changes: Sequence[str]) -> tuple[Stage, ...]:
    """Stages with `stage.key=value` changes made."""
    import tomllib

    known = {stage.name: i for i, stage in enumerate(stages)}
    for change in changes:
        target, equals, text = change.partition("=")
        name, dot, key = target.partition(".")
        if not (equals and dot and key):
            raise ConfigError(
                f"{change!r} is no change", "--set", "write stage.key=value, as in ppo.beta=0.3"
            )
        if name not in known:
            raise ConfigError(f"there is no stage {name!r}", f"--set {change}", near(name, list(known)))
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a text
        stage = stages[known[name]]
        stages[known[name]] = dataclasses.replace(stage, values={**stage.values, key: value})
    return tuple(stages)


def _check(plan: Plan, path: Path) -> None:
    """Names, references, keys and types of every stage, before any of them runs."""
    earlier: dict[str, str] = {}
    names = [stage.name for stage in plan.stages]
    for stage in plan.stages:
        if stage.name in earlier:
            raise ConfigError("two stages have this name", stage.where, 'give one another `name = "..."`')
        configure(stage, plan, plan.given() | earlier, later=names)
        earlier[stage.name] = str(plan.folder / stage.name)
    if plan.summary and plan.summary not in names:
        raise ConfigError(
            f"there is no stage {plan.summary!r}", f"{path}: summary", near(plan.summary, names)
        )


def configure(
    stage: Stage, plan: Plan, known: Mapping[str, str], later: Sequence[str] = ()
) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """The stage's configuration, references replaced by what `known` says, and its function.

    `later` are stages that a reference may name too early.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or a reference to nothing.
    """
    module_name, class_name, function_name = STAGES[stage.verb]
    with deferred_interrupts():
        module = import_module(f"instructgpt.{module_name}")
    config_class = getattr(module, class_name)
    values = {
        key: _resolve(value, known, f"{stage.where}: {key}", later) for key, value in stage.values.items()
    }
    values["out"] = str(plan.folder / stage.name)
    if "seed" in config_class.__dataclass_fields__:
        values.setdefault("seed", plan.seed)
    try:
        config = from_table(config_class, values, stage.where)
    except ConfigError as error:
        where = error.where if stage.where in error.where else f"{stage.where}: {error.where}".rstrip(": ")
        raise ConfigError(error.what, where, error.cure) from error
    return config, getattr(module, function_name)


def _resolve(value: Any, known: Mapping[str, str], where: str, later: Sequence[str]) -> Any:
    """`value` with every {name} replaced; lists item by item."""
    if isinstance(value, list):
        return [_resolve(item, known, where, later) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in known:
            return known[name]
        if name == "data":
            raise ConfigError("the file needs a folder of data", where, "give it: --data FOLDER")
        cure = "move that stage up" if name in later else near(name, list(known))
        what = f"stage {name!r} comes later" if name in later else f"{{{name}}} is no earlier stage"
        raise ConfigError(what, where, cure)

    return _REFERENCE.sub(replace, value)
