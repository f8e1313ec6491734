"""The one encoder of conversations: SFT, reward model, RL and serving all get their ids here.

Ids and train mask are built together, piece by piece, so they can't drift apart; texts are never joined and
cut again, so the ids of a prompt are always the beginning of the ids of prompt and reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instructgpt.errors import DataError
from instructgpt.text.template import Slot, split_template
from instructgpt.text.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Raises:
        DataError: the role is not system, user or assistant.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(
                f"a message has role {self.role!r}",
                cure=f"use one of {', '.join(ROLES)}",
            )


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids (T,) and, for each id, whether it counts in the loss (T,)."""

    ids: list[int]
    train_mask: list[bool]


def _render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """The messages and the head of the assistant's next turn; earlier assistant turns count."""
    pieces = split_template(
        tokenizer.chat_template,
        tuple(message.role for message in messages),
        tokenizer.special_tokens,
        add_generation_prompt=True,
    )
    ids: list[int] = []
    train_mask: list[bool] = []
    after_reply = False
    for piece in pieces:
        if isinstance(piece, Slot):
            message = messages[piece.index]
            after_reply = message.role == "assistant"
            # A reply is what the model said, to the letter; only other contents are trimmed as the template
            # wants.
            content = message.content if after_reply else piece.fill(message.content)
            new = tokenizer.encode(content)
            counts = [after_reply] * len(new)
        else:
            new = tokenizer.encode(piece, special=True)
            counts = [False] * len(new)
            if after_reply and tokenizer.end_of_turn_id in new:
                counts[new.index(tokenizer.end_of_turn_id)] = True
        ids += new
        train_mask += counts
    return Rendered(ids, train_mask)


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids (T,) of the conversation so far, ready for the model to answer.

    Raises:
        DataError: there is no message, or the last one is the assistant's.
        ConfigError, CheckpointError: see `split_template`.
    """
    if not messages or messages[-1].role == "assistant":
        raise DataError(
            "a prompt has no messages" if not messages else "a prompt ends with the assistant's message",
            cure="end the prompt with a user's message; the reply goes into 'response'",
        )
    return _render(tokenizer, messages).ids


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> Rendered:
    """Ids of a whole conversation; every assistant turn counts, with the end-of-turn after it and nothing
    else.

    The last turn is the prompt's ids, the reply's own ids and one end-of-turn: what the model sees when it
    answers.

    Raises:
        DataError: the last message is not the assistant's, or nothing stands before it.
        ConfigError, CheckpointError: see `split_template`.
    """
    if len(messages) < 2 or messages[-1].role != "assistant" or messages[-2].role == "assistant":
        raise DataError(
            "a conversation to train on must end with a user's message and the assistant's reply",
            where=f"roles {', '.join(message.role for message in messages) or 'none'}",
            cure='write [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]',
        )
    head = _render(tokenizer, messages[:-1])
    reply = _reply(tokenizer, messages[-1].content)
    return Rendered(head.ids + reply, head.train_mask + [True] * len(reply))


def render_reply(tokenizer: Tokenizer, prompt_messages: Sequence[Message], response: str) -> Rendered:
    """`render_prompt` of the prompt, then the response and one end-of-turn; only the latter two count.

    Raises:
        DataError, ConfigError, CheckpointError: see `render_prompt`.
    """
    prompt = render_prompt(tokenizer, prompt_messages)
    reply = _reply(tokenizer, response)
    return Rendered(prompt + reply, [False] * len(prompt) + [True] * len(reply))


def _reply(tokenizer: Tokenizer, response: str) -> list[int]:
    return [*tokenizer.encode(response), tokenizer.end_of_turn_id]


def colour(tokenizer: Tokenizer, rendered: Rendered) -> str:
    """For a terminal: the tokens one by one, those that count in green, for looking at a mask by eye."""
    green, grey, plain = "\x1b[32m", "\x1b[90m", "\x1b[0m"
    return "|".join(
        f"{green if counts else grey}{tokenizer.decode([index], skip_special=False)!r}{plain}"
        for index, counts in zip(rendered.ids, rendered.train_mask, strict=True)
    )
