"""Ensembles: the mean of the members' scores, members named by folders or by their run, one tokenizer."""

import json
from pathlib import Path

import pytest
import torch

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.reward import Ensemble, RewardModel, load_reward, reward_folders
from instructgpt.scoring.selftest import TEXTS, write_selftest
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

IDS = [[5, 6, 7], [8], [9, 10, 11, 12]]


def save(folder: Path, tokenizer: Tokenizer, seed: int) -> Path:
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=64)
    model = new_scalar_model(config, seed)
    model.reward_bias.fill_(0.5 * seed)
    folder.mkdir(parents=True)
    save_model(model, folder, special={"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2})
    tokenizer.save(folder)
    write_selftest(folder, model, tokenizer)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of one tokenizer and a fourth of another, as a run's members."""
    run = tmp_path_factory.mktemp("run")
    tokenizer = train_tokenizer([f"{p} {r}" for p, r in TEXTS], 300)
    made = [save(run / f"member-{n}", tokenizer, seed=n) for n in (1, 2, 3)]
    return [*made, save(run / "other", train_tokenizer(["another text altogether"] * 3, 270), seed=4)]


def test_the_score_is_the_mean_of_the_members(folders: list[Path]) -> None:
    ensemble = load_reward(",".join(map(str, folders[:3])))
    assert isinstance(ensemble, Ensemble)
    alone = [RewardModel.load(folder) for folder in folders[:3]]
    each = [model.score_ids(IDS).tolist() for model in alone]
    assert ensemble.score_ids_each(IDS).tolist() == each
    by_hand = [sum(column) / 3 for column in zip(*each, strict=True)]
    assert ensemble.score_ids(IDS).tolist() == pytest.approx(by_hand, abs=1e-6)
    prompt, reply = [Message("user", "Name a colour.")], "Blue."
    ids = render_reply(ensemble.tokenizer, prompt, reply).ids
    assert ensemble.score([prompt], [reply]) == ensemble.score_ids([ids]).tolist()
    assert ensemble.tokenizer.fingerprint == alone[0].tokenizer.fingerprint
    for member, model in zip(ensemble.members, alone, strict=True):
        assert isinstance(member, RewardModel) and torch.equal(member.score_ids(IDS), model.score_ids(IDS))


def test_a_run_of_members_is_their_ensemble(folders: list[Path]) -> None:
    run = folders[0].parent
    (run / "summary.json").write_text(json.dumps({"members": ["member-1", "member-3"]}))
    ensemble = load_reward(str(run))
    assert isinstance(ensemble, Ensemble) and ensemble.name == str(run)
    assert reward_folders(str(run)) == [folders[0], folders[2]]
    assert reward_folders(f"{run}, {folders[1]}") == [folders[0], folders[2], folders[1]]
    assert reward_folders(str(folders[1])) == [folders[1]]
    assert isinstance(load_reward(str(folders[1])), RewardModel)


def test_members_that_do_not_fit_are_told(folders: list[Path], tmp_path: Path) -> None:
    one, other = str(folders[0]), str(folders[3])
    with pytest.raises(ConfigError, match="different tokenizers") as caught:
        load_reward(f"{one},{other}")
    assert one in str(caught.value) and other in str(caught.value)
    with pytest.raises(ConfigError, match="an ensemble of 1"):
        Ensemble([RewardModel.load(one)])
    for spec in (f"{one},", f"{one},module:function", f"{one},{tmp_path / 'nothing'}"):
        with pytest.raises(ConfigError, match="member of the ensemble is no folder"):
            load_reward(spec)
    with pytest.raises(CheckpointError, match="no finished model"):
        load_reward(f"{one},{tmp_path}")
