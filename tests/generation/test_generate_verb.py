"""The verb `generate`: lines, summary, going on after a kill, and what is said about mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from instructgpt.cli import main
from instructgpt.data.records import Prompt, read_prompts
from instructgpt.errors import CheckpointError, ConfigError, DataError
from instructgpt.generation import run as verb
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import sample_replies
from instructgpt.generation.run import GenerateConfig, run
from instructgpt.generation.spool import Spool
from instructgpt.model.heads import LanguageModel
from instructgpt.model.prepacked import prepacked
from instructgpt.text.tokenizer import train_tokenizer


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"name river {i}", "id": f"p{i}"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(checkpoint: Path, prompts: Path | str, out: Path | str = "", **more: object) -> GenerateConfig:
    settings = {"max_new": 12, "seed": 3, "device": "cpu", **more}
    return GenerateConfig(model=str(checkpoint), prompts=str(prompts), out=str(out), **settings)  # type: ignore[arg-type]


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text(encoding="utf-8").splitlines()]


def test_lines_are_the_sampled_replies_in_order(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    summary = run(config(checkpoint, prompts, tmp_path / "out", n=3))
    model, tokenizer = open_model(checkpoint)
    expected = sample_replies(model, tokenizer, read_prompts(prompts), 3, 12, 1.0, 3)
    rows = lines(tmp_path / "out")
    assert [row["response"] for row in rows] == [reply.text for replies in expected for reply in replies]
    assert [(row["id"], row["sample"]) for row in rows] == [(f"p{i}", s) for i in range(7) for s in range(3)]
    lengths = [len(reply.ids) for replies in expected for reply in replies]
    assert summary["length"] == pytest.approx(sum(lengths) / 21)
    assert summary["prompts"] == 7 and summary["replies"] == 21
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["file"] == "replies.jsonl"


def test_portions_and_going_on_change_nothing(
    checkpoint: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of a line: the same command ends with the same file."""
    run(config(checkpoint, prompts, tmp_path / "whole", n=2, max_active=2))
    whole = (tmp_path / "whole" / "replies.jsonl").read_bytes()
    assert len(whole.splitlines()) == 14
    cut = tmp_path / "cut"
    real, calls = verb._answer, []

    def dying(*arguments):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(verb, "_answer", dying)
    with pytest.raises(KeyboardInterrupt):
        run(config(checkpoint, prompts, cut, n=2, max_active=2))
    assert (cut / "replies.jsonl").read_bytes() == b"".join(whole.splitlines(keepends=True)[:8])
    with (cut / "replies.jsonl").open("ab") as file:
        file.write(whole.splitlines(keepends=True)[8][:20])
    monkeypatch.setattr(verb, "_answer", real)
    run(config(checkpoint, prompts, cut, n=2, max_active=2))
    assert (cut / "replies.jsonl").read_bytes() == whole


def test_a_spool_keeps_whole_portions_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    spool = Spool(path, 2)
    assert spool.done == 0
    spool.append([{"a": 1}, {"a": 2}])
    spool.append([{"a": 3}])
    assert [row["a"] for row in spool.rows()] == [1, 2, 3]
    again = Spool(path, 2)
    assert again.done == 1 and [row["a"] for row in again.rows()] == [1, 2]


def test_a_prompt_on_the_command_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(checkpoint), "--prompt", "name a river", "--max-new", "8", "--device", "cpu"]
    assert main(["generate", *flags, "--system", "say good", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert [message["role"] for message in row["prompt"]] == ["system", "user"]
    model, tokenizer = open_model(checkpoint)
    plain = sample_replies(model, tokenizer, [Prompt.of("name a river")], 1, 8, 1.0, 0)[0][0]
    assert main(["generate", *flags]) == 0
    assert plain.text.strip() in capsys.readouterr().out


def test_greedy_ignores_the_seed(checkpoint: Path) -> None:
    settings = {"model": str(checkpoint), "prompt": "count", "max_new": 6, "device": "cpu"}
    texts = {
        run(GenerateConfig(**settings, temperature=0.0, seed=seed))["rows"][0]["response"]  # type: ignore[arg-type]
        for seed in range(3)
    }
    assert len(texts) == 1


def test_mistakes_are_named(checkpoint: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no prompt was given \(--prompt\)"):
        run(config(checkpoint, ""))
    with pytest.raises(ConfigError, match="both a prompt and a file"):
        run(GenerateConfig(model=str(checkpoint), prompt="a", prompts=str(prompts)))
    with pytest.raises(ConfigError, match="--model"):
        run(GenerateConfig(prompt="a", device="cpu"))
    with pytest.raises(ConfigError, match="--temperature"):
        run(config(checkpoint, prompts, temperature=-1.0))
    with pytest.raises(ConfigError, match="--n"):
        config(checkpoint, prompts, n=0)
    with pytest.raises(CheckpointError):
        run(config(tmp_path / "nothing", prompts))


def test_a_long_prompt_is_told_before_anything_is_drawn(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text('{"prompt": "hi", "id": "a"}\n{"prompt": "%s", "id": "b"}\n' % ("river " * 60))
    with pytest.raises(DataError, match=r"prompt 1, id b"):
        run(config(checkpoint, path, tmp_path / "out"))
    assert not (tmp_path / "out" / "replies.jsonl").exists()


def test_a_foreign_tokenizer_with_more_ids_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    words = [f"{first}{second}{third}" for first in "abcdefg" for second in "hijklm" for third in "nopqrs"]
    train_tokenizer(words * 3, 400).save(folder)
    with pytest.raises(CheckpointError, match=r"the tokenizer has 400 ids, the model only 300"):
        open_model(folder)


def test_a_checkpoint_is_opened_prepacked_in_bfloat16_alone(checkpoint: Path) -> None:
    assert type(open_model(checkpoint)[0]) is LanguageModel
    expected = prepacked(LanguageModel(open_model(checkpoint)[0].config).bfloat16())
    assert type(open_model(checkpoint, dtype=torch.bfloat16)[0]) is type(expected)
