"""Weights between two models: exact arithmetic, complete folders, errors that name the first difference."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructgpt.cli import main
from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.conversion.mix import tokenizer_difference
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import load_language_model, load_scalar_model, save_model
from instructgpt.model.interpolate import interpolate
from instructgpt.runtime.files import hash_path
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.tokenizer import train_tokenizer

TEXT = "the cat sat on the mat and the dog ran to the red house; please say hello to all of them " * 3
SHAPES = {
    "llama": ModelConfig.llama(vocab_size=300, width=16, layers=2, heads=2, context=64),
    "gpt2": ModelConfig.gpt2(vocab_size=300, width=16, layers=1, heads=2, context=64, tied=False),
}


def folder_of(path: Path, shape: ModelConfig, seed: int, *, scalar: bool = False, text: str = TEXT) -> Path:
    """A checkpoint of a random model; one trained by SFT, by its stage.json."""
    tokenizer = train_tokenizer([text], 300)
    if scalar:
        model = new_scalar_model(shape, seed)
        model.reward_bias.fill_(seed + 0.1)
        save_model(model, path)
        write_selftest(path, model, tokenizer)
    else:
        save_model(new_language_model(shape, seed), path, special={"eos_token_id": 2})
    tokenizer.save(path)
    (path / "stage.json").write_text(json.dumps({"verb": "sft", "inputs": {"data": f"{seed:016}"}}))
    return path


def mixed(first: Path, second: Path, out: Path, alpha: float, **more: Any) -> dict[str, Any]:
    pair = (str(first), str(second))
    return convert(ConvertConfig(interpolate=pair, alpha=alpha, out=str(out), **more))


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, shape = tmp_path_factory.mktemp(request.param), SHAPES[request.param]
    return folder_of(folder / "a", shape, 1), folder_of(folder / "b", shape, 2)


@pytest.mark.parametrize("alpha", [0.3, -0.5, 1.7])
def test_each_weight_is_the_exact_sum_rounded_once(pair, tmp_path: Path, alpha: float) -> None:
    """Expected by fractions, which round nothing."""
    mixed(*pair, tmp_path / "out", alpha)
    ours, first, second = (load_file(f / "model.safetensors") for f in (tmp_path / "out", *pair))
    share = Fraction(alpha)
    for name in first:
        for i in range(0, first[name].numel(), 37):
            a, b = (Fraction(float(stored[name].flatten()[i])) for stored in (first, second))
            exact = torch.tensor(float((1 - share) * a + share * b), dtype=torch.float64).float()
            assert float(ours[name].flatten()[i]) == float(exact), name


def test_the_ends_are_the_two_models_bit_by_bit(pair, tmp_path: Path) -> None:
    for alpha, end in ((0.0, pair[0]), (1.0, pair[1])):
        mixed(*pair, tmp_path / f"{alpha}", alpha)
        ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / f"{alpha}", end))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_shared_weight_stays_as_it_is(pair) -> None:
    for alpha in (0.1, 0.37, 0.9):
        first, second = load_language_model(pair[0]), load_language_model(pair[0])
        interpolate(first, second, alpha)
        for name, parameter in first.named_parameters():
            assert torch.equal(parameter, second.get_parameter(name))


def test_the_folder_is_complete_and_says_what_made_it(pair, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = mixed(*pair, out, 0.25)
    model, tokenizer = open_model(out)
    assert model.config == load_language_model(pair[0]).config
    assert tokenizer.encode("the cat") == open_model(pair[1])[1].encode("the cat")
    assert json.loads((out / "config.json").read_text())["eos_token_id"] == 2
    stage = json.loads((out / "stage.json").read_text())
    assert stage["config"] == {"interpolate": list(map(str, pair)), "alpha": 0.25, "dtype": "float32"}
    assert stage["inputs"] == {"first": hash_path(pair[0]), "second": hash_path(pair[1])}
    assert stage["made_from"]["second"] == {"verb": "sft", "inputs": {"data": f"{2:016}"}}
    assert summary["alpha"] == 0.25 and json.loads((out / "summary.json").read_text()) == summary
    assert mixed(*pair, out, 0.25) == summary  # not done twice
    with pytest.raises(ConfigError, match="something else"):
        mixed(*pair, out, 0.5)


def test_from_the_command_line_with_the_folders_of_finished_stages(pair, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    for name, folder in zip(("sft", "ppo"), pair, strict=True):
        (run / name / "checkpoints").mkdir(parents=True)
        (run / name / "checkpoints" / "step-000003").symlink_to(folder)
        (run / name / "config.json").write_text("{}")
        (run / name / "summary.json").write_text('{"checkpoint": "checkpoints/step-000003"}')
    words = ["convert", "--interpolate", str(run / "sft"), str(run / "ppo"), "--alpha", "0.5"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alpha"] == 0.5
    half = load_file(tmp_path / "out" / "model.safetensors")
    ends = [load_file(folder / "model.safetensors") for folder in pair]
    for name, found in half.items():
        torch.testing.assert_close(found, (ends[0][name] + ends[1][name]) / 2, rtol=2e-7, atol=1e-9)


def test_reward_models_interpolate_head_and_shift_too(tmp_path: Path) -> None:
    """At one hidden state the score is linear in the head: with equal bodies the scores interpolate."""
    shape = SHAPES["llama"]
    first, second = (
        folder_of(tmp_path / name, shape, seed, scalar=True) for name, seed in (("a", 1), ("b", 2))
    )
    body = load_scalar_model(first)
    other = load_scalar_model(second)
    other.transformer = body.transformer
    save_model(other, second)
    write_selftest(second, other, train_tokenizer([TEXT], 300))
    mixed(first, second, tmp_path / "out", 0.25)
    texts = [json.loads((tmp_path / n / "selftest.json").read_text())["texts"] for n in ("a", "b", "out")]
    for low, high, found in zip(*texts, strict=True):
        assert found["score"] == pytest.approx(0.75 * low["score"] + 0.25 * high["score"], abs=1e-5)
    assert float(load_scalar_model(tmp_path / "out").reward_bias) == pytest.approx(0.75 * 1.1 + 0.25 * 2.1)
    RewardModel.load(tmp_path / "out", torch.device("cpu"))  # which runs the self-test


def test_a_reward_model_in_bfloat16_has_a_self_test_of_its_own(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "a", SHAPES["llama"], 1, scalar=True)
    convert(ConvertConfig(source=str(source), out=str(tmp_path / "out"), dtype="bfloat16"))
    RewardModel.load(tmp_path / "out", torch.device("cpu"))
    texts = [json.loads((f / "selftest.json").read_text())["texts"] for f in (source, tmp_path / "out")]
    assert texts[0] != texts[1]
    # 1.1 is no bfloat16: the shift is not rounded with the weights
    assert float(load_scalar_model(tmp_path / "out").reward_bias) == pytest.approx(1.1, abs=1e-7)


def test_shapes_that_differ_are_named(pair, tmp_path: Path) -> None:
    wide = ModelConfig.llama(vocab_size=300, width=32, layers=2, heads=2, context=64)
    other = folder_of(tmp_path / "wide", wide, 3)
    shape = load_language_model(pair[0]).config
    words = "width 16 and 32" if shape.family == "llama" else "family gpt2 and llama"
    with pytest.raises(CheckpointError, match=words):
        mixed(pair[0], other, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


def test_kinds_that_differ_are_refused(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    language, scalar = folder_of(tmp_path / "a", shape, 1), folder_of(tmp_path / "b", shape, 2, scalar=True)
    with pytest.raises(CheckpointError, match="a language model and a reward or value model"):
        mixed(language, scalar, tmp_path / "out", 0.5)
    with pytest.raises(CheckpointError, match=r"llama\.cpp does not run"):
        mixed(scalar, scalar, tmp_path / "out.gguf", 0.5, to="gguf")


def test_tokenizers_that_differ_are_named(tmp_path: Path) -> None:
    shape = SHAPES["llama"]
    first = folder_of(tmp_path / "a", shape, 1)
    second = folder_of(
        tmp_path / "b", shape, 2, text="quite another text about ships, winds and harbours " * 5
    )
    with pytest.raises(
        CheckpointError, match=r"different tokenizers, the first difference at model\.vocab\."
    ):
        mixed(first, second, tmp_path / "out", 0.5)
    changed = json.loads((first / "tokenizer.json").read_text())
    changed["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|pad|>",
    }  # fmt: skip
    (second / "tokenizer.json").write_text(json.dumps(changed))
    assert tokenizer_difference(first, second) is None
    (second / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="can't be read"):
        tokenizer_difference(first, second)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"interpolate": ("a",)}, "names 1 models"),
        ({"interpolate": ("a", "b")}, "--alpha is missing"),
        ({"interpolate": ("a", "b"), "alpha": float("nan")}, "--alpha is nan"),
        ({"interpolate": ("a", "b"), "alpha": 0.5, "source": "c"}, "exclude each other"),
        ({"source": "a", "alpha": 0.5}, "--alpha has no meaning without --interpolate"),
        ({"source": "a", "push": "no-owner"}, "no repository of the Hub"),
        ({"source": "a", "dry_run": True}, "--dry-run has no meaning without --push"),
        ({"source": "a", "private": False}, "--private has no meaning without --push"),
    ],
)
def test_flags_that_do_not_fit(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ConvertConfig(out="out", **flags)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*nowhere \(--interpolate\)"):
        mixed(tmp_path / "nowhere", tmp_path, tmp_path / "out", 0.5)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="import it first"):
        mixed(tmp_path / "model.gguf", tmp_path, tmp_path / "out", 0.5)
