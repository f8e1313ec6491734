"""What is known of a checkpoint from the files around it: what made it, out of what, and what was measured.

Everything is found by hashes of content, so that a run folder that was moved or copied is still understood:
an input of one stage is the product of another where their hashes agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from instructgpt.runtime.files import hash_path

# Of a summary: what it cost, and what was counted on the way, is no measure of the model.
_NOT_MEASURES = {"seconds", "peak_memory_mib", "parameters", "steps", "prompts", "documents", "iterations"}


@dataclass(frozen=True)
class Step:
    """One stage of the lineage.

    Attributes:
        name, verb: of the stage.
        hash: of what it made; empty where nothing says.
        config: its settings.
        inputs: name -> hash of content.
    """

    name: str
    verb: str
    hash: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Measure:
    """A number with the ends of its 95 % interval, where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Facts:
    """All that a model card can say.

    Attributes:
        hash: of the folder or file.
        model: config.json; empty for a GGUF file.
        parameters: stored numbers; 0 if unknown.
        steps: the lineage, earliest first, this checkpoint's own stage last.
        measures: where they were taken (a stage's name) -> numbers.
        seed: of the run, if it had one.
    """

    hash: str
    model: Mapping[str, Any]
    parameters: int
    steps: Sequence[Step]
    measures: Mapping[str, Sequence[Measure]]
    seed: int | None

    @property
    def verb(self) -> str:
        """Of the stage that made it; empty if nothing says."""
        return self.steps[-1].verb if self.steps else ""


def facts_of(target: Path) -> Facts:
    """Read what the folder or GGUF file `target` and its run say of it."""
    made = hash_path(target)
    if target.is_file():
        summary = _read(target.with_name(target.name.removesuffix(".gguf") + ".summary.json"))
        return Facts(made, {}, 0, [_converted(made, summary)] if summary else [], {}, None)
    stage = _read(target / "stage.json")
    folder = target.parent.parent if target.parent.name == "checkpoints" else target
    run = folder.parent
    lineage = _read(run / "lineage.json")
    steps = list(_lineage(made, lineage.get("stages", []))) or list(_nested(made, folder.name, stage))
    measures = {folder.name: _own(_read(folder / "summary.json"))} | _evaluations(made, run)
    return Facts(
        made,
        _read(target / "config.json"),
        _parameters(target),
        steps,
        {name: found for name, found in measures.items() if found},
        lineage.get("seed"),
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _converted(made: str, summary: Mapping[str, Any]) -> Step:
    kept = {key: summary[key] for key in ("source", "interpolate", "alpha", "type") if summary.get(key)}
    return Step("convert", "convert", made, kept, {"source": str(summary.get("source_hash", ""))})


def _lineage(made: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    """The stages of a run that led to the product `made`, in the order of the run."""
    by_product = {row.get("product_hash"): row for row in rows}
    wanted, open_ends = set(), [made]
    while open_ends:
        row = by_product.get(open_ends.pop())
        if row is None or row["name"] in wanted:
            continue
        wanted.add(row["name"])
        # An input may be several files or an ensemble: hashes with + between.
        open_ends += [part for found in row["inputs"].values() for part in str(found).split("+")]
    for row in rows:
        if row["name"] in wanted:
            yield Step(row["name"], row["verb"], row["product_hash"], row["config"], row["inputs"])


def _nested(made: str, name: str, stage: Mapping[str, Any]) -> Iterator[Step]:
    """The stage of a checkpoint outside a pipeline, after what made its sources as far as they say."""
    if not stage:
        return
    inputs = stage.get("inputs", {})
    for key, source in stage.get("made_from", {}).items():
        yield from _nested(inputs.get(key, ""), str(source.get("verb", key)), source)
    yield Step(name, str(stage.get("verb", "")), made, stage.get("config", {}), inputs)


def _evaluations(made: str, run: Path) -> dict[str, list[Measure]]:
    """What the run's evaluations say of the model with this hash."""
    found: dict[str, list[Measure]] = {}
    for path in sorted(run.glob("*/config.json")):
        identity = _read(path)
        if identity.get("verb") not in ("eval", "evaluate"):
            continue
        summary = _read(path.with_name("summary.json"))
        for key, value in identity.get("inputs", {}).items():
            name = key.removeprefix("model ")
            if value == made and name != key and name in summary.get("models", {}):
                rows = _measures(summary["models"][name])
                rows += [
                    Measure(pair, rate["mean"], rate["low"], rate["high"])
                    for pair, rate in summary.get("win_rate", {}).items()
                    if pair.startswith(f"{name}_over_")
                ]
                found[path.parent.name] = rows
    return found


def _own(summary: Mapping[str, Any]) -> list[Measure]:
    """Numbers of a stage's summary: of PPO those of its last round."""
    return _measures(summary.get("last") or summary)


def _measures(row: Mapping[str, Any]) -> list[Measure]:
    """Plain numbers with `_low` and `_high`, or `_interval`, beside them."""
    found = []
    for name, value in row.items():
        ends = row.get(f"{name}_interval") or (row.get(f"{name}_low"), row.get(f"{name}_high"))
        part = name.endswith(("_low", "_high")) and name.rpartition("_")[0] in row
        timed = name.startswith("seconds") or name.endswith("tokens_per_second") or name == "mfu"
        counted = name in _NOT_MEASURES or timed
        if isinstance(value, float) and math.isfinite(value) and not part and not counted:
            found.append(Measure(name, value, *ends))
    return found


def _parameters(folder: Path) -> int:
    """Numbers in the weights, from the files' headers."""
    total = 0
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
