"""Chat templates: Jinja, sandboxed, rendered with slots where the contents go.

A chat template is a program that prints a conversation as one string. If that string were tokenized as a
whole, a user who types `<|im_end|>` would end his own turn. So we let the template print *slots* instead of
contents and cut its output there: what the template printed is trusted and may hold special tokens, what goes
into a slot never does.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from instructgpt.errors import CheckpointError, ConfigError

OWN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Template of the tokenizers we train: every role and the end of a turn is one special token."""

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'].capitalize() + ':\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"
)
"""Template for a base model whose folder has none (GPT-2): plain words, and eos ends a reply."""

# U+001F counts as white space for str.strip, and no template prints it: if it is gone on one side of a slot,
# the template trims contents on that side.
_GUARD = "\x1f"
_SLOT = re.compile(f"({_GUARD}?)\ue000slot(\\d+)\ue001({_GUARD}?)")
_NOW = datetime.datetime(2024, 7, 26)  # a fixed day: prompts must not change between training and serving


@dataclass(frozen=True)
class Slot:
    """Place of message number `index`; the flags say whether the template trims its content there."""

    index: int
    trim_left: bool
    trim_right: bool

    def fill(self, content: str) -> str:
        """The content as the template would have printed it."""
        content = content.lstrip() if self.trim_left else content
        return content.rstrip() if self.trim_right else content


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: some checkpoints mark replies with it; it prints its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as an instance variable

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Refusal(Exception):
    """The template called raise_exception."""


def _refuse(message: str) -> str:
    raise _Refusal(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # unlike Jinja's own filter, no HTML escapes


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _NOW.strftime
    try:
        return environment.from_string(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(
            f"the chat template is not valid Jinja: {error.message}",
            where=f"chat_template, line {error.lineno}",
            cure="correct chat_template in tokenizer_config.json (or chat_template.jinja) of the checkpoint",
        ) from error


@lru_cache(maxsize=4096)
def _split(
    template: str,
    roles: tuple[str, ...],
    specials: tuple[tuple[str, str], ...],
    add_generation_prompt: bool,
) -> tuple[str | Slot, ...]:
    messages = [
        {"role": role, "content": f"{_GUARD}\ue000slot{index}\ue001{_GUARD}"}
        for index, role in enumerate(roles)
    ]
    try:
        text = _compile(template).render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **dict(specials),
        )
    except _Refusal as error:
        raise ConfigError(
            f"the checkpoint's chat template refuses this conversation: {error}",
            where=f"roles {', '.join(roles)}",
            cure="give messages in the order that this checkpoint was made for (often: optional system, then "
            "user and assistant in turn), or replace its chat_template",
        ) from error
    except Exception as error:  # a program from a file may fail in any way
        raise CheckpointError(
            f"the chat template fails: {type(error).__name__}: {error}",
            where=f"chat_template, roles {', '.join(roles)}",
            cure="correct chat_template in tokenizer_config.json (or chat_template.jinja) of the checkpoint",
        ) from error
    pieces: list[str | Slot] = []
    end = 0
    for match in _SLOT.finditer(text):
        pieces.append(text[end : match.start()])
        pieces.append(Slot(int(match[2]), trim_left=not match[1], trim_right=not match[3]))
        end = match.end()
    pieces.append(text[end:])
    found = [piece.index for piece in pieces if isinstance(piece, Slot)]
    if found != list(range(len(roles))):
        raise CheckpointError(
            f"the chat template must print each message once and in order; of {len(roles)} messages it "
            f"printed numbers {[index + 1 for index in found]}",
            where=f"chat_template, roles {', '.join(roles)}",
            cure="use a chat_template that prints message['content'] of every message unchanged",
        )
    return tuple(pieces)


def split_template(
    template: str,
    roles: tuple[str, ...],
    specials: Mapping[str, str],
    *,
    add_generation_prompt: bool,
) -> tuple[str | Slot, ...]:
    """What the template prints for messages of these roles, cut at the contents.

    The answer depends on the roles alone (a template that looks into the contents sees only slots), so it is
    cached.

    Args:
        roles: role of each message, in order.
        specials: `bos_token`, `eos_token`, `pad_token` as the template's variables; absent ones stay
            undefined.
        add_generation_prompt: whether the text ends with the head of an assistant turn.

    Returns:
        text, slot, text, slot, ..., text; texts may be empty.

    Raises:
        ConfigError: the template refuses the order of roles.
        CheckpointError: the template is not valid, fails, or drops, repeats or reorders messages.
    """
    return _split(template, roles, tuple(sorted(specials.items())), add_generation_prompt)
