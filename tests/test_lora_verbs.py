"""LoRA through the command line: a chain of adapters over one base, and every verb that opens one."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from instructgpt.cli import main
from instructgpt.generation.loading import open_model
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.runtime.files import hash_path
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog"]
CHAIN = """
out = "{out}"

[[stage]]
verb = "sft"
model = "{base}"
data = "{data}/demonstrations.jsonl"
epochs = 1.0
batch = 4
lr = 1e-2
eval_prompts = 2
max_new = 4
lora_rank = 2

[[stage]]
verb = "reward"
model = "{{sft}}"
data = "{data}/rankings.jsonl"
batch = 4
lr = 1e-2
baselines = false
lora_rank = 2

[[stage]]
verb = "ppo"
model = "{{sft}}"
reward = "{{reward}}"
prompts = "{data}/prompts.jsonl"
ptx_coef = 0.0
iterations = 1
batch = 4
minibatches = 1
max_new = 4
lora_rank = 2
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, data, and the run folders of a pipeline of adapters over it."""
    folder = tmp_path_factory.mktemp("chain")
    texts = [" ".join(WORDS[i % 8 :] + WORDS[: i % 8]) for i in range(12)]
    replies = [{"text": "red", "rank": 1}, {"text": "two blue", "rank": 2}]
    for name, rows in (
        ("demonstrations", [{"prompt": text, "response": text[:7]} for text in texts]),
        ("prompts", [{"prompt": text[:9], "id": f"p{i}"} for i, text in enumerate(texts)]),
        ("rankings", [{"prompt": text, "responses": replies} for text in texts]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer(texts, 290)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=96)
    write_checkpoint(new_language_model(shape, 0), tokenizer, folder / "base")
    before = hash_path(folder / "base")
    path = folder / "chain.toml"
    path.write_text(CHAIN.format(out=folder / "runs", base=folder / "base", data=folder))
    assert main(["run", str(path)]) == 0
    assert hash_path(folder / "base") == before
    return folder


def checkpoint(run: Path) -> Path:
    return run / json.loads((run / "summary.json").read_text())["checkpoint"]


def test_all_stand_over_the_same_base(world: Path) -> None:
    runs = world / "runs"
    places = [checkpoint(runs / name) for name in ("sft", "reward", "ppo")]
    for place in (*places, places[2] / "value", places[2] / "ema"):
        base = json.loads((place / "base.json").read_text())
        assert (place / base["path"]).resolve() == (world / "base").resolve()
        assert sum(file.stat().st_size for file in place.glob("*.safetensors")) < 20_000


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        ("generate", ["--model", "runs/ppo", "--prompts", "prompts.jsonl", "--max-new", "4"]),
        ("best-of-n", ["--model", "runs/sft", "--reward", "runs/reward", "--prompts", "prompts.jsonl",
                       "--n", "2", "--max-new", "4"]),
        ("eval", ["--models", "sft=runs/sft,ppo=runs/ppo", "--judge", "runs/reward", "--prompts",
                  "prompts.jsonl", "--max-new", "4", "--count", "4"]),
        ("sft", ["--model", "runs/ppo", "--data", "demonstrations.jsonl", "--reward", "runs/reward",
                 "--epochs", "0.5", "--max-new", "4", "--selection-prompts", "prompts.jsonl"]),
        ("reward", ["--model", "runs/ppo", "--data", "rankings.jsonl"]),
        ("ppo", ["--model", "runs/ppo", "--reward", "runs/reward", "--prompts", "prompts.jsonl",
                 "--ptx-coef", "0", "--iterations", "1", "--batch", "4", "--minibatches", "1",
                 "--max-new", "4"]),
    ],
)  # fmt: skip
def test_verbs_open_adapters(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, flags: list[str]
) -> None:
    """Without --lora-rank too: `sft`, `reward` and `ppo` then train all weights of the merged model."""
    monkeypatch.chdir(world)
    assert main([verb, *flags, "--out", str(tmp_path / "out")]) == 0


def test_an_adapter_without_a_tokenizer_has_its_base_s(world: Path) -> None:
    """As PEFT writes it."""
    place = checkpoint(world / "runs" / "ppo")
    bare = place.with_name("bare")
    shutil.copytree(place, bare, ignore=shutil.ignore_patterns("tokenizer*", "train_state", "value", "ema"))
    model, tokenizer = open_model(bare)
    same, of_the_base = open_model(place), Tokenizer.load(world / "base")
    assert tokenizer.fingerprint == of_the_base.fingerprint
    assert torch.equal(model.transformer.embedding.weight, same[0].transformer.embedding.weight)


def test_chat_opens_an_adapter(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("red cat\n"))
    assert main(["chat", "--model", str(world / "runs" / "ppo"), "--max-new", "4"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_serve_opens_adapters(world: Path) -> None:
    pytest.importorskip("fastapi", reason="pip install instructgpt[serve]")
    from instructgpt.serving.catalog import open_catalog

    runs = world / "runs"
    catalog = open_catalog([str(runs / "ppo"), str(runs / "sft")], [str(runs / "reward")])
    assert len(catalog.loaded) == 2
    embeddings = {loaded.model.transformer.embedding.weight.data_ptr() for loaded in catalog.loaded}
    assert len(embeddings) == 1  # two adapters over one base


def test_a_missing_base_is_one_paragraph(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "base").rename(world / "away")
    try:
        flags = ["--model", str(world / "runs" / "ppo"), "--prompts", str(world / "prompts.jsonl")]
        assert main(["generate", *flags, "--out", str(tmp_path / "out")]) == 2
    finally:
        (world / "away").rename(world / "base")
    said = capsys.readouterr().err
    assert "the base of this adapter is not there" in said and "To mend it: put the base back" in said
