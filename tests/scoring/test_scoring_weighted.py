"""Weighted sums: how they are written, what they add up to, and who reads ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.ask import failures, leaves, score_records, score_sampled
from instructgpt.scoring.reward import RewardModel, load_reward, resolve_reward, reward_models
from instructgpt.scoring.selftest import TEXTS, write_selftest
from instructgpt.scoring.service import ServiceReward
from instructgpt.scoring.spec import Term, kind_of, terms_of
from instructgpt.scoring.weighted import Part, WeightedSum
from instructgpt.text.tokenizer import train_tokenizer


@pytest.mark.parametrize(
    ("spec", "terms"),
    [
        ("0.7*runs/rm + 0.3*m:f", [("rm", 0.7, "runs/rm"), ("f", 0.3, "m:f")]),
        ("good = 2 * verify:exact", [("good", 2.0, "verify:exact")]),
        ("m:f + -.5*verify:json", [("f", 1.0, "m:f"), ("json", -0.5, "verify:json")]),
        ('verify:includes(text="a + b") + 1e-1*m:f',
         [("includes", 1.0, 'verify:includes(text="a + b")'), ("f", 0.1, "m:f")]),
        ("3*http://h:80/a/judge?x=1*2", [("judge", 3.0, "http://h:80/a/judge?x=1*2")]),
        ("x=a,b + 2*http://my-host", [("x", 1.0, "a,b"), ("my_host", 2.0, "http://my-host")]),
        ("runs/rm/checkpoints/step-000010 + m:f",
         [("rm", 1.0, "runs/rm/checkpoints/step-000010"), ("f", 1.0, "m:f")]),
    ],
)  # fmt: skip
def test_how_sums_are_written(spec: str, terms: list[tuple[str, float, str]]) -> None:
    assert kind_of(spec) == "sum"
    assert terms_of(spec) == [Term(*term) for term in terms]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("m:f", "function"),
        ("runs/rm", "function"),  # no such folder
        ("a,b", "models"),
        ("https://h/a+b?c=d,e", "service"),
        ("verify:words(at_least=1, at_most=2)", "verify"),
    ],
)
def test_what_is_no_sum(spec: str, kind: str) -> None:
    assert kind_of(spec) == kind


def test_a_folder_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a + b", "2*c", "d=e"):
        Path(name).mkdir()
        assert kind_of(name) == "models"
    assert terms_of("0.5*d=e + x:y")[0] == Term("d_e", 0.5, "d=e")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("m:f + n:f", "has the name of another: 'f'"),
        ("m:disagreement + n:g", "has a metric's name: 'disagreement'"),
        ("0*m:f + n:g", "has the weight 0"),
        ("1e999*m:f + n:g", "has the weight 1e999"),
        ("2*3*m:f", "a sum itself: '3\\*m:f'"),
        ("m:f + ", "no such folder"),
    ],
)
def test_sums_that_make_no_sense(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_reward(spec)
    assert "--reward" in str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rm") / "rm"
    path.mkdir()
    tokenizer = train_tokenizer([f"{p} {r}" for p, r in TEXTS], 300)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=64)
    model = new_scalar_model(config, 1)
    save_model(model, path, special={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    tokenizer.save(path)
    write_selftest(path, model, tokenizer)
    return path


def test_the_sum_and_its_parts(folder: Path) -> None:
    """A reward model within a sum reads the ids that were sampled, as it does alone, also of a cut reply."""
    reward = load_reward(f"0.5*{folder} + exact=2*verify:exact + -0.25*verify:words(at_most=1)")
    assert isinstance(reward, WeightedSum) and len(list(leaves(reward))) == 3 and failures(reward) is None
    alone = RewardModel.load(folder)
    prompts = [Prompt.of("a", answers=("red",)), Prompt.of("b", answers=("blue",))]
    ids = [[5, 6, 7], [8, 9]]
    found = score_sampled(reward, alone.tokenizer, prompts, ["Red.", "blue sky"], ids)
    assert list(found.parts) == ["rm", "exact", "words"]
    torch.testing.assert_close(found.parts["rm"], alone.score_ids(ids))
    assert found.parts["exact"].tolist() == [1.0, 0.0] and found.parts["words"].tolist() == [1.0, 0.0]
    # reply 1: half its score + 2 - 0.25; reply 2: half its score
    expected = 0.5 * alone.score_ids(ids) + torch.tensor([1.75, 0.0])
    torch.testing.assert_close(found.total, expected)
    texts = score_records(reward, prompts, ["Red.", "blue sky"])
    plain = alone.score([p.messages for p in prompts], ["Red.", "blue sky"])
    assert texts == pytest.approx([0.5 * plain[0] + 1.75, 0.5 * plain[1]], abs=1e-6)


def test_the_checkpoints_within(folder: Path) -> None:
    assert reward_models(f"0.5*{folder} + verify:exact + m:f") == [folder]
    assert reward_models(str(folder)) == [folder]
    assert reward_models("verify:exact") == reward_models("m:f") == reward_models("") == []
    assert resolve_reward(f"{folder},{folder}") == f"{folder},{folder}"
    for spec in (f"0.5*{folder} + m:f", "http://h/s,t", "verify:words(at_least=1, at_most=2)", "m:f", ""):
        assert resolve_reward(spec) == spec


def test_failures_of_services_are_counted_together() -> None:
    services = [ServiceReward(f"http://h{n}/") for n in range(2)]
    services[0].failures, services[1].failures = 2, 3
    reward = WeightedSum([Part(str(n), 1.0, service) for n, service in enumerate(services)])
    assert failures(reward) == 5 and failures(services[1]) == 3
    assert "?" not in reward.name
