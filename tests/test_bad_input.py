"""What a user can get wrong, through the command line: one paragraph with place and cure, and nothing lost.

Exit code 2. A full disk and Ctrl-C need processes of their own: `test_stopped.py`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from instructgpt.cli import main
from instructgpt.runtime.files import hash_path

Flags = dict[str, object]
Refuse = Callable[..., str]
WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog"]
TINY: Flags = {"width": 16, "layers": 1, "heads": 2, "context": 96, "batch": 2, "length": 16, "lr": 1e-3}


def words(verb: str, flags: Flags) -> list[str]:
    named = [part for name, value in flags.items() for part in ("--" + name.replace("_", "-"), str(value))]
    return [verb, *named]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good data of every kind, a tokenizer, a base model and a reward model, made by the verbs."""
    folder = tmp_path_factory.mktemp("world")
    texts = [" ".join(WORDS[i % 8 :] + WORDS[: i % 8]) for i in range(12)]
    write(folder / "text.jsonl", [{"text": text} for text in texts])
    write(folder / "demonstrations.jsonl", [{"prompt": text, "response": text[:7]} for text in texts])
    write(folder / "prompts.jsonl", [{"prompt": text[:9], "id": f"p{i}"} for i, text in enumerate(texts)])
    replies = [{"text": "red", "rank": 1}, {"text": "two blue", "rank": 2}]
    write(folder / "rankings.jsonl", [{"prompt": text, "responses": replies} for text in texts])
    for name, size in (("tokenizer", 300), ("other-tokenizer", 280)):
        flags = {"data": folder / "text.jsonl", "vocab_size": size, "out": folder / name}
        assert main(words("tokenizer", flags)) == 0
    for name, tokenizer in (("base", "tokenizer"), ("other", "other-tokenizer")):
        flags = good(folder, "pretrain") | {"tokenizer": folder / tokenizer, "out": folder / name}
        assert main(words("pretrain", flags)) == 0
    for name, model in (("reward", "base"), ("other-reward", "other")):
        flags = good(folder, "reward") | {"model": folder / model, "out": folder / name}
        assert main(words("reward", flags)) == 0
    return folder


def good(world: Path, verb: str) -> Flags:
    """Flags with which the verb works, but for --out."""
    data = {kind: world / f"{kind}.jsonl" for kind in ("text", "demonstrations", "prompts", "rankings")}
    base, reward = world / "base", world / "reward"
    return {
        "tokenizer": {"data": data["text"], "vocab_size": 300},
        "pretrain": {**TINY, "data": data["text"], "tokenizer": world / "tokenizer", "steps": 2},
        "sft": {"model": base, "data": data["demonstrations"], "eval_prompts": 0, "epochs": 1, "batch": 8},
        "reward": {"model": base, "data": data["rankings"], "batch": 8},
        "ppo": {
            "model": base,
            "reward": reward,
            "prompts": data["prompts"],
            "pretrain": data["text"],
            "iterations": 1,
            "batch": 4,
            "minibatches": 1,
            "max_new": 4,
            "ptx_length": 16,
            "ptx_ratio": 1,
        },
        "generate": {"model": base, "prompts": data["prompts"], "max_new": 4},
        "best-of-n": {"model": base, "reward": reward, "prompts": data["prompts"], "max_new": 4},
        "eval": {"models": base, "prompts": data["prompts"], "max_new": 4, "count": 2},
        "convert": {"source": base / "checkpoints" / "step-000002"},
    }[verb]


def paragraph(errors: str) -> str:
    """The one paragraph on stderr, with its cure; fails if there is anything else."""
    assert errors.endswith("\n") and "\n" not in errors[:-1], errors
    assert errors.startswith("instructgpt: ") and "Traceback" not in errors
    assert errors.count("To mend it: ") == 1
    return errors[:-1]


@pytest.fixture
def refuse(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Call a verb with some flags changed; its complaint, after seeing that nothing of the world is lost."""
    before = hash_path(world)

    def call(verb: str, **changes: object) -> str:
        flags = good(world, verb) | {"out": tmp_path / "out"} | changes
        capsys.readouterr()
        assert main(words(verb, flags)) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert hash_path(world) == before
        return paragraph(said.err)

    return call


DATA_FLAGS = [
    ("tokenizer", "data", "text"),
    ("pretrain", "data", "text"),
    ("pretrain", "validation", "text"),
    ("sft", "data", "demonstrations"),
    ("sft", "validation", "demonstrations"),
    ("sft", "pretrain_data", "text"),
    ("reward", "data", "rankings"),
    ("reward", "validation", "rankings"),
    ("reward", "demonstrations", "demonstrations"),
    ("ppo", "prompts", "prompts"),
    ("ppo", "pretrain", "text"),
    ("generate", "prompts", "prompts"),
    ("best-of-n", "prompts", "prompts"),
    ("eval", "prompts", "prompts"),
    ("eval", "text", "text"),
]


@pytest.mark.parametrize(("verb", "flag", "kind"), DATA_FLAGS)
def test_data_that_cannot_be_read(
    verb: str, flag: str, kind: str, world: Path, tmp_path: Path, refuse: Refuse
) -> None:
    """A missing file, a folder, an empty file, invalid JSON on line 7; then the right file, in the same
    folder: none of the mistakes stands in its way."""
    path = tmp_path / f"{kind}.jsonl"
    assert f"there is no such file ({path})" in refuse(verb, **{flag: path})
    assert f"this is a folder, not a file of data ({world})" in refuse(verb, **{flag: world})
    path.write_text("")
    assert f"the file is empty ({path})" in refuse(verb, **{flag: path})
    lines = (world / f"{kind}.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:6], '{"prompt": "red\n', *lines[7:]]))
    said = refuse(verb, **{flag: path})
    assert "invalid JSON" in said and f"({path}:7)" in said
    path.write_text("".join(lines))
    more: Flags = {"pretrain_length": 16} if verb == "sft" else {}
    flags = good(world, verb) | {flag: path, "out": tmp_path / "out"} | more
    assert main(words(verb, flags)) == 0


@pytest.mark.parametrize(("verb", "flag"), [("sft", "data"), ("reward", "demonstrations")])
def test_a_record_without_a_response(verb: str, flag: str, tmp_path: Path, refuse: Refuse) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": "a", "response": "b"}, {"prompt": "a"}])
    said = refuse(verb, **{flag: path})
    assert f"the record has no 'response' (it has 'prompt') ({path}:2)" in said
    assert '{"prompt": "Name a river.", "response": "The Nile."}' in said


def judged(verb: str, world: Path) -> Flags:
    """What makes `sft` open its reward: prompts to choose a checkpoint by."""
    prompts: Flags = {"selection_prompts": world / "prompts.jsonl", "eval_prompts": 2, "max_new": 4}
    return prompts if verb == "sft" else {}


MODEL_FLAGS = [
    ("sft", "model"),
    ("reward", "model"),
    ("ppo", "model"),
    ("generate", "model"),
    ("best-of-n", "model"),
    ("eval", "models"),
    ("convert", "source"),
    ("ppo", "reward"),
    ("sft", "reward"),
    ("best-of-n", "reward"),
    ("eval", "judge"),
]


@pytest.mark.parametrize(("verb", "flag"), MODEL_FLAGS)
def test_a_checkpoint_that_cannot_be_opened(
    verb: str, flag: str, world: Path, tmp_path: Path, refuse: Refuse
) -> None:
    """Another architecture, no weights, weights cut off, nothing in the folder, no folder."""
    scalar = flag in ("reward", "judge")
    source = next((world / ("reward" if scalar else "base")).glob("checkpoints/step-*"))
    folder = tmp_path / "model"
    more = judged(verb, world)
    assert str(folder) in refuse(verb, **more, **{flag: folder})
    folder.mkdir()
    assert str(folder) in refuse(verb, **more, **{flag: folder})
    folder.rmdir()
    shutil.copytree(source, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert str(folder) in refuse(verb, **more, **{flag: folder})
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    said = refuse(verb, **more, **{flag: folder})
    assert "can't be read" in said and str(folder / "model.safetensors") in said
    (folder / "model.safetensors").write_bytes(weights)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}))
    said = refuse(verb, **more, **{flag: folder})
    assert "model_type is 'bert'" in said and str(folder / "config.json") in said
    (folder / "config.json").write_text("{")
    assert f"({folder / 'config.json'})" in refuse(verb, **more, **{flag: folder})


@pytest.mark.parametrize(
    ("verb", "flag"), [("ppo", "reward"), ("sft", "reward"), ("best-of-n", "reward"), ("eval", "judge")]
)
def test_a_language_model_is_no_reward_model(verb: str, flag: str, world: Path, refuse: Refuse) -> None:
    """Field fault 19: a fresh head would score noise."""
    said = refuse(verb, **judged(verb, world), **{flag: world / "base"})
    assert "score.weight is missing" in said and "instructgpt reward" in said


@pytest.mark.parametrize(("verb", "flag"), [("sft", "model"), ("generate", "model"), ("eval", "models")])
def test_a_reward_model_is_no_language_model(verb: str, flag: str, world: Path, refuse: Refuse) -> None:
    assert "give the folder of a language model" in refuse(verb, **{flag: world / "reward"})


def test_policy_and_reward_model_with_different_tokenizers(world: Path, refuse: Refuse) -> None:
    said = refuse("ppo", reward=world / "other-reward")
    assert "reads other tokens than the policy writes" in said
    assert str(world / "other-reward") in said


def test_ppo_ptx_without_text(world: Path, refuse: Refuse) -> None:
    said = refuse("ppo", pretrain="")
    assert "(--pretrain)" in said and "--ptx-coef 0" in said


LONG = "red blue " * 100


@pytest.mark.parametrize("verb", ["generate", "best-of-n", "ppo", "eval"])
def test_a_prompt_longer_than_the_context(verb: str, tmp_path: Path, refuse: Refuse) -> None:
    rows: list[dict[str, object]] = [{"prompt": "red", "id": "short"}, {"prompt": LONG, "id": "endless"}]
    path = write(tmp_path / "p.jsonl", rows)
    said = refuse(verb, prompts=path)
    assert "endless" in said and "context of 96" in said and str(path) in said


def test_a_prompt_on_the_command_line_longer_than_the_context(tmp_path: Path, refuse: Refuse) -> None:
    for out in ("", tmp_path / "out"):
        said = refuse("generate", prompts="", prompt=LONG, out=out)
        assert "context of 96 (--prompt, " in said


def test_demonstrations_longer_than_the_context(world: Path, tmp_path: Path, refuse: Refuse) -> None:
    rows: list[dict[str, object]] = [{"prompt": "red", "response": "red"}] * 3
    rows.append({"prompt": LONG, "response": "red", "id": "endless"})
    path = write(tmp_path / "d.jsonl", rows)
    said = refuse("sft", data=path, validation_share=0, long_records="error")
    assert "endless" in said and "--long-records drop" in said and str(path) in said
    write(path, rows[3:])
    assert "none of the 1 demonstrations fits into 96 tokens" in refuse("sft", data=path, validation_share=0)


def test_chat_with_no_model(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "nothing", world / "reward"):
        assert main(["chat", "--model", str(folder)]) == 2
        assert str(folder) in paragraph(capsys.readouterr().err)


# -- flags and files of settings

ALL_VERBS = ["tokenizer", "pretrain", "sft", "reward", "ppo", "generate", "best-of-n", "eval", "convert"]


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_an_unknown_flag_names_the_near_one(verb: str, refuse: Refuse) -> None:
    said = refuse(verb, ouut="x")
    assert f"unknown flag --ouut (instructgpt {verb})" in said and "did you mean --out" in said


def test_an_unknown_verb_names_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convrt"]) == 2
    assert "did you mean convert?" in paragraph(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("verb", "flag", "value"),
    [
        ("pretrain", "steps", "many"),
        ("pretrain", "steps", "2.5"),
        ("pretrain", "steps", "0"),
        ("pretrain", "family", "bert"),
        ("pretrain", "tied", "perhaps"),
        ("pretrain", "heads", "3"),
        ("pretrain", "device", "abacus"),
        ("sft", "lr", "fast"),
        ("sft", "residual_dropout", "1.5"),
        ("sft", "dtype", "float8"),
        ("ppo", "minibatches", "3"),
        ("ppo", "missing_eos_penalty", "low"),
        ("generate", "temperature", "-1"),
        ("generate", "max_new", "0"),
        ("tokenizer", "vocab_size", "10"),
        ("convert", "dtype", "int8"),
    ],
)
def test_a_wrong_value_names_its_flag(verb: str, flag: str, value: str, refuse: Refuse) -> None:
    said = refuse(verb, **{flag: value})
    assert flag.replace("_", "-") in said.replace("_", "-") and value in said
    assert "---" not in said and len(said) < 250


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_a_flag_without_a_value(verb: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(verb, good(world, verb)), "--out"]) == 2
    assert "--out" in paragraph(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepz = 3", "unknown key 'stepz'"),
        ('steps = "many"', "steps"),
        ("steps = 3.5", "steps"),
        ("tied = 1", "tied"),
        ('family = "bert"', "family"),
        ("data = 7", "data"),
        ("[pretrain]\nstepz = 3", "unknown key 'stepz'"),
        ("steps = ", "line 1"),
    ],
)
def test_a_wrong_file_of_settings(text: str, says: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + "\n")
    said = refuse("pretrain", config=path)
    assert str(path) in said and says in said
    if "stepz" in text:
        assert "did you mean steps" in said


def test_files_of_settings_that_are_none(tmp_path: Path, refuse: Refuse) -> None:
    assert str(tmp_path / "no.toml") in refuse("pretrain", config=tmp_path / "no.toml")
    assert f"({tmp_path})" in refuse("pretrain", config=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'family = "\xe9"')
    assert "latin.toml" in refuse("pretrain", config=tmp_path / "latin.toml")


def test_an_unknown_preset_names_the_near_ones(refuse: Refuse) -> None:
    said = refuse("pretrain", preset="smollm")
    assert "there is no preset 'smollm' (--preset)" in said and "did you mean smollm2?" in said


def test_a_pipeline_with_a_wrong_key_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[stage]]\nverb = "pretrain"\nstepz = 3\n')
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 2
    said = paragraph(capsys.readouterr().err)
    assert f"{path}: stage pretrain" in said and "did you mean steps" in said
    assert not (tmp_path / "out").exists()


# -- folders


@pytest.mark.parametrize("verb", ALL_VERBS)
def test_a_folder_that_cannot_be_written(verb: str, tmp_path: Path, refuse: Refuse) -> None:
    """A path below a file: even the administrator can't write there."""
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert str(out) in refuse(verb, out=out)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", [verb for verb in ALL_VERBS if verb not in ("generate", "eval")])
def test_no_folder_named(verb: str, refuse: Refuse) -> None:
    assert "--out" in refuse(verb, out="")


@pytest.mark.parametrize("verb", ["pretrain", "sft", "reward", "ppo"])
def test_a_folder_with_another_run_is_kept(verb: str, world: Path, refuse: Refuse) -> None:
    said = refuse(verb, out=world / "base", seed=1)
    assert "made with other settings" in said and "choose another --out" in said and len(said) < 400
