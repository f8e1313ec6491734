"""The flywheel: people who talk to a served model, a decision by what they prefer, forgetting, the file."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from instructgpt.data.records import Prompt, read_demonstrations, read_rankings
from instructgpt.errors import ConfigError, ServiceError
from instructgpt.evaluation.promote import PromoteConfig, _compare, wins
from instructgpt.evaluation.rounds import forgetting
from instructgpt.evaluation.served import Client, serving
from instructgpt.evaluation.statistics import Estimate
from instructgpt.evaluation.users import UsersConfig, talk
from instructgpt.pipeline import RunConfig, run
from instructgpt.practice import World, WorldConfig, labelers, rank
from instructgpt.runtime.seeds import derive_seed
from instructgpt.serving.export import DataConfig
from instructgpt.serving.export import run as export

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "flywheel.toml"


def world_and_prompts(count: int) -> tuple[World, list[Prompt]]:
    world = World(WorldConfig(seed=4, people=12))
    tasks = [world.task(f"reward-{number:06d}") for number in range(count)]
    return world, [Prompt.of(task.prompt, id=task.id, user_id=task.user_id) for task in tasks]


def test_people_say_what_they_think_over_http(
    start_server: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Each row is what the labeler drawn for the prompt thinks, and it comes out of `data feedback`."""
    world, prompts = world_and_prompts(24)
    server = start_server(models=(f"policy={tiny_checkpoint}",))
    config = UsersConfig(seed=5, edits=1.0, consent=0.7, max_new=12, parallel=4)
    with closing(Client(server.port)) as client:
        told = talk(config, world, client, prompts)
    source = server.state.config.feedback
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").split("\n") if line]
    by_prompt = {row["prompt"][0]["content"]: row for row in rows if row["kind"] == "comparison"}
    silent = [row["silent"] for row in told]
    assert 0 < sum(silent) < 24 and len(by_prompt) == 24 - sum(silent)
    people = labelers(4)
    for prompt, quiet in zip(prompts, silent, strict=True):
        row = by_prompt.get(prompt.text)
        assert (row is None) == quiet, "who does not consent sends nothing"
        if row is None:
            continue
        person = people[derive_seed(5, "users", prompt.id) % len(people)]
        texts = [reply["text"] for reply in row["replies"]]
        ranks = rank(world, person, world.task(prompt.id), texts, "5|users").ranks
        assert row["choice"] in (
            (0,) if ranks == (1, 2) else (1,) if ranks == (2, 1) else ("tie", "both_bad")
        )
        assert row["user"] == prompt.user_id and row["replies"][0]["parameters"]["n"] == 2
    edits = sum(row["kind"] == "edit" for row in rows)
    assert edits == sum(row["edits"] for row in told) > 0
    export(DataConfig(source=source, out=str(tmp_path / "out")))
    assert len(read_rankings(tmp_path / "out" / "rankings.jsonl")) == len(by_prompt)
    demonstrations = read_demonstrations(tmp_path / "out" / "demonstrations.jsonl")
    assert len(demonstrations) == edits
    # A random model says nothing of worth, so what people write instead is better.
    task_of = {prompt.text: world.task(prompt.id) for prompt in prompts}
    better = [world.utility(task_of[d.prompt.text], d.response) for d in demonstrations]
    assert sum(better) / len(better) > 0.5 > sum(row["utility"] for row in told) / 24


def test_a_model_against_itself_wins_half(start_server: Any, tiny_checkpoint: Path) -> None:
    """Equal models, equal seeds: equal replies, all ties; and the order is drawn."""
    world, prompts = world_and_prompts(8)
    server = start_server(models=(f"current={tiny_checkpoint}", f"candidate={tiny_checkpoint}"))
    with closing(Client(server.port)) as client:
        rows = _compare(PromoteConfig(seed=1, max_new=8, parallel=4), world, client, prompts)
    assert [row["current"] for row in rows] == [row["candidate"] for row in rows]
    lines = Path(server.state.config.feedback).read_text(encoding="utf-8").split("\n")
    first = {json.loads(line)["replies"][0]["model"] for line in lines if line}
    assert first == {"current", "candidate"}
    assert {row["won"] for row in rows} <= {0.0, 0.5, 1.0}


def test_the_interval_decides_not_the_mean() -> None:
    assert wins(Estimate(0.55, 0.51, 0.59, 600))
    assert not wins(Estimate(0.55, 0.49, 0.61, 200))
    assert not wins(Estimate(0.5, 0.5, 0.5, 600))


def test_forgetting_by_hand() -> None:
    """Kind a: 0.5, 0.7, 0.6 and b: 0.4, 0.3, 0.5. Round 1 lost 0.5-0.7=-0.2 of a and 0.1 of b: mean -0.05.
    Round 2 lost 0.7-0.6=0.1 of a and 0.4-0.5=-0.1 of b: mean 0."""
    found = forgetting([{"a": 0.5, "b": 0.4}, {"a": 0.7, "b": 0.3}, {"a": 0.6, "b": 0.5}])
    assert found[0] == {"forgetting": 0.0, "forgetting_worst": None}
    assert found[1]["forgetting"] == pytest.approx(-0.05)
    assert found[1]["forgetting_worst"] == {"kind": "b", "lost": pytest.approx(0.1)}
    assert found[2]["forgetting"] == pytest.approx(0.0)
    assert found[2]["forgetting_worst"] == {"kind": "a", "lost": pytest.approx(0.1)}


def test_mistakes_say_the_cure() -> None:
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        UsersConfig(consent=1.5)
    prompts = world_and_prompts(1)[1]
    client = Client(1)  # nobody listens there
    with pytest.raises(ServiceError, match="does not answer"):
        client.chat("policy", prompts[0], {})


@pytest.mark.slow
def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServiceError, match=r"no finished model"),
        serving({"policy": tmp_path}, tmp_path / "f"),
    ):
        pass


SMALL = """
world.people=12 world.pretrain=200 world.pretrain_valid=20 world.demonstrations=150 world.reward=90
world.demonstrations_valid=20 world.ppo=40 world.eval=60 world.valid=60 tokenizer.vocab_size=400
pretrain.width=32 pretrain.layers=1 pretrain.heads=2 pretrain.steps=20 sft.epochs=1.0 sft.eval_prompts=4
sft.max_new=12 rounds.count=60 rounds.max_new=12
"""
EACH = """
users_{r}.count=30 users_{r}.edits=1.0 users_{r}.max_new=12 imitate_{r}.epochs=1.0 ppo_{r}.iterations=1
ppo_{r}.batch=8 ppo_{r}.minibatches=1 ppo_{r}.max_new=12 promote_{r}.count=20 promote_{r}.max_new=12
reward_{r}.demonstrations_limit=20
"""


@pytest.mark.slow
def test_the_example_runs_whole(tmp_path: Path) -> None:
    """Every stage of examples/flywheel.toml, with real servers, on a model too small to learn anything."""
    changes = SMALL.split() + [each.format(r=r) for r in (1, 2, 3) for each in EACH.split()]
    changes += [f"users_{r}.start={30 * (r - 1)}" for r in (1, 2, 3)]
    changes += [f"promote_{r}.start={20 * (r - 1)}" for r in (1, 2, 3)]
    summary = run(RunConfig(file=str(EXAMPLE), out=str(tmp_path / "run"), set=tuple(changes)))
    rounds = summary["rounds"]
    assert list(rounds) == ["0", "1", "2", "3"]
    for number, before in (("1", "0"), ("2", "1"), ("3", "2")):
        row = rounds[number]
        assert row["promoted"] == (row["win_rate"]["low"] > 0.5)
        same = Path(row["checkpoint"]).resolve() == Path(rounds[before]["checkpoint"]).resolve()
        assert same != row["promoted"], "the model in use changes only by promotion"
        assert 0 <= row["utility"] <= 1 and row["pretrain_loss"] > 0 and row["forgetting_worst"] is not None
    gain = rounds["3"]["utility"] - rounds["0"]["utility"]
    assert summary["gain"]["mean"] == pytest.approx(gain)
    again = run(RunConfig(file=str(EXAMPLE), out=str(tmp_path / "run"), set=tuple(changes)))
    assert again["gain"] == summary["gain"]
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())["stages"]
    assert {stage["state"] for stage in lineage} == {"skipped"}
