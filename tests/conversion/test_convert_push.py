"""Pushing to the Hub: the real client against a stand-in on this machine; the card; errors in a paragraph."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from instructgpt.cli import main
from instructgpt.conversion.card import card, public
from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.conversion.facts import facts_of
from instructgpt.conversion.push import gather
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.runtime.files import hash_path
from instructgpt.text.tokenizer import train_tokenizer

# The client streams files in a way that its HTTP library wants otherwise: theirs to change, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SHAPE = ModelConfig.llama(vocab_size=300, width=16, layers=1, heads=2, context=64)
SECRET = "/home/alice/private/rankings.jsonl"


def checkpoint(folder: Path, seed: int = 1, *, scalar: bool = False) -> Path:
    save_model((new_scalar_model if scalar else new_language_model)(SHAPE, seed), folder)
    train_tokenizer(["the cat sat on the mat " * 5], 300).save(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run by hand: SFT and PPO with lineage, and an evaluation of PPO."""
    run = tmp_path / "run"
    sft, ppo = run / "sft/checkpoints/step-000004", run / "ppo/checkpoints/step-000002"
    for number, folder in enumerate((sft, ppo)):
        checkpoint(folder, number)
        (folder / "train_state").mkdir()
        (folder / "train_state" / "tensors.safetensors").write_bytes(b"secret moments")
        (folder / "ema").mkdir()
        (folder / "ema" / "model.safetensors").write_bytes(b"average")
    settings = {"model": str(sft), "reward": "https://me:pass@judge.example/v1?key=1", "beta": 0.2}
    stage = {"verb": "ppo", "config": settings | {"prompts": SECRET}, "inputs": {"prompts": "22" * 8}}
    (ppo / "stage.json").write_text(json.dumps(stage))
    files: dict[str, Any] = {
        "sft/summary.json": {"verb": "sft", "checkpoint": "checkpoints/step-000004"},
        "ppo/summary.json": {
            "verb": "ppo",
            "checkpoint": "checkpoints/step-000002",
            "last": {"reward": 0.75, "kl": 1.5, "rollout_drift": 1e-7},
        },
        "evaluate/config.json": {"verb": "evaluate", "inputs": {"model aligned": hash_path(ppo)}},
        "evaluate/summary.json": {
            "models": {"aligned": {"utility": 0.5, "utility_low": 0.4, "utility_high": 0.625, "prompts": 9}},
            "win_rate": {"aligned_over_sft": {"mean": 0.6, "low": 0.55, "high": 0.65, "n": 9}},
        },
        "lineage.json": {
            "seed": 7,
            "stages": [
                {
                    "name": "sft", "verb": "sft", "product_hash": hash_path(sft),
                    "config": {"data": "runs/world/demonstrations.jsonl", "lr": 1e-3},
                    "inputs": {"data": "11" * 8},
                },
                {
                    "name": "other", "verb": "sft", "product_hash": "33" * 8, "config": {}, "inputs": {},
                },
                {
                    "name": "ppo", "verb": "ppo", "product_hash": hash_path(ppo),
                    "config": stage["config"], "inputs": {"model": hash_path(sft), "prompts": "22" * 8},
                },
            ],
        },
    }  # fmt: skip
    for name, value in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(value))
    return run


def test_a_finished_stage_goes_up_whole_and_nothing_else_does(hub, run, tmp_path, capsys) -> None:
    words = ["convert", "--source", str(run / "ppo"), "--push", "team/aligned", "--license", "apache-2.0"]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr()
    pushed = json.loads(printed.out)["pushed"]
    files = hub.files["team/aligned"]
    assert hub.private["team/aligned"] and pushed["private"] and pushed["commit"] == "a" * 40
    assert set(files) == set(pushed["files"]) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "stage.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert pushed["left_out"] == ["ema/", "train_state/"]
    assert f"goes to {hub.endpoint}/team/aligned (private)" in printed.err
    assert "It stays here: ema/, train_state/" in printed.err
    assert printed.err.index("model.safetensors") < printed.err.index("has it")
    # what came down again is the model that went up
    for name, content in files.items():
        (tmp_path / "down").mkdir(exist_ok=True)
        (tmp_path / "down" / name).write_bytes(content)
    source = run / "ppo/checkpoints/step-000002"
    assert files["model.safetensors"] == (source / "model.safetensors").read_bytes()
    model, tokenizer = open_model(tmp_path / "down")
    assert model.config == SHAPE and tokenizer.encode("the cat")
    everything = b"".join(files.values())
    for secret in (b"alice", b"me:pass", b"key=1", b"secret moments", str(tmp_path).encode()):
        assert secret not in everything, secret
    assert not (source / "README.md").exists()


def test_the_card_says_what_the_run_says(run: Path) -> None:
    source = run / "ppo/checkpoints/step-000002"
    text = card(facts_of(source), "team/aligned", "apache-2.0")
    found = ModelCard(text)
    assert found.data.license == "apache-2.0" and found.data.library_name == "transformers"
    assert found.data.pipeline_tag == "text-generation" and "ppo" in found.data.tags
    for words in (
        "| utility | 0.5 | 0.4 to 0.625 | hidden utility of the practice world, 0 to 1 |",
        "| aligned over sft | 0.6 | 0.55 to 0.65 | share of prompts won, ties half |",
        "| kl | 1.5 | – | nats per reply",
        f"| sft | sft | lr 0.001 | `{hash_path(run / 'sft/checkpoints/step-000004')}` |",
        f"| ppo | ppo | beta 0.2 | `{hash_path(source)}` |",
        "| ppo | prompts | rankings.jsonl | `2222222222222222` |",
        "| sft | data | runs/world/demonstrations.jsonl | `1111111111111111` |",
        'AutoModelForCausalLM.from_pretrained("team/aligned")',
        "context 64 tokens, vocabulary 300",
    ):
        assert words in text, words
    assert "rollout" not in text and "| other |" not in text and "alice" not in text
    parameters = sum(p.numel() for p in open_model(source)[0].parameters())
    assert f"{parameters:,} parameters" in text


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    text = card(facts_of(checkpoint(tmp_path / "m", scalar=True)), "team/rm", "")
    head = yaml.safe_load(text.split("---")[1])
    assert "license" not in head and head["pipeline_tag"] == "text-classification"
    assert "None was named when this model was uploaded" in text
    assert "Unknown: no stage.json" in text and "Nothing, or the results are not beside" in text
    assert "AutoModelForSequenceClassification" in text and "`reward_bias`, 0" in text


def test_a_mixture_says_what_it_was_made_of(hub, run, tmp_path) -> None:
    pair = (str(run / "sft"), str(run / "ppo"))
    out = tmp_path / "mixed"
    convert(ConvertConfig(interpolate=pair, alpha=0.5, out=str(out), push="team/mixed", private=False))
    text = hub.files["team/mixed"]["README.md"].decode()
    assert "Weights between those of two models" in text and "alpha 0.5" in text
    assert f"| ppo | ppo | beta 0.2 | `{hash_path(run / 'ppo/checkpoints/step-000002')}` |" in text
    assert not hub.private["team/mixed"]


def test_a_gguf_file_goes_up_with_a_card(hub, run) -> None:
    out = run / "aligned.gguf"
    config = ConvertConfig(source=str(run / "ppo"), to="gguf", out=str(out), push="team/gguf", type="f32")
    summary = convert(config)
    assert set(hub.files["team/gguf"]) == {"README.md", "aligned.gguf"}
    assert hub.files["team/gguf"]["aligned.gguf"] == out.read_bytes()
    assert "llama-cli -hf team/gguf" in hub.files["team/gguf"]["README.md"].decode()
    assert "pushed" in summary and "pushed" not in json.loads((run / "aligned.summary.json").read_text())


def test_a_card_of_the_users_own_is_left_as_it_is(run: Path) -> None:
    source = run / "ppo/checkpoints/step-000002"
    (source / "README.md").write_text("# mine")
    (source / "LICENSE").write_text("all rights")
    entries, _ = gather(source, ConvertConfig(source=str(source), push="team/x"))
    assert entries[0].content == source / "README.md"
    assert "LICENSE" in [entry.name for entry in entries]


def test_a_dry_run_shows_everything_and_asks_nobody(hub, run, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["convert", "--source", str(run / "ppo"), "--push", "team/x", "--dry-run", "True"]) == 0
    printed = capsys.readouterr()
    assert "would go to" in printed.err and "# x" in printed.out and "## Licence" in printed.out
    assert hub.requests == [] and hub.files == {}


def test_a_name_that_is_taken_needs_a_word(hub, run, capsys) -> None:
    hub.files["team/x"] = {"model.safetensors": b"older"}
    words = ["convert", "--source", str(run / "ppo"), "--push", "team/x"]
    assert main(words) == 2
    assert "already (--push team/x). To mend it: choose another name, or add --update" in error(capsys)
    assert hub.files["team/x"] == {"model.safetensors": b"older"}
    assert main([*words, "--update", "True"]) == 0
    assert "what it is if it exists, else private" in capsys.readouterr().err
    assert hub.files["team/x"]["model.safetensors"] != b"older"


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one paragraph; no traceback."""
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed[printed.index("instructgpt: ") :].rstrip()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token": ""}, "no upload without a token"),
        ({"token": "hf_wrong"}, "does not accept the token"),
        ({"owner": "others"}, "the token may not create the repository for team"),
        ({"fails": {"/commit/main": 403}}, "the token may not upload for team"),
        ({"fails": {"/commit/main": 413}}, "could not upload (status 413): told to fail"),
    ],
)
def test_what_the_hub_refuses_is_one_paragraph(hub, run, capsys, monkeypatch, change, words) -> None:
    if "token" in change:
        monkeypatch.setenv("HF_TOKEN", change["token"])
    hub.owner = change.get("owner", hub.owner)
    hub.fails = change.get("fails", {})
    assert main(["convert", "--source", str(run / "ppo"), "--push", "team/x"]) == 2
    paragraph = error(capsys)
    assert words in paragraph and "\n" not in paragraph and "To mend it: " in paragraph


def test_the_network_is_down(hub, run, capsys, monkeypatch) -> None:
    with socket.socket() as free:  # bound and not listening: nobody else gets it, and it refuses
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert main(["convert", "--source", str(run / "ppo"), "--push", "team/x"]) == 2
    paragraph = error(capsys)
    assert "could not create the repository: ConnectError" in paragraph and "look at the network" in paragraph


@pytest.mark.parametrize("made", [{"dtype": "bfloat16"}, {"to": "gguf"}])
def test_what_is_made_needs_a_place(run: Path, made: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--out is missing"):
        convert(ConvertConfig(source=str(run / "ppo"), push="team/x", **made))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model to push"):
        convert(ConvertConfig(source=str(tmp_path), push="team/x"))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("/home/alice/runs/mine/prompts.jsonl", "prompts.jsonl"),
        ("~/runs/a b/prompts.jsonl", "prompts.jsonl"),
        (r"C:\Users\alice\model", "model"),
        ("runs/mine/sft", "runs/mine/sft"),
        ("/a/one.jsonl,/b/*.jsonl", "one.jsonl,*.jsonl"),
        ("0.7*/home/alice/rm + 0.3*https://u:p@host/score?key=1", "0.7*rm + 0.3*https://host/score"),
        ("practice:/home/alice/world", "practice:world"),
        ({"a": ["/x/y", 1, None]}, {"a": ["y", 1, None]}),
    ],
)
def test_paths_of_this_machine_stay_here(value: Any, seen: Any) -> None:
    assert public(value) == seen
