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

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from instructgpt.beside import resident_mib, run_beside, waves
from instructgpt.config import near, preset_for, preset_path
from instructgpt.errors import ConfigError
from instructgpt.recipe import Plan, Stage, configure, read_plan

_BESIDE = "beside.json"


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
    plan = read_plan(path, config.out, config.seed, config.set, config.data, config.jobs)
    return _execute(plan, config.until, "run")


def demo(config: DemoConfig) -> dict[str, Any]:
    """Run the preset `demo` (or `quick`) on the practice world; summary: see `run` and `evaluation.world`."""
    changes = [f"evaluate.main_prompts={config.eval_prompts}"] if config.eval_prompts else []
    path = preset_path("quick" if config.quick else "demo")
    plan = read_plan(path, config.out, config.seed, [*changes, *config.set], jobs=config.jobs)
    return _execute(plan, config.until, "demo")


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
        config, function = configure(stage, plan, known)
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
