"""Runs inside a run: `--members` and `--folds`, each part a complete run, resumed where it stopped."""

import json
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.data.records import Prompt, RankedResponse, Ranking, read_rankings
from instructgpt.errors import CheckError, ConfigError, DataError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_scalar_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.reward_model import train as stage
from instructgpt.reward_model.folds import make_folds
from instructgpt.reward_model.train import RewardConfig, train
from instructgpt.scoring.reward import Ensemble, RewardModel, load_reward
from instructgpt.text.tokenizer import train_tokenizer

PEOPLE = [f"labeler-{n:02d}" for n in range(6)]


def row(number: int) -> dict[str, Any]:
    """Labelers 4 and 5 like "bad", the others "good": what one fold has not seen is the other way round."""
    labeler = number % 6
    words = ["good", "fair", "bad"] if labeler < 4 else ["bad", "fair", "good"]
    replies = [{"text": f"{word} {number % 7}", "rank": rank} for rank, word in enumerate(words, start=1)]
    random.Random(number).shuffle(replies)
    return {
        "prompt": f"number {number}?",
        "responses": replies,
        "labeler": PEOPLE[labeler],
        "category": "chat" if number % 2 else "rewrite",
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    lines = [json.dumps(row(n)) + "\n" for n in range(72)]
    (folder / "rankings.jsonl").write_text("".join(lines))
    tokenizer = train_tokenizer(lines, 280)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=48)
    write_checkpoint(new_language_model(config, seed=3), tokenizer, folder / "base")
    return folder


def config(world: Path, out: Path, **more: Any) -> RewardConfig:
    values: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "rankings.jsonl"),
        "validation_share": 0.4,
        "out": str(out),
        "batch": 4,
        "lr": 5e-3,
        "device": "cpu",
    }
    return RewardConfig(**(values | more))


def same_weights(one: Path, other: Path) -> bool:
    left, right = load_scalar_model(one).state_dict(), load_scalar_model(other).state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def ensemble(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(config(world, tmp_path_factory.mktemp("e") / "r", members=3))


def test_the_first_member_is_the_plain_run_and_the_others_differ(
    world: Path, ensemble: dict[str, Any], tmp_path: Path
) -> None:
    plain = train(config(world, tmp_path / "r"))
    folders = [Path(ensemble["out"]) / name for name in ensemble["members"]]
    assert same_weights(folders[0], tmp_path / "r" / plain["checkpoint"])
    assert not same_weights(folders[0], folders[1]) and not same_weights(folders[1], folders[2])
    # the same rankings trained on and held out, in spite of the seeds
    parts = [json.loads((folder.parent.parent / "summary.json").read_text()) for folder in folders]
    for part in parts:
        assert all(part[name] == plain[name] for name in ("rankings", "held_out", "pairs", "training_pairs"))
    assert ensemble["member_accuracy"] == [part["accuracy"] for part in parts]
    assert parts[0]["accuracy"] == plain["accuracy"]


def test_the_ensembles_numbers_are_those_of_its_mean(world: Path, ensemble: dict[str, Any]) -> None:
    reward = load_reward(ensemble["out"])
    assert isinstance(reward, Ensemble) and isinstance(reward.members[0], RewardModel)
    held_out = read_rankings(Path(ensemble["out"]) / "data/valid.jsonl")
    right = pairs = 0
    spreads = []
    for ranking in held_out:
        prompts, texts = [ranking.prompt.messages] * 3, [reply.text for reply in ranking.responses]
        scores = reward.score(prompts, texts)
        each = [member.score(prompts, texts) for member in reward.members]
        spreads += [statistics.pstdev(column) for column in zip(*each, strict=True)]
        for a, one in zip(scores, ranking.responses, strict=True):
            for b, other in zip(scores, ranking.responses, strict=True):
                if one.rank < other.rank:
                    right, pairs = right + (a > b), pairs + 1
    assert ensemble["pairs"] == pairs and ensemble["accuracy"] == pytest.approx(right / pairs)
    found = ensemble["disagreement"]
    assert found["replies"] == pytest.approx(statistics.fmean(spreads), abs=1e-5)
    assert sum(row["pairs"] for row in found["by_tertile"]) == pairs
    assert "members alone" in ensemble["table"]


def test_a_stopped_ensemble_goes_on(
    world: Path, ensemble: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the second member; the first is not trained again, and the end is the same."""
    original, steps = stage.accumulate, [0]

    def fail(*arguments: Any) -> tuple[float, float]:
        steps[0] += 1
        if steps[0] == ensemble["steps"] + 2:
            raise CheckError("planted")
        return original(*arguments)

    mine = config(world, tmp_path / "r", members=3, save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "accumulate", fail)
        with pytest.raises(CheckError, match="planted"):
            train(mine)
    first = tmp_path / "r/member-1/summary.json"
    written = first.stat().st_mtime_ns
    again = train(mine)
    assert first.stat().st_mtime_ns == written
    for name in ensemble["members"]:
        assert same_weights(Path(ensemble["out"]) / name, tmp_path / "r" / name)
    for name in ("accuracy", "member_accuracy", "disagreement", "calibration", "by_category"):
        assert again[name] == ensemble[name]
    assert train(mine) == again


def test_folds_see_the_labelers_that_judge_otherwise(world: Path, tmp_path: Path) -> None:
    """Three folds of two labelers; the last two like what the others dislike."""
    summary = train(config(world, tmp_path / "r", folds=3, epochs=8.0))
    rows = summary["folds"]
    assert [row["held_out_labelers"] for row in rows] == [PEOPLE[:2], PEOPLE[2:4], PEOPLE[4:]]
    assert summary["groups_from"] == "labeler" and summary["left_out"] == 0
    assert rows[2]["own_accuracy"] > 0.9 and rows[2]["held_out_accuracy"] < 0.1
    for name, column in (("own", "own_accuracy"), ("held_out", "held_out_accuracy")):
        values = [row[column] for row in rows]
        assert summary[name]["mean"] == pytest.approx(sum(values) / 3)
        assert summary[name]["standard_error"] == pytest.approx(statistics.stdev(values) / 3**0.5)
    gaps = [row["own_accuracy"] - row["held_out_accuracy"] for row in rows]
    assert summary["difference"]["mean"] == pytest.approx(sum(gaps) / 3)
    assert "checkpoint" not in summary and "labeler-04, labeler-05" in summary["table"]
    # every held-out ranking is measured once as held out and twice as own
    assert sum(row["own_pairs"] for row in rows) == 2 * sum(row["held_out_pairs"] for row in rows)


def test_a_fold_is_the_run_of_its_files(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", folds=2, save_every=2))
    data = tmp_path / "r/fold-1/data"
    alone = train(
        config(
            world,
            tmp_path / "alone",
            data=str(data / "train.jsonl"),
            validation=str(data / "own.jsonl"),
            save_every=2,
        )
    )
    row = summary["folds"][0]
    assert same_weights(tmp_path / "r" / row["checkpoint"], tmp_path / "alone" / alone["checkpoint"])
    assert row["own_accuracy"] == alone["accuracy"]
    trained = {ranking.labeler for ranking in read_rankings(data / "train.jsonl")}
    assert trained.isdisjoint(row["held_out_labelers"])
    asked = [
        {ranking.prompt.id for ranking in read_rankings(data / f"{n}.jsonl")} for n in ("train", "held_out")
    ]
    assert asked[0].isdisjoint(asked[1])
    (tmp_path / "r/summary.json").unlink()  # as after a kill before the last line
    again = train(config(world, tmp_path / "r", folds=2, save_every=2))
    assert again["folds"] == summary["folds"]


def ranking(labeler: str | None, group: str | None = None) -> Ranking:
    replies = (RankedResponse("a", 1), RankedResponse("b", 2))
    return Ranking(Prompt.of("q", group=group), replies, labeler)


def test_given_groups_stay_whole() -> None:
    people = {"anna": "x", "bert": "y", "carl": "x", "dora": "z", "emil": "y"}
    rankings = [ranking(who, group) for who, group in people.items()]
    folds, source = make_folds(rankings, rankings, 3, "file")
    assert source == "group"
    assert [fold.labelers for fold in folds] == [("anna", "carl"), ("bert", "emil"), ("dora",)]
    assert [len(fold.train) for fold in folds] == [3, 3, 4]
    # one labeler in two groups: `group` means something else there
    folds, source = make_folds([*rankings, ranking("anna", "y")], rankings, 3, "file")
    assert source == "labeler"
    assert [fold.labelers for fold in folds] == [("anna",), ("bert", "carl"), ("dora", "emil")]
    # fewer groups than folds
    assert make_folds(rankings, rankings, 5, "file")[1] == "labeler"


def test_rankings_without_a_known_labeler_are_left_out() -> None:
    train_on = [ranking("anna"), ranking("bert"), ranking(None)]
    folds, _ = make_folds(train_on, [*train_on, ranking("zoe")], 2, "file")
    for fold in folds:
        used = [*fold.train, *fold.own, *fold.held_out]
        assert {item.labeler for item in used} == {"anna", "bert"}


def test_wrong_settings_and_data_are_told(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    for wrong, flag in (({"members": 0}, "--members"), ({"folds": 1}, "--folds"), ({"folds": -2}, "--folds")):
        with pytest.raises(ConfigError, match=flag):
            config(world, out, **wrong)
    with pytest.raises(ConfigError, match="exclude each other"):
        config(world, out, members=2, folds=2)
    with pytest.raises(DataError, match="at least 7 labelers, these name 6"):
        train(config(world, out, folds=7))
    with pytest.raises(DataError, match="fold 1 has no held-out rankings by the other labelers"):
        train(config(world, out, folds=2, validation_share=0.0))
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "q", "responses": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]}\n')
    with pytest.raises(DataError, match=r'these name 0.*"labeler"'):
        train(config(world, out, folds=2, data=str(bare)))
    train(replace(config(world, out), members=2, validation_share=0.0))  # the folder is still free


def test_an_ensemble_without_held_out_rankings_measures_nothing(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", members=2, validation_share=0.0))
    assert summary["accuracy"] is None and summary["disagreement"] is None and summary["table"] == ""
    assert isinstance(load_reward(str(tmp_path / "r")), Ensemble)
