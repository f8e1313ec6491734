"""The practice world: determinism, shares, splits and what its text holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from random import Random
from statistics import mean, pstdev

import pytest

from instructgpt.errors import ConfigError, DataError
from instructgpt.practice import Task, World, WorldConfig
from instructgpt.practice.replies import Quality, write_reply
from instructgpt.practice.tasks import CATEGORY_SHARES, SPLIT_BUCKETS
from instructgpt.practice.write import distinct_tasks

_DIGEST = """
import hashlib
from instructgpt.practice import World, WorldConfig, labelers, rank
world = World(WorldConfig(seed=7))
digest = hashlib.sha256()
for text in (*world.corpus("train", 50), *world.corpus("valid", 10)):
    digest.update(text.encode())
for index in range(60):
    task = world.task(f"reward-{index:06d}")
    replies = [world.demonstration(task, str(k)) for k in range(4)]
    judged = rank(world, labelers(7)[index % 15], task, replies, "first")
    digest.update(repr((task, replies, [world.utility(task, r) for r in replies], judged)).encode())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig())


@pytest.fixture(scope="module")
def tasks(world: World) -> list[Task]:
    return list(distinct_tasks(world, "sft", 6_000))


def test_two_processes_make_the_same_world() -> None:
    """String hashes differ between the processes on purpose."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_seeds_make_different_worlds() -> None:
    first, second = World(WorldConfig(seed=1)), World(WorldConfig(seed=2))
    assert first.facts.of != second.facts.of
    assert first.task("sft-000001").prompt != second.task("sft-000001").prompt


def test_category_shares_follow_table_1(tasks: list[Task]) -> None:
    """Shares in per cent of the paper's Table 1, within four standard errors of a sample of 6,000."""
    found = Counter(task.category for task in tasks)
    for category, percent in CATEGORY_SHARES.items():
        p = percent / 99.9
        assert found[category] / len(tasks) == pytest.approx(
            p, abs=4 * (p * (1 - p) / len(tasks)) ** 0.5 + 0.01
        )


def test_slices_and_languages(tasks: list[Task]) -> None:
    """20 % harmful, 30 % Chinese; unknowable, where the draw is none of the harmful:

    0.08 * 45.6 + 0.45 * 12.4 + 0.25 * 8.4 + 0.4 * 2.6 = 12.4 %.
    """
    groups = Counter(task.group for task in tasks)
    assert groups["harmful"] / len(tasks) == pytest.approx(0.2, abs=0.02)
    assert groups["unknowable"] / len(tasks) == pytest.approx(0.124, abs=0.02)
    assert mean(task.language == "zh" for task in tasks) == pytest.approx(0.3, abs=0.03)


def test_splits_share_no_user_and_no_prompt(world: World) -> None:
    """Invariant 11: no user in two splits; nor any prompt text."""
    users, prompts = {}, {}
    for split in SPLIT_BUCKETS:
        chosen = list(distinct_tasks(world, split, 800))
        users[split] = {task.user_id for task in chosen}
        prompts[split] = {task.prompt for task in chosen}
        assert len(prompts[split]) == 800
    for a in SPLIT_BUCKETS:
        for b in SPLIT_BUCKETS:
            if a < b:
                assert not users[a] & users[b]
                assert not prompts[a] & prompts[b]


def test_no_user_has_more_than_200_prompts(world: World) -> None:
    users = Counter(world.task(f"sft-{index:06d}").user_id for index in range(12_000))
    assert max(users.values()) <= 200


def test_demonstrations_are_of_mixed_quality(world: World, tasks: list[Task]) -> None:
    """Mean utility 0.50 to 0.65; asks obeyed in 50 to 65 %; correct in about 75 %; utilities spread out."""
    replies = [world.demonstration(task, "test") for task in tasks]
    parts = [world.utility_parts(task, reply) for task, reply in zip(tasks, replies, strict=True)]
    utilities = [world.utility(task, reply) for task, reply in zip(tasks, replies, strict=True)]
    assert all(0.0 <= u <= 1.0 for u in utilities)
    assert all(0.0 <= value <= 1.0 for row in parts for value in row.values())
    assert 0.50 <= mean(utilities) <= 0.65
    assert pstdev(utilities) > 0.2
    for ask in ("tone", "name", "end", "start"):
        assert 0.45 <= mean(row[ask] for row in parts if ask in row) <= 0.65
    assert 0.40 <= mean(row["polite"] for row in parts) <= 0.65
    assert 0.68 <= mean(row["correct"] for row in parts) <= 0.80
    assert mean(row["fluent"] for row in parts) > 0.999


def test_careful_writers_reach_utility_one(world: World, tasks: list[Task]) -> None:
    """Every task has a reply worth 1: the parts never contradict each other."""
    careful = Quality(1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, (0.0, 0.0), 0.0, 0.0)
    for task in tasks[:2_000]:
        reply = write_reply(task.spec, task.language, world.facts, careful, Random(task.id))
        assert world.utility(task, reply) == pytest.approx(1.0), (task.prompt, reply)


def test_reply_and_prompt_lengths(world: World, tasks: list[Task]) -> None:
    replies = [world.demonstration(task, "test").split() for task in tasks if task.language == "en"]
    lengths = sorted(len(reply) for reply in replies)
    assert 8 <= lengths[len(lengths) // 2] <= 16
    assert lengths[-1] <= 60
    assert max(len(task.prompt.split()) for task in tasks) <= 50


def test_keys_vary_replies(world: World, tasks: list[Task]) -> None:
    assert world.demonstration(tasks[0], "a") == world.demonstration(tasks[0], "a")
    assert len({world.demonstration(tasks[0], str(key)) for key in range(20)}) > 5


def test_corpus_prefixes_and_splits(world: World) -> None:
    short, long = list(world.corpus("train", 20)), list(world.corpus("train", 40))
    assert long[:20] == short
    assert not set(long) & set(world.corpus("valid", 40))
    assert not any("<|" in text for text in long)
    chinese = mean(any("\u4e00" <= c <= "\u9fff" for c in text) for text in world.corpus("train", 1_000))
    assert chinese == pytest.approx(0.3, abs=0.05)


def test_an_echo_repeats_its_words(world: World) -> None:
    echoes = [text for text in world.corpus("train", 400) if ". again: " in text]
    assert len(echoes) > 20
    for text in echoes:
        first, rest = text.split(". again: ", 1)
        assert rest.startswith(first + ".")


def test_errors() -> None:
    with pytest.raises(ConfigError, match="people is 3"):
        WorldConfig(people=3)
    with pytest.raises(ConfigError, match="chinese"):
        replace(WorldConfig(), chinese=1.5)
    world = World(WorldConfig())
    for bad in ("sft-12", "test-000001", "000001"):
        with pytest.raises(DataError, match="no task id"):
            world.task(bad)
    with pytest.raises(ConfigError, match="no split"):
        next(world.corpus("test", 1))
