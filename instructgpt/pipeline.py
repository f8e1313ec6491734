"""Stages in order with lineage: what `run` and `demo` execute.

A TOML file names the stages; each is what its verb would do alone, in its own folder:

    out = "runs/mine"
    seed = 0
    summary = "evaluate"            # optional: the stage whose summary the whole run shows
    jobs = 2                        # optional: neighbours that need nothing of one another run two at a time

    [[stage]]
    verb = "sft"
    name = "sft"                    # folder runs/mine/sft
    model = "{pretrain}"            # the final checkpoint of an earlier stage
    data = "{folder}/world/demonstrations.jsonl"     # {data} is the folder of --data

A stage that is finished, with the same settings and the same inputs, is skipped; one whose settings or inputs
have changed runs anew, and its old folder is kept as NAME.previous-1 (2, ...). A stage that takes a seed and
is given none gets the file's.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from instructgpt.beside import resident_mib, run_beside, waves
from instructgpt.config import from_table, near, preset_for, preset_path, read_toml
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
    "eval": ("evaluation.compare", "EvalConfig", "run"),
    "evaluate": ("evaluation.world", "WorldEvalConfig", "run"),
    "methods": ("evaluation.methods", "MethodsConfig", "run"),
    "report": ("evaluation.report", "ReportConfig", "write"),
}
"""Verb of a stage -> module, configuration class, function. Modules are imported when their stage is met."""

_REFERENCE = re.compile(r"\{([^{}]*)\}")
_FILE_KEYS = ("out", "seed", "data", "summary", "jobs", "stage")
_BESIDE = "beside.json"
_GIVEN = ("folder", "seed", "data")  # what {...} may name beside stages


@dataclass(frozen=True)
class RunConfig:
    """Run the stages of a TOML file in order, skipping those that are finished and unchanged."""

    file: Positional[str] = ""
    """A TOML file (see the documentation of `instructgpt.pipeline`), or the name of a preset."""
    out: str = ""
    """Run folder; empty = the file's `out`."""
    seed: int = -1
    """Seed of all stages that name none; -1 = the file's."""
    data: str = ""
    """Folder that {data} stands for in the file; empty = the file's `data`."""
    set: tuple[str, ...] = ()
    """Changes to the file, as stage.key=value with the value in TOML: --set ppo.beta=0.3 sft.steps=500."""
    until: str = ""
    """Name of the stage to stop after; empty = run them all."""
    jobs: int = 0
    """Stages that need nothing of one another run this many at a time; 0 = the file's `jobs`, else 1."""


@dataclass(frozen=True)
class DemoConfig:
    """The whole recipe on the built-in practice world: nothing is downloaded."""

    out: str = "runs/demo"
    """Run folder."""
    seed: int = 0
    """Seed of the world and of every stage."""
    quick: bool = False
    """A tiny world and model that go through every stage in about a minute and learn next to nothing."""
    eval_prompts: int = 0
    """Prompts of the final comparison; 0 = the preset's."""
    set: tuple[str, ...] = ()
    """Changes to the preset, as stage.key=value with the value in TOML: --set ppo.beta=0.3."""
    until: str = ""
    """Name of the stage to stop after; empty = run them all."""
    jobs: int = 0
    """Stages that need nothing of one another run this many at a time; 0 = the preset's."""


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


def run(config: RunConfig) -> dict[str, Any]:
    """Run a file's stages; returns the summary, which is also written to `summary.json` of the run folder.

    Summary: `stages.NAME.{seconds, peak_memory_mib, checkpoint}`, `seconds` (all stages), `peak_memory_mib`,
    `report` if a stage wrote one, and the whole summary of the stage that the file names as `summary`.

    Raises:
        ConfigError: the file, a key or a reference can't be used; found before the first stage starts.
        InstructGPTError: a stage failed or was stopped; the same command goes on from there.
    """
    if not config.file:
        raise ConfigError("no file was named", "instructgpt run FILE.toml", "give one that lists stages")
    path = Path(config.file)
    if not path.exists() and not path.suffix:
        path = preset_for(config.file, "run")
    plan = _read_plan(path, config.out, config.seed, config.set, config.data, config.jobs)
    return _execute(plan, config.until, "run")


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the preset `demo` (or `quick`) on the practice world; summary: see `run` and `evaluation.world`."""
    changes = [f"evaluate.main_prompts={config.eval_prompts}"] if config.eval_prompts else []
    path = preset_path("quick" if config.quick else "demo")
    plan = _read_plan(path, config.out, config.seed, [*changes, *config.set], jobs=config.jobs)
    return _execute(plan, config.until, "demo")


# -- the file


def _read_plan(
    path: Path, out: str, seed: int, changes: Sequence[str], data: str = "", jobs: int = 0
) -> Plan:
    """Read and check everything that can be checked before the first stage runs."""
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
        _configure(stage, plan, plan.given() | earlier, later=names)
        earlier[stage.name] = str(plan.folder / stage.name)
    if plan.summary and plan.summary not in names:
        raise ConfigError(
            f"there is no stage {plan.summary!r}", f"{path}: summary", near(plan.summary, names)
        )


def _configure(
    stage: Stage, plan: Plan, known: Mapping[str, str], later: Sequence[str] = ()
) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """The stage's configuration, references replaced, and its function."""
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


# -- running

Call = tuple[Callable[[Any], dict[str, Any]], Any, Path]
"""A stage's function, its configuration and its folder."""


@dataclass(frozen=True)
class Ran:
    """What a stage came to; `moved` is where its old folder went if its settings or inputs had changed."""

    summary: dict[str, Any]
    moved: Path | None = None
    skipped: bool = False


def _execute(plan: Plan, until: str, verb: str) -> dict[str, Any]:
    from instructgpt.runtime.files import write_json, write_text

    names = [stage.name for stage in plan.stages]
    if until and until not in names:
        raise ConfigError(f"there is no stage {until!r}", "--until", near(until, names))
    write_text(plan.folder / "pipeline.toml", plan.text)
    stages = plan.stages[: names.index(until) + 1] if until else plan.stages
    known = plan.given()
    lineage: list[dict[str, Any]] = []
    ran: dict[str, Ran] = {}
    together = (
        waves([(s.name, s.values) for s in stages]) if plan.jobs > 1 else [[i] for i in range(len(stages))]
    )
    for wave in together:
        ran |= _run_wave(plan, [stages[i] for i in wave], wave[0], known)
        for stage in (stages[i] for i in wave):
            known[stage.name] = _product(plan.folder / stage.name, ran[stage.name].summary)
            lineage.append(_lineage(stage, plan.folder / stage.name, known[stage.name], ran[stage.name]))
        write_json(plan.folder / "lineage.json", {"seed": plan.seed, "stages": lineage})
    full = _summary(plan, ran, verb)
    write_json(plan.folder / "summary.json", full)
    return full


def _run_wave(plan: Plan, wave: Sequence[Stage], first: int, known: Mapping[str, str]) -> dict[str, Ran]:
    """Run stages that need nothing of one another, those that were not finished before at the same time."""
    calls = {}
    for stage in wave:
        config, function = _configure(stage, plan, known)
        calls[stage.name] = (function, config, plan.folder / stage.name)
    fresh = {name: call for name, call in calls.items() if not (call[2] / "summary.json").exists()}
    ran = _run_together(plan, fresh, first) if len(fresh) > 1 else {}
    for number, (name, call) in enumerate(calls.items(), start=first + 1):
        if name not in ran:
            ran[name] = _run_alone(f"[{number}/{len(plan.stages)}] {name}", call)
    return ran


def _run_alone(label: str, call: Call) -> Ran:
    from instructgpt.runtime.device import release_memory

    _say(f"{label}: {call[2]}")
    before = (call[2] / "summary.json").exists()
    summary, moved = _run_stage(*call)
    release_memory()
    if before and not moved:
        _say("  finished before with the same settings and inputs: skipped")
    return Ran(summary, moved, skipped=before and not moved)


def _run_together(plan: Plan, calls: Mapping[str, Call], first: int) -> dict[str, Ran]:
    """Run stages at the same time; what it took in all goes to `beside.json` of the run folder."""
    import torch

    from instructgpt.runtime.files import write_json

    threads = max(1, torch.get_num_threads() // plan.jobs)
    _say(f"[{first + 1}-{first + len(calls)}/{len(plan.stages)}] {plan.jobs} at a time: {', '.join(calls)}")
    here, started = resident_mib(), time.monotonic()
    results = run_beside(_run_stage, list(calls.items()), plan.jobs, threads)
    ran = {name: Ran(summary, moved) for name, (summary, moved) in zip(calls, results, strict=True)}
    peaks = sorted(found.summary.get("peak_memory_mib", 0.0) for found in ran.values())
    cost = {
        "stages": list(calls),
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_mib": round(here + sum(peaks[-plan.jobs :]), 1),
    }
    write_json(plan.folder / _BESIDE, cost)
    return ran


def _run_stage(
    function: Callable[[Any], dict[str, Any]], config: Any, folder: Path
) -> tuple[dict[str, Any], Path | None]:
    """The stage's summary, and where its old folder went if its settings or inputs had changed."""
    from instructgpt.runtime.checkpoint import RunChanged

    try:
        return function(config), None
    except RunChanged as change:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.previous-{number}")).exists():
            number += 1
        _say(f"  {change.what}")
        _say(f"  the old folder is kept as {aside}")
        folder.rename(aside)
        return function(config), aside


def _product(folder: Path, summary: Mapping[str, Any]) -> str:
    """What {name} stands for: the final checkpoint, or the folder of a stage that makes none."""
    checkpoint = summary.get("checkpoint")
    return str(folder / checkpoint) if isinstance(checkpoint, str) else str(folder)


def _lineage(stage: Stage, folder: Path, product: str, ran: Ran) -> dict[str, Any]:
    """What made a stage's product: settings, hashes of inputs and of the product."""
    import json

    from instructgpt.runtime.files import hash_path

    path = folder / "config.json"
    identity = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    made = Path(product) if product != str(folder) else folder / "summary.json"
    row = {
        "name": stage.name,
        "verb": stage.verb,
        "folder": str(folder),
        "state": "skipped" if ran.skipped else "run",
        "config": identity.get("config", {}),
        "inputs": identity.get("inputs", {}),
        "product": product,
        "product_hash": hash_path(made),
    }
    return row | ({"replaced": str(ran.moved)} if ran.moved else {})


def _summary(plan: Plan, ran: Mapping[str, Ran], verb: str) -> dict[str, Any]:
    summaries = {name: found.summary for name, found in ran.items()}
    shown = dict(summaries.get(plan.summary, {}))
    if isinstance(shown.get("checkpoint"), str):
        shown["checkpoint"] = f"{plan.summary}/{shown['checkpoint']}"  # as seen from the run folder
    kept = ("seconds", "peak_memory_mib", "checkpoint")
    reports = [summary["report"] for summary in summaries.values() if "report" in summary]
    seconds, peak = _costs(plan, summaries)
    return {
        **shown,
        "verb": verb,
        "out": str(plan.folder),
        "seed": plan.seed,
        **({"report": reports[-1]} if reports else {}),
        "stages": {
            name: {key: summary[key] for key in kept if key in summary} for name, summary in summaries.items()
        },
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak, 1),
    }


def _costs(plan: Plan, summaries: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """(seconds, MiB) of all stages; those of one time count once, with what all of them held."""
    import json

    path = plan.folder / _BESIDE
    together = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": []}
    if not set(together["stages"]) <= set(summaries):
        together = {"stages": []}
    rest = [summary for name, summary in summaries.items() if name not in together["stages"]]
    seconds = together.get("seconds", 0.0) + sum(summary.get("seconds", 0.0) for summary in rest)
    peaks = [summary.get("peak_memory_mib", 0.0) for summary in rest]
    return seconds, max([together.get("peak_memory_mib", 0.0), *peaks])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
