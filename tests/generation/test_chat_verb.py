"""The terminal chat: turns, commands, Ctrl-C, and a context that overflows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from instructgpt.cli import main
from instructgpt.errors import DataError
from instructgpt.generation.chat import ChatConfig, Conversation, talk
from instructgpt.generation.loading import open_model
from instructgpt.text.chat import Message, render_prompt


@pytest.fixture
def conversation(checkpoint: Path) -> Conversation:
    model, tokenizer = open_model(checkpoint)
    return Conversation(model, tokenizer, ChatConfig(str(checkpoint), max_new=16, temperature=1.0))


def chat(conversation: Conversation, *inputs: str | type[BaseException]) -> str:
    """Run a talk on prepared lines; an exception class is raised where a line is asked for."""
    waiting: Iterator[str | type[BaseException]] = iter([*inputs, EOFError])
    shown: list[str] = []

    def read() -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    talk(conversation, read, shown.append)
    return "".join(shown)


def roles(conversation: Conversation) -> list[str]:
    return [message.role for message in conversation.messages]


def test_turns_add_up_and_the_stream_is_what_is_kept(conversation: Conversation) -> None:
    shown = chat(conversation, "name a river", "", "and one more")
    assert roles(conversation) == ["user", "assistant"] * 2
    for turn in conversation.turns[1::2]:
        assert turn.content in shown
    assert conversation.replies == 2


def test_same_seed_same_conversation(checkpoint: Path) -> None:
    model, tokenizer = open_model(checkpoint)
    config = ChatConfig(str(checkpoint), max_new=16, temperature=1.0)
    talks = [chat(Conversation(model, tokenizer, replace(config, seed=s)), "hi", "ho") for s in (1, 1, 2)]
    assert talks[0] == talks[1] != talks[2]


def test_commands(conversation: Conversation) -> None:
    shown = chat(
        conversation, "/system be kind", "hi", "/reset", "/system", "/nonsense", "/help", "/quit", "x"
    )
    assert conversation.turns == [] and conversation.system == "" and conversation.replies == 1
    for words in ("message set", "message removed", "forgotten", "unknown command /nonsense", "/reset   "):
        assert words in shown


def test_the_system_message_stands_first(conversation: Conversation) -> None:
    chat(conversation, "/system be kind", "hi")
    assert roles(conversation) == ["system", "user", "assistant"]


def test_ctrl_c_stops_the_reply_and_not_the_program(conversation: Conversation) -> None:
    shown: list[str] = []

    def interrupted(text: str) -> None:
        shown.append(text)
        if len(shown) == 5:
            raise KeyboardInterrupt

    conversation.say("name a river", interrupted)
    assert shown[-1] == "\n[stopped]\n"
    assert conversation.turns[-1] == Message("assistant", "".join(shown[:-1]))
    conversation.say("go on", lambda text: None)
    assert roles(conversation) == ["user", "assistant"] * 2


def test_ctrl_c_at_the_prompt_does_not_leave(conversation: Conversation) -> None:
    shown = chat(conversation, KeyboardInterrupt, "hi")
    assert "/quit or Ctrl-D leaves" in shown and conversation.replies == 1


def test_an_overflowing_context_drops_the_oldest_turns_and_says_so(conversation: Conversation) -> None:
    """The prompt always leaves room for a reply, keeps the system message, and begins with the user."""
    conversation.system = "be kind"
    said, dropped = 0, 0
    for _ in range(8):
        shown: list[str] = []
        conversation.say("name a river please", shown.append)
        said += 2
        dropped += sum(int(number) for number in re.findall(r"the (\d+) oldest", shown[0]))
        assert len(conversation.turns) == said - dropped
        assert roles(conversation) == ["system"] + ["user", "assistant"] * ((said - dropped) // 2)
    assert dropped > 0
    ids = render_prompt(conversation.tokenizer, conversation.messages[:-1])
    assert len(ids) + 16 <= conversation.model.config.context


def test_a_message_that_cannot_fit_is_refused_and_forgotten(conversation: Conversation) -> None:
    chat(conversation, "hi")
    before = list(conversation.turns)
    with pytest.raises(DataError, match="the context of 96 must hold a reply too"):
        conversation.say("river " * 60, lambda text: None)
    assert conversation.turns == before
    assert "write at most 80 tokens" in chat(conversation, "river " * 60, "hi")
    assert conversation.replies == 2


def test_the_verb_reads_standard_input(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hi", "/quit"])

    def read(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "--model", str(checkpoint), "--max-new", "5", "--device", "cpu"]) == 0
    assert "replies" in capsys.readouterr().out
    lines = iter(["hi", "/help"])
    assert main(["chat", "--model", str(checkpoint), "--max-new", "5", "--device", "cpu", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["replies"] == 1 and "/quit" in said.err  # the summary alone, the talk aside
    assert main(["chat", "--model", str(checkpoint), "--max-new", "0", "--device", "cpu"]) == 2
    assert "--max-new" in capsys.readouterr().err
