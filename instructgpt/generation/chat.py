"""Verb `chat`: talk to a model in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from instructgpt.errors import DataError, InstructGPTError
from instructgpt.generation.engine import Request, generate
from instructgpt.generation.loading import open_model
from instructgpt.generation.lookup import check_lookup
from instructgpt.generation.reply import reply_key
from instructgpt.generation.stream import TextStream
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.device import pick_device, pick_dtype
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import Tokenizer

HELP = """\
/reset          forget the conversation
/system TEXT    set the system message (without TEXT: remove it)
/help           this list
/quit           leave (Ctrl-D does, too)
Ctrl-C stops a reply."""


@dataclass(frozen=True)
class ChatConfig:
    """Talk to a language model in the terminal."""

    model: str = ""
    """Checkpoint, or the folder of a finished stage."""
    system: str = ""
    """System message at the start."""
    max_new: int = 256
    """Largest length of a reply in tokens."""
    temperature: float = 0.7
    """0 takes the most probable token every time."""
    top_k: int = 0
    """Sample from the k most probable tokens only; 0 = from all."""
    top_p: float = 1.0
    """Sample from the most probable tokens that hold this mass together; 1 = from all."""
    seed: int = 0
    """The same seed and the same words give the same conversation."""
    lookup: int = 0
    """Guess up to so many tokens ahead from what was said already: faster where replies repeat it, changes no
    reply. 0 = no guessing."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model."""
    weights: Literal["full", "int8", "int4"] = "full"
    """How the model's matrices are stored: as they are, or rounded to 8 or 4 bits: smaller, and for few
    replies at a time faster."""

    def __post_init__(self) -> None:
        check_lookup(self.lookup)


class Conversation:
    """What was said so far, and how the next reply is made of it."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, config: ChatConfig) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.system = config.system
        self.turns: list[Message] = []
        self.replies = 0

    @property
    def messages(self) -> list[Message]:
        """System message, if any, and the turns."""
        return ([Message("system", self.system)] if self.system else []) + self.turns

    def fit(self) -> tuple[list[int], int]:
        """Ids of the prompt, and how many of the oldest turns were dropped to make room for a reply.

        Room means `max_new` tokens, or a quarter of the context where that is less.

        Raises:
            DataError: the last message alone is too long.
        """
        context = self.model.config.context
        room = min(self.config.max_new, max(1, context // 4))
        dropped = 0
        while len(ids := render_prompt(self.tokenizer, self.messages)) + room > context:
            # A turn goes with its reply, so that the conversation still begins with the user.
            later = [i for i, turn in enumerate(self.turns) if turn.role == "user" and i > 0]
            if not later:
                raise DataError(
                    f"the message takes {len(ids)} tokens; the context of {context} must hold a reply too",
                    cure=f"write at most {context - room} tokens, the system message included",
                )
            dropped += later[0]
            del self.turns[: later[0]]
        return ids, dropped

    def say(self, text: str, write: Callable[[str], None]) -> None:
        """Add the user's message and stream the reply to `write`; Ctrl-C ends the reply, what it was stays.

        Raises:
            DataError, ConfigError: the message can't be answered; the conversation is as before.
        """
        before = list(self.turns)
        self.turns.append(Message("user", text))
        try:
            ids, dropped = self.fit()
            config = self.config
            request = Request(
                tuple(ids),
                reply_key(config.seed, self.replies, "chat", 0),
                min(config.max_new, self.model.config.context - len(ids)),
                config.temperature,
                config.top_k,
                config.top_p,
                self.tokenizer.stop_ids,
            )
        except InstructGPTError:
            self.turns = before
            raise
        if dropped:
            write(f"[the context is full: the {dropped} oldest messages were dropped]\n")
        stream = TextStream(self.tokenizer)
        pieces: list[str] = []

        def show(piece: str) -> None:
            pieces.append(piece)
            write(piece)

        try:
            (completion,) = generate(
                self.model,
                [request],
                on_token=lambda _, token: show(stream.push(token)),
                lookup=config.lookup,
            )
            show(stream.finish())
            write(
                "\n"
                if completion.stopped
                else f"\n[cut after {len(completion.ids)} tokens: --max-new or context]\n"
            )
        except KeyboardInterrupt:
            write("\n[stopped]\n")
        self.replies += 1
        self.turns.append(Message("assistant", "".join(pieces)))

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()


def talk(conversation: Conversation, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Read lines and answer them until /quit or the end of input.

    Args:
        read: gives the next line; EOFError ends the talk, KeyboardInterrupt is Ctrl-C at the prompt.
        write: shows text as it comes, without a line end of its own.
    """
    while True:
        try:
            line = read().strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            write("\n[/quit or Ctrl-D leaves]\n")
            continue
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        if not line:
            continue
        if line.startswith("/"):
            write(_command(conversation, command, rest.strip()) + "\n")
            continue
        try:
            conversation.say(line, write)
        except InstructGPTError as error:
            write(f"[{error}]\n")


def _command(conversation: Conversation, command: str, rest: str) -> str:
    if command == "/reset":
        conversation.reset()
        return "[the conversation is forgotten]"
    if command == "/system":
        conversation.system = rest
        return "[system message set]" if rest else "[system message removed]"
    return HELP if command == "/help" else f"[unknown command {command}]\n{HELP}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def run(config: ChatConfig) -> dict[str, Any]:
    """Talk until the user leaves; returns how much was said.

    Raises:
        CheckpointError, ConfigError: see the model and the flags.
    """
    model, tokenizer = open_model(
        config.model, pick_device(config.device), pick_dtype(config.dtype), config.weights
    )
    # Wrong settings should be told now, not after the first message.
    Request((0,), 0, config.max_new, config.temperature, config.top_k, config.top_p)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for input(); absent on Windows)
    conversation = Conversation(model, tokenizer, config)
    terminal = sys.stdin.isatty()
    if terminal:
        _write(f"{config.model}: /help lists the commands.\n")
    talk(conversation, lambda: input("> " if terminal else ""), _write)
    return {"verb": "chat", "model": config.model, "replies": conversation.replies}
