"""Write a practice world to disk, in the data format every stage reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import write_jsonl
from instructgpt.practice.tasks import Task
from instructgpt.practice.world import World, WorldConfig


@dataclass(frozen=True)
class WorldSizes:
    """How much to write; documents have about 60 words."""

    pretrain: int = 24_500
    pretrain_valid: int = 400
    demonstrations: int = 12_000
    demonstrations_valid: int = 500
    reward: int = 3_500
    ppo: int = 8_000
    eval: int = 2_000
    valid: int = 500


def write_world(config: WorldConfig, folder: str | Path, sizes: WorldSizes | None = None) -> dict[str, Any]:
    """Write the files of one world, each atomically; equal arguments give equal bytes.

    Files: `pretrain.jsonl`, `pretrain_valid.jsonl` ({"text", "id"}), `demonstrations.jsonl`,
    `demonstrations_valid.jsonl` ({"prompt", "response", ...}) and `prompts_{reward,ppo,eval,valid}.jsonl`
    ({"prompt", ...}) with `id` (a task id, from which the world regenerates the task), `user_id`,
    `category`, `group` and `split`. No user and no prompt text is in two splits, and no prompt text twice
    in one.

    Args:
        config: the world.
        folder: made if missing.
        sizes: records of each file.

    Returns:
        {"folder", "config", "files": {name: {"path", "records"}}}.
    """
    world, sizes = World(config), sizes or WorldSizes()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Iterator[dict[str, Any]]] = {
        "pretrain": _texts(world, "train", sizes.pretrain),
        "pretrain_valid": _texts(world, "valid", sizes.pretrain_valid),
        "demonstrations": (
            _demonstration(world, t) for t in distinct_tasks(world, "sft", sizes.demonstrations)
        ),
    }
    held_out = list(distinct_tasks(world, "valid", sizes.demonstrations_valid + sizes.valid))
    rows["demonstrations_valid"] = (_demonstration(world, t) for t in held_out[: sizes.demonstrations_valid])
    for split, count in (("reward", sizes.reward), ("ppo", sizes.ppo), ("eval", sizes.eval)):
        rows[f"prompts_{split}"] = (_row(t) for t in distinct_tasks(world, split, count))
    rows["prompts_valid"] = (_row(t) for t in held_out[sizes.demonstrations_valid :])
    files = {}
    for name, source in rows.items():
        written = list(source)
        path = folder / f"{name}.jsonl"
        write_jsonl(path, written)
        files[name] = {"path": str(path), "records": len(written)}
    return {"folder": str(folder), "config": asdict(config), "files": files}


def distinct_tasks(world: World, split: str, count: int) -> Iterator[Task]:
    """The first `count` tasks of a split whose prompt text has not come before; repeated ones are skipped."""
    seen: set[str] = set()
    index = 0
    while len(seen) < count:
        task = world.task(f"{split}-{index:06d}")
        index += 1
        if task.prompt not in seen:
            seen.add(task.prompt)
            yield task


def _texts(world: World, split: str, count: int) -> Iterator[dict[str, Any]]:
    for index, text in enumerate(world.corpus(split, count)):
        yield {"text": text, "id": f"text-{split}-{index:06d}"}


def _row(task: Task) -> dict[str, Any]:
    return {
        "prompt": task.prompt,
        "id": task.id,
        "user_id": task.user_id,
        "category": task.category,
        "group": task.group,
        "split": task.split,
        "source": "practice",
    }


def _demonstration(world: World, task: Task) -> dict[str, Any]:
    row = _row(task)
    return {"prompt": row.pop("prompt"), "response": world.demonstration(task, "demonstration"), **row}
