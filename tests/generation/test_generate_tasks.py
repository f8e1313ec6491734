"""`generate --task`: a prompt for each file or line, and what is said about one that is too long."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from instructgpt.cli import main
from instructgpt.errors import ConfigError, DataError
from instructgpt.generation.loading import open_model
from instructgpt.generation.run import GenerateConfig, run
from instructgpt.generation.task_prompts import fit_task_prompts, read_task_prompts
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import save_model
from instructgpt.text.chat import render_prompt
from instructgpt.text.tasks import TASKS, render
from instructgpt.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a context of 512 tokens: the templates need some room."""
    folder = tmp_path_factory.mktemp("roomy")
    texts = [m.content for name in TASKS for m in render(name, **dict.fromkeys(TASKS[name].required, "a"))]
    tokenizer = train_tokenizer(texts, 500)
    config = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=512)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    save_model(new_language_model(config, 0), folder, special=special)
    tokenizer.save(folder)
    return folder


def settings(model: Path, **more: object) -> GenerateConfig:
    return GenerateConfig(model=str(model), max_new=4, device="cpu", **more)  # type: ignore[arg-type]


def test_a_file_is_the_main_field(roomy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.txt"
    path.write_text("Rain fell all night.\n", encoding="utf-8")
    flags = ["--model", str(roomy), "--max-new", "4", "--device", "cpu", "--json"]
    assert main(["generate", *flags, "--task", "summarize", str(path), "--field", "length=one line"]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    expected = render("summarize", "en", text="Rain fell all night.", length="one line")
    assert row["prompt"] == [{"role": m.role, "content": m.content} for m in expected]
    assert row["category"] == "summarization"


def test_fields_of_lines_files_and_flags(roomy: Path, tmp_path: Path) -> None:
    (tmp_path / "order.txt").write_text("Order 7: sent.", encoding="utf-8")
    (tmp_path / "asked.jsonl").write_text(
        '{"question": "Where is it?", "id": "a"}\n{"question": "When?", "company": "B", "note": 1}\n'
    )
    config = settings(
        roomy,
        task="support",
        file=str(tmp_path / "asked.jsonl"),
        field=(f"context=@{tmp_path / 'order.txt'}", "company=A"),
    )
    first, second = read_task_prompts(config)
    assert first.id == "a" and first.messages == tuple(
        render("support", context="Order 7: sent.", company="A", question="Where is it?")
    )
    assert "You speak for B." in second.messages[0].content, "a line's own field wins"


def test_several_files_and_standard_input(
    roomy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text {name}", encoding="utf-8")
    found = read_task_prompts(settings(roomy, task="sentiment", file=str(tmp_path / "*.txt")))
    assert [prompt.fields["text"] for prompt in found] == ["text a", "text b"]
    monkeypatch.setattr("sys.stdin", io.StringIO("来自管道"))
    summary = run(settings(roomy, task="sentiment", file="-", language="zh"))
    assert "来自管道" in summary["rows"][0]["prompt"][1]["content"]


def test_a_long_text_is_refused_and_with_a_flag_cut(
    roomy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("rain fell. " * 400, encoding="utf-8")
    tokenizer = open_model(roomy)[1]
    prompt = read_task_prompts(settings(roomy, task="summarize", file=str(path)))
    taken = len(render_prompt(tokenizer, prompt[0].messages))
    over = taken - (512 - 4)
    with pytest.raises(DataError, match=rf"takes {taken} tokens, {over} too many.*--truncate") as caught:
        run(settings(roomy, task="summarize", file=str(path)))
    assert str(path) in str(caught.value)
    cut = settings(roomy, task="summarize", file=str(path), truncate=True)
    (fitted,) = fit_task_prompts(cut, prompt, tokenizer, 512)
    assert 480 < len(render_prompt(tokenizer, fitted.messages)) <= 508
    assert fitted.messages[1].content.startswith("Summarize the text in three sentences.")
    assert run(cut)["rows"][0]["prompt"][1]["content"] == fitted.messages[1].content
    assert "characters of 'text' were cut off" in capsys.readouterr().err


def test_a_run_folder_knows_the_text(roomy: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one", encoding="utf-8")
    config = settings(roomy, task="summarize", file=str(path), out=str(tmp_path / "out"))
    assert run(config)["replies"] == 1
    path.write_text("two", encoding="utf-8")
    with pytest.raises(ConfigError, match="input file"):
        run(config)
    with pytest.raises(ConfigError, match="standard input"):
        run(settings(roomy, task="summarize", file="-", out=str(tmp_path / "other")))


def test_the_list_needs_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--list-tasks", "True", "--language", "zh"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("summarize ")]
    assert line.split() == ["summarize", "text", "[length]", "[focus]", "摘要"]


def test_mistakes_say_the_cure(roomy: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"needs text \(.*a\.jsonl:2\)"):
        run(settings(roomy, task="summarize", file=str(path)))
    path.write_text('{"text": ["a"]}\n')
    with pytest.raises(DataError, match=r"'text' is a list, not a text \(.*a\.jsonl:1\)"):
        run(settings(roomy, task="summarize", file=str(path)))
    with pytest.raises(ConfigError, match=r"'length' is no field.*name=value"):
        run(settings(roomy, task="summarize", field=("length",)))
    with pytest.raises(ConfigError, match="name a task"):
        run(settings(roomy, file=str(path)))
    with pytest.raises(ConfigError, match="a task makes its own prompts; --system"):
        run(settings(roomy, task="summarize", file=str(path), system="b"))
    with pytest.raises(ConfigError, match="there is no task 'sumup'"):
        run(settings(roomy, task="sumup", file=str(path)))
