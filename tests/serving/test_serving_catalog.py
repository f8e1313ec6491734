"""Several checkpoints by name, shared bases, and rewards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.adapter import write_adapter
from instructgpt.model.lora_settings import Lora
from instructgpt.model.shared import Bases, language_over
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.service import Patience, ServiceReward
from instructgpt.serving.catalog import open_catalog
from instructgpt.text.chat import Message
from instructgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from conftest import StartServer


def write_lora(base: Path, folder: Path, seed: int) -> Path:
    """An adapter over `base` that changes it: B is not left at 0."""
    folder.mkdir()
    model = language_over(Bases().open(base), Lora(rank=2), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    write_adapter(model, folder)
    Tokenizer.load(base).save(folder)
    return folder


def test_names_of_one_folder_share_it(tiny_checkpoint: Path, other_checkpoint: Path) -> None:
    catalog = open_catalog([f"policy={tiny_checkpoint}", f"again={tiny_checkpoint}", str(other_checkpoint)])
    assert catalog.names == ["policy", "again", "other"]
    assert catalog.models["policy"].loaded is catalog.models["again"].loaded
    assert len(catalog.loaded) == 2
    assert catalog.models["policy"].hash != catalog.models["other"].hash
    assert catalog.models["policy"].fingerprint == f"fp_{catalog.models['policy'].hash}"


def test_adapters_share_their_base(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The base's tensors are in memory once, and each name answers as its own merged model."""
    folders = {"base": tiny_checkpoint}
    folders |= {name: write_lora(tiny_checkpoint, tmp_path / name, seed) for seed, name in enumerate("xy", 1)}
    catalog = open_catalog([f"{name}={folder}" for name, folder in folders.items()])
    models = {name: catalog.models[name].loaded.model for name in folders}
    places = {model.unembedding.data_ptr() for model in models.values()}
    assert len(places) == 1
    own = {p.data_ptr(): p.numel() for model in models.values() for p in model.parameters()}
    base = sum(p.numel() for p in models["base"].parameters())
    assert base < sum(own.values()) < 2 * base
    ids = torch.tensor([7, 8, 9, 30])
    found = []
    for name, folder in folders.items():
        merged, _ = open_model(folder)
        with torch.no_grad():
            one, other = (m.logits(m(ids, torch.arange(4), [4])) for m in (models[name], merged))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        found.append(one)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[1], found[2])


def test_adapters_are_served_side_by_side(
    start_server: StartServer, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = write_lora(tiny_checkpoint, tmp_path / "adapter", 3)
    running = start_server(models=(f"base={tiny_checkpoint}", f"tuned={adapter}"))
    body = {"prompt": "name a", "max_tokens": 30, "temperature": 0}
    texts = {
        name: running.post("/v1/completions", {**body, "model": name}).json()["choices"][0]["text"]
        for name in ("base", "tuned")
    }
    assert texts["base"] != texts["tuned"]
    assert [entry["id"] for entry in running.client.get("/v1/models").json()["data"]] == ["base", "tuned"]


def test_what_can_not_be_served(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model was named"):
        open_catalog([])
    with pytest.raises(ConfigError, match="given twice"):
        open_catalog([f"a={tiny_checkpoint}", f"a={tiny_checkpoint}"])
    with pytest.raises(ConfigError, match="a model and a reward"):
        open_catalog([f"a={tiny_checkpoint}"], [f"a={tiny_checkpoint}"])
    with pytest.raises(CheckpointError):
        open_catalog([str(tmp_path / "nothing")])


def test_rewards_are_those_of_the_model_and_of_the_reward_flag(
    start_server: StartServer, reward_checkpoint: Path
) -> None:
    """`--reward http://host/v1/rewards` of the training verbs works against the server."""
    running = start_server(rewards=(f"rm={reward_checkpoint}", "short=verify:words(at_most=2)"))
    prompts = [[Message("user", "name a river")], [Message("system", "brief"), Message("user", "早")]]
    replies = ["the river", "good morning to you"]
    expected = RewardModel.load(reward_checkpoint).score(prompts, replies)
    service = ServiceReward(f"{running.url}/v1/rewards", Patience(retries=0))
    assert service.score(prompts, replies) == pytest.approx(expected, abs=1e-5)
    body = {"prompts": [[{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts]}
    named = running.post("/v1/rewards", {**body, "replies": replies, "model": "short"}).json()
    assert named["model"] == "short" and len(named["scores"]) == 2 and named["scores"][0] > named["scores"][1]
    kinds = {entry["id"]: entry["kind"] for entry in running.client.get("/v1/models").json()["data"]}
    assert kinds == {"tiny": "language", "rm": "reward", "short": "reward"}


def test_rewards_that_are_refused(start_server: StartServer, reward_checkpoint: Path) -> None:
    running = start_server(rewards=(f"rm={reward_checkpoint}",))
    turn = [{"role": "user", "content": "hi"}]
    good = {"prompts": [turn], "replies": ["a"]}
    assert running.post("/v1/rewards", good).status_code == 200
    for change, status, param in (
        ({"model": "tiny"}, 404, "model"),
        ({"replies": ["a", "b"]}, 400, "replies"),
        ({"replies": []}, 400, "replies"),
        ({"replies": ["a" * 2000]}, 400, "replies"),
        ({"prompts": [[]]}, 400, "prompts"),
        ({"prompts": [[{"role": "robot", "content": "x"}]]}, 400, "prompts"),
        ({"temperature": 1}, 400, "temperature"),
    ):
        answer = running.post("/v1/rewards", {**good, **change})
        assert answer.status_code == status and answer.json()["error"]["param"] == param, answer.text
