"""Files of a practice world: complete, readable, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

from instructgpt.data.records import read_demonstrations, read_prompts, read_texts
from instructgpt.practice import World, WorldConfig, WorldSizes, write_world

_SIZES = WorldSizes(40, 10, 60, 20, 30, 50, 40, 15)


def test_write_world(tmp_path: Path) -> None:
    config = WorldConfig(seed=3)
    summary = write_world(config, tmp_path / "a", _SIZES)
    write_world(config, tmp_path / "b", _SIZES)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {name: file["records"] for name, file in summary["files"].items()} == {
        "pretrain": 40,
        "pretrain_valid": 10,
        "demonstrations": 60,
        "demonstrations_valid": 20,
        "prompts_reward": 30,
        "prompts_ppo": 50,
        "prompts_eval": 40,
        "prompts_valid": 15,
    }


def test_files_are_read_by_the_data_room(tmp_path: Path) -> None:
    summary = write_world(WorldConfig(seed=3), tmp_path, _SIZES)
    paths = {name: file["path"] for name, file in summary["files"].items()}
    assert len(read_texts(paths["pretrain"])) == 40
    demonstrations = read_demonstrations(paths["demonstrations"])
    prompts = read_prompts(paths["prompts_eval"])
    world = World(WorldConfig(seed=3))
    for prompt in (prompts[0], demonstrations[0].prompt):
        task = world.task(prompt.id)
        assert prompt.messages[-1].content == task.prompt
        assert (prompt.user_id, prompt.category, prompt.split) == (task.user_id, task.category, task.split)
    held_out = {
        json.loads(line)["prompt"] for line in Path(paths["prompts_valid"]).read_text("utf-8").splitlines()
    }
    tuned_on = read_demonstrations(paths["demonstrations_valid"])
    assert not held_out & {d.prompt.messages[-1].content for d in tuned_on}
