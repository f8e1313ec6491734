"""Reward models: score of the last token, the same in any batch, and a self-test that finds a wrong head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from instructgpt.errors import CheckpointError, DataError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import ScalarModel, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.batches import neighbours, score_ids
from instructgpt.scoring.reward import RewardModel, load_reward
from instructgpt.scoring.selftest import TEXTS, write_selftest
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([f"{p} {r}" for p, r in TEXTS], 320)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ScalarModel:
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=32, layers=2, heads=4, context=96)
    made = new_scalar_model(config, 5)
    made.reward_bias.fill_(0.25)
    return made


@pytest.fixture
def folder(model: ScalarModel, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    path = tmp_path / "reward"
    path.mkdir()
    save_model(model, path, special={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    tokenizer.save(path)
    write_selftest(path, model, tokenizer)
    return path


def sequences(tokenizer: Tokenizer) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 96, (40,), generator=generator).tolist()
    return [torch.randint(0, tokenizer.vocab_size, (n,), generator=generator).tolist() for n in lengths]


def test_score_is_read_at_the_last_token(model: ScalarModel, tokenizer: Tokenizer) -> None:
    """Field faults 4 and 6: by length, with pad and eos ids anywhere in the sequence."""
    ids = [tokenizer.eos_id, 40, 0, 0, 41, tokenizer.eos_id, 0]
    with torch.no_grad():
        hidden = model(torch.tensor(ids), torch.arange(7), [7])
        by_hand = hidden[6] @ model.head.weight[0] - 0.25
    torch.testing.assert_close(score_ids(model, [ids])[0], by_hand, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 100, 8192])
def test_batches_do_not_change_scores_nor_order(
    model: ScalarModel, tokenizer: Tokenizer, max_tokens: int
) -> None:
    """Field fault 8: batch of one = packed micro-batches."""
    rows = sequences(tokenizer)
    alone = torch.cat([score_ids(model, [row]) for row in rows])
    torch.testing.assert_close(score_ids(model, rows, max_tokens), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 100, 8192])
def test_replies_to_one_prompt_score_as_they_do_alone(
    model: ScalarModel, tokenizer: Tokenizer, max_tokens: int
) -> None:
    """Each prompt once where it pays: prompts of 0 to 60 tokens, one to five replies, some of one token."""
    rows = []
    for number, prompt in enumerate(sequences(tokenizer)[:12]):
        replies = sequences(tokenizer)[number : number + 1 + number % 5]
        rows += [prompt[:60] + reply[: 1 + 7 * place] for place, reply in enumerate(replies)]
    alone = torch.cat([score_ids(model, [row]) for row in rows])
    torch.testing.assert_close(score_ids(model, rows, max_tokens), alone, atol=1e-5, rtol=1e-5)


def test_a_shared_prompt_is_read_once(model: ScalarModel) -> None:
    """Two prompts of 20 tokens with three replies of 4 and one of 5, and a stranger: 20 + 12, 25 and 30."""
    one, other = [7] * 20, [9] * 20
    rows = [[*one, place, 2, 3, 4] for place in range(3)] + [[*other, 4, 4, 4, 4, 4], [5] * 30]
    read: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, arguments: read.append(len(arguments[0])))
    score_ids(model, rows)
    assert sum(read) == 32 + 25 + 30
    hook.remove()


@pytest.mark.parametrize(
    ("rows", "max_tokens", "groups"),
    [
        ([], 9, []),
        ([[1, 2, 3]], 1, [[0]]),
        ([[1, 1, 2], [1, 1, 3, 4], [1, 2, 3, 4]], 99, [[0, 1], [2]]),  # 1 1 and 1 2 differ within half of 4
        ([[1, 1, 2]] * 5, 6, [[0, 1], [2, 3], [4]]),
        ([(1, 2, 3, 4), (5, 2, 3, 4), (5, 2, 9, 9)], 99, [[0], [1, 2]]),
    ],
)
def test_neighbours(rows: list, max_tokens: int, groups: list[list[int]]) -> None:
    assert neighbours(rows, max_tokens) == groups


def test_scores_of_nothing() -> None:
    config = ModelConfig.llama(vocab_size=10, width=8, layers=1, heads=2, context=8)
    assert score_ids(new_scalar_model(config, 0), []).shape == (0,)


def test_scores_can_enter_a_gradient(model: ScalarModel) -> None:
    scores = score_ids(model, [[3, 4], [5]])
    weight = torch.ones(2, requires_grad=True)
    (scores * weight).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, scores)


@pytest.mark.parametrize("length", [0, 97])
def test_a_sequence_that_cannot_be_read_is_named(model: ScalarModel, length: int) -> None:
    with pytest.raises(DataError, match=rf"{length} tokens .* 1 to 96 \(sequence 1\)"):
        score_ids(model, [[1], [1] * length])


def test_texts_score_like_their_ids(folder: Path, tokenizer: Tokenizer) -> None:
    """The text-level call reads prompt, reply and one end-of-turn."""
    reward = load_reward(str(folder))
    assert isinstance(reward, RewardModel)
    prompts = [
        (Message("user", "Name a colour."),),
        (Message("system", "Be brief."), Message("user", "你好")),
    ]
    replies = ["Blue.", ""]
    ids = [
        [*render_prompt(tokenizer, prompt), *tokenizer.encode(reply), tokenizer.end_of_turn_id]
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(reward.score(prompts, replies)), reward.score_ids(ids))


def test_selftest_holds_eight_texts(folder: Path) -> None:
    rows = json.loads((folder / "selftest.json").read_text(encoding="utf-8"))["texts"]
    assert len(rows) == 8
    assert any(not row["prompt"].isascii() for row in rows) and any(row["reply"].isascii() for row in rows)


def test_selftest_fits_a_tiny_context(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=8, layers=1, heads=2, context=6)
    write_selftest(tmp_path, new_scalar_model(config, 0), tokenizer)
    assert (tmp_path / "selftest.json").exists()


def damage_head(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["score.weight"] = torch.randn(tensors["score.weight"].shape) * 0.1
    save_file(tensors, path, metadata={"format": "pt"})


def damage_bias(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reward_bias": 0.0}))


def damage_tokenizer(folder: Path) -> None:
    train_tokenizer(["entirely other words " * 3], 290).save(folder)


@pytest.mark.parametrize("damage", [damage_head, damage_bias, damage_tokenizer])
def test_a_wrong_head_bias_or_tokenizer_is_found(folder: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """Field fault 19: the folder loads, the numbers are noise, and the self-test says so."""
    RewardModel.load(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match="does not reproduce its own scores"):
        RewardModel.load(folder)


def test_a_folder_without_or_with_a_broken_selftest_is_refused(folder: Path) -> None:
    path = folder / "selftest.json"
    path.write_text("{}")
    with pytest.raises(CheckpointError, match=r"can't be read.*selftest\.json"):
        RewardModel.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no selftest\.json"):
        RewardModel.load(folder)


def test_loaded_scores_are_the_saved_models(folder: Path, model: ScalarModel, tokenizer: Tokenizer) -> None:
    rows = sequences(tokenizer)
    torch.testing.assert_close(RewardModel.load(folder).score_ids(rows), score_ids(model, rows))
