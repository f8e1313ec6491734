"""Labelers' rankings, judges and the `eval` verb, with a random tiny model on a small practice world."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from instructgpt.cli import main
from instructgpt.data.records import Prompt, RankedResponse, Ranking, read_prompts, read_rankings, read_texts
from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.evaluation.collect import CollectConfig, WorldStageConfig, agreement, run, write
from instructgpt.evaluation.compare import EvalConfig
from instructgpt.evaluation.compare import run as evaluate
from instructgpt.evaluation.judge import WorldJudge, load_judge, open_world
from instructgpt.evaluation.reward_accuracy import accuracy, compare_rewards, ranked_by, scores_of
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.runtime.metrics import read_metrics
from instructgpt.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    sizes = {"demonstrations": 10, "demonstrations_valid": 2, "reward": 6, "ppo": 2, "eval": 12, "valid": 6}
    write(WorldStageConfig(out=str(folder), seed=2, people=12, pretrain=40, pretrain_valid=5, **sizes))
    return folder


@pytest.fixture(scope="module")
def make_model(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    texts = [text.text for text in read_texts(world / "pretrain.jsonl")]
    tokenizer = train_tokenizer(texts, 320)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=256)

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("model") / f"model-{seed}"
        write_checkpoint(new_language_model(config, seed), tokenizer, folder)
        return folder

    return make


def ranking(*ranks: int) -> Ranking:
    texts = ("a", "b b", "c c c", "d d d d")
    responses = tuple(RankedResponse(t, r) for t, r in zip(texts, ranks, strict=False))
    return Ranking(Prompt.of("which?"), responses)


def test_agreement_counts_pairs_that_neither_ties() -> None:
    # pairs ab, ac, bc: the first ties bc; of ab (same order) and ac (reversed) one agrees
    assert agreement([ranking(1, 2, 2)], [ranking(2, 3, 1)]) == (0.5, 2)
    assert agreement([ranking(1, 1)], [ranking(1, 2)]) == (0.5, 0)


def test_true_order_keeps_ties() -> None:
    ranked = ranked_by([[0.5, 0.9, 0.5]], [ranking(1, 2, 3)])[0]
    assert [response.rank for response in ranked.responses] == [2, 1, 2]


def test_accuracy_by_hand() -> None:
    # order a > b > c; scores put c first: of ab, ac, bc only ab is right
    assert accuracy([[0.5, 0.3, 0.9]], [ranking(1, 2, 3)]) == (1 / 3, 3)
    found = compare_rewards([[0.5, 0.3, 0.9]], [ranking(1, 2, 3)], [ranking(1, 2, 3)] * 4)
    assert found["accuracy"] == 1 / 3 and found["pairs"] == 3
    assert found["baselines"]["shorter"] == 1.0 and found["baselines"]["longer"] == 0.0
    # ab and bc are neighbours in rank, ac is not
    assert [(row["name"], row["accuracy"]) for row in found["by_rank_distance"]] == [("1", 0.5), ("2", 0.0)]
    assert scores_of(lambda prompts, texts: [float(len(t)) for t in texts], [ranking(1, 2)]) == [[1.0, 3.0]]


def test_world_judge_finds_the_task_of_a_prompt(world: Path) -> None:
    judge = load_judge(f"practice:{world}")
    assert isinstance(judge, WorldJudge)
    prompts = read_prompts(world / "prompts_eval.jsonl")
    task = judge.world.task(prompts[0].id)
    reply = judge.world.demonstration(task, "x")
    assert judge.score([prompts[0]], [reply]) == [judge.world.utility(task, reply)]
    with pytest.raises(DataError, match=r"not of practice world 3.*practice:runs/demo/world"):
        load_judge("practice", seed=3).score([prompts[0]], [reply])
    with pytest.raises(ConfigError, match="no practice world"):
        open_world(world / "nowhere")


def test_labelers_rank_what_the_model_says(
    world: Path, make_model: Callable[[int], Path], tmp_path: Path
) -> None:
    config = CollectConfig(
        out=str(tmp_path / "collect"),
        world=str(world),
        model=str(make_model(0)),
        prompts=str(world / "prompts_reward.jsonl"),
        valid=str(world / "prompts_valid.jsonl"),
        max_new=6,
        seed=5,
    )
    summary = run(config)
    rankings = read_rankings(tmp_path / "collect" / "rankings.jsonl")
    first = read_rankings(tmp_path / "collect" / "rankings_valid.jsonl")
    second = read_rankings(tmp_path / "collect" / "rankings_second.jsonl")
    assert summary["prompts"] == len(rankings) == 6 and summary["valid_prompts"] == 6
    assert all(4 <= len(ranking.responses) <= 9 for ranking in rankings + first)
    assert summary["replies"] == sum(len(ranking.responses) for ranking in rankings)
    for a, b in zip(first, second, strict=True):
        assert a.prompt == b.prompt and a.labeler != b.labeler
        assert [x.text for x in a.responses] == [x.text for x in b.responses]
    assert (summary["agreement"], summary["agreement_pairs"]) == agreement(first, second)
    untied = [(x.rank, y.rank) for r in rankings for i, x in enumerate(r.responses) for y in r.responses[:i]]
    assert summary["comparisons"] == sum(a != b for a, b in untied)
    with pytest.raises(ConfigError, match="at least 2 replies"):
        CollectConfig(smallest=1)
    with pytest.raises(ConfigError, match="tpu"):
        run(replace(config, out=str(tmp_path / "other"), device="tpu"))


def test_replies_do_not_depend_on_how_many_are_sampled(
    world: Path, make_model: Callable[[int], Path]
) -> None:
    candidate = Candidate.load("a", make_model(0))
    prompts = read_prompts(world / "prompts_eval.jsonl")[:5]
    three = answer(candidate, prompts, samples=3, max_new=8, seed=1)
    one = answer(candidate, prompts[2:4], max_new=8, seed=1)[0]
    assert [reply.ids for reply in three[0].replies[2:4]] == [reply.ids for reply in one.replies]
    assert len(three) == 3 and three[1].ids != three[0].ids
    assert three[0].head(2).texts == three[0].texts[:2]


def test_eval_compares_models_with_the_first(
    world: Path, make_model: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = make_model(0), make_model(1)
    arguments = [
        *("eval", "--models", f"start={first},same={first},other={other}"),
        *("--prompts", str(world / "prompts_eval.jsonl"), "--text", str(world / "pretrain_valid.jsonl")),
        *("--judge", f"practice:{world}", "--out", str(tmp_path / "eval"), "--max-new", "8"),
    ]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    models = summary["models"]
    assert models["start"]["kl"] == 0.0 and models["same"]["kl"] == 0.0 and models["other"]["kl"] > 0
    assert models["same"]["score"] == models["start"]["score"]  # the same replies, keyed by prompt
    assert models["same"]["text_loss"] == models["start"]["text_loss"] != models["other"]["text_loss"]
    assert summary["win_rate"]["same_over_start"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 12}
    assert set(summary["win_rate"]) == {"same_over_start", "other_over_start"}
    even = summary["win_rate_at_equal_length"]
    assert even["same_over_start"] == 0.5 and set(even) == set(summary["win_rate"])
    rows = read_metrics(tmp_path / "eval" / "samples.jsonl")
    assert len(rows) == 12 and set(rows[0]["replies"]) == {"start", "same", "other"}
    assert main(arguments) == 0  # finished before: shown again
    table = capsys.readouterr().out
    assert "wins over the first" in table and "at equal length" in table
    assert f"{even['other_over_start']:.3f}\n" in table


@pytest.mark.parametrize(
    ("judge", "prompts"),
    [
        ("length_judge:score", True),
        ("practice:{world}", True),
        *((judge, False) for judge in ("length_judge:score", "practice", "practice:", "practice:{world}")),
    ],
)
def test_every_kind_of_judge_is_taken(
    judge: str,
    prompts: bool,
    world: Path,
    make_model: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without prompts there is nothing to judge, whatever the flag says."""
    (tmp_path / "length_judge.py").write_text(
        "def score(prompts, replies):\n    print('noise')\n    return [len(reply) for reply in replies]\n"
    )
    monkeypatch.chdir(tmp_path)
    spec = judge.replace("{world}", str(world))
    config = EvalConfig(
        models=f"a={make_model(0)}",
        prompts=str(world / "prompts_eval.jsonl") if prompts else "",
        text=str(world / "pretrain_valid.jsonl"),
        judge=spec,
        out=str(tmp_path / "eval"),
        count=3,
        max_new=4,
        seed=2,
        device="cpu",
    )
    summary = evaluate(config)
    assert ("score" in summary["models"]["a"]) == prompts
    if prompts:
        name = "length_judge:score" if judge.startswith("length") else "hidden utility of practice world 2"
        assert summary["judge"] == name
    assert evaluate(config) == summary  # finished


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "x.jsonl"], "no models were named"),
        (["--models", "{model}"], "nothing to measure"),
        (["--models", "{model},{model}", "--text", "x.jsonl"], "two models are called"),
        (["--models", "nowhere", "--text", "x.jsonl"], "there is no such folder"),
        (["--models", "{model}", "--prompts", "nowhere.jsonl"], "there is no such file"),
        (["--models", "{model}", "--count", "-1"], "negative"),
    ],
)
def test_mistakes_of_eval_are_one_paragraph(
    arguments: list[str],
    message: str,
    make_model: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = str(make_model(0))
    filled = [argument.replace("{model}", model) for argument in arguments]
    assert main(["eval", *filled, "--out", str(tmp_path / "eval")]) == 2
    assert not (tmp_path / "eval").exists()
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
