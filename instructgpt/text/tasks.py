"""Task templates: what people use a model for, as prompts for the command line, Python and the server alike.

    render("summarize", "en", text=report, length="two sentences")

The words of each language are in `tasks.LANGUAGE.toml` beside this file. A line of a template that names an
empty field is left out. A field that holds a whole text is fenced with quotation marks, one more than the
text itself has in a row, so that no text can close its fence and pass itself off as part of the instruction.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.text.chat import Message

LANGUAGES = ("en", "zh")
LONG = frozenset({"text", "context", "table", "code", "facts"})
"""Fields that hold whole texts: fenced in prompts, a large box in forms."""
CUT_MARK = " […]"
"""Ends a text that was cut to fit."""

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Task:
    """One task template; its words are looked up by language.

    Attributes:
        group: where menus show it.
        category: the use case of InstructGPT's Table 1 (arXiv:2203.02155) that its prompts belong to.
        required: fields without which it makes no sense; the first is what a file holds.
        optional: fields that may be empty, or have a default in the words.
    """

    group: str
    category: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields, required ones first."""
        return self.required + self.optional

    @property
    def main(self) -> str:
        """The field that a file holds, and that is cut where a prompt is too long."""
        return self.required[0]


TASKS: dict[str, Task] = {
    "open-qa": Task("answers", "open QA", ("question",)),
    "closed-qa": Task("answers", "closed QA", ("text", "question")),
    "reading": Task("answers", "closed QA", ("text", "question")),
    "support": Task("answers", "closed QA", ("context", "question"), ("company",)),
    "dialogue": Task("talk", "chat", ("message",), ("style",)),
    "role-play": Task("talk", "chat", ("character", "message"), ("scene",)),
    "summarize": Task("texts", "summarization", ("text",), ("length", "focus")),
    "translate": Task("texts", "rewrite", ("text", "target"), ("source", "tone")),
    "rewrite": Task("texts", "rewrite", ("text", "style")),
    "extract": Task("texts", "extract", ("text", "items")),
    "sentiment": Task("texts", "classification", ("text",), ("labels",)),
    "classify": Task("texts", "classification", ("text", "labels")),
    "article": Task("write", "generation", ("topic",), ("audience", "tone", "length", "facts")),
    "story": Task("write", "generation", ("topic",), ("audience", "tone", "length")),
    "poem": Task("write", "generation", ("topic",), ("form", "tone")),
    "product": Task("write", "generation", ("product", "facts"), ("audience", "tone", "length")),
    "brainstorm": Task("write", "brainstorming", ("topic",), ("count",)),
    "exercises": Task("learn", "generation", ("subject",), ("level", "count")),
    "explain": Task("learn", "generation", ("subject",), ("level",)),
    "legal": Task("advice", "open QA", ("question",), ("place", "context")),
    "health": Task("advice", "open QA", ("question",), ("context",)),
    "code": Task("work", "generation", ("request",), ("programming", "code")),
    "research": Task("work", "summarization", ("text",), ("question",)),
    "data": Task("work", "summarization", ("table",), ("question",)),
}
"""Name -> template, in the order of menus."""


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none; names those there are.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3, cutoff=0.5)
        first = f"did you mean {' or '.join(near)}? The tasks are " if near else "choose one of "
        raise ConfigError(f"there is no task {name!r}", "task", first + ", ".join(TASKS))
    return TASKS[name]


def render(name: str, language: str = "en", /, **fields: str) -> list[Message]:
    """A system and a user message that ask for the task.

    Args:
        name: one of `TASKS`.
        language: of the instructions, en or zh; the material may be in any.
        fields: values of the task's fields. Those left out or blank take their default, if there is one.

    Raises:
        ConfigError: no such task, language or field, or a required field is missing; names what there is.
    """
    task, words = task_named(name), words_of(language)
    given = _checked(name, task, fields)
    texts = words["tasks"][name]
    values = {field: given.get(field) or texts.get("defaults", {}).get(field, "") for field in task.fields}
    system, user = (_fill(texts[part], values) for part in ("system", "user"))
    if any(values[field] for field in LONG & set(task.fields)):
        system = f"{system}\n{words['untrusted']}"
    return [Message("system", system), Message("user", user)]


def render_within(
    name: str,
    language: str,
    fields: Mapping[str, str],
    count: Callable[[Sequence[Message]], int],
    room: int,
) -> tuple[list[Message], int]:
    """`render`, with the end of the main field cut off where the prompt would take more than `room` tokens.

    Args:
        count: tokens of a prompt.
        room: the most it may take.

    Returns:
        the messages, and how many characters were cut (0 if it fits whole).

    Raises:
        ConfigError: see `render`; or there is no room even without the text.
    """
    messages = render(name, language, **fields)
    if count(messages) <= room:
        return messages, 0
    main = task_named(name).main
    whole = fields[main]

    def cut(length: int) -> list[Message]:
        return render(name, language, **{**fields, main: whole[:length].rstrip() + CUT_MARK})

    fits, too_long = 0, len(whole)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count(cut(middle)) <= room:
            fits = middle
        else:
            too_long = middle
    if not whole[:fits].strip():
        least = count(render(name, language, **{**fields, main: "."}))
        raise ConfigError(
            f"the instructions of task {name!r} take {least} tokens, and there is room for {room}",
            "task",
            "allow a shorter reply, shorten the other fields, or use a model with a longer context",
        )
    return cut(fits), len(whole) - fits


def _checked(name: str, task: Task, fields: Mapping[str, str]) -> dict[str, str]:
    """The fields that hold something; all are known, and none that is required is missing."""
    there_are = "its fields are " + ", ".join([*task.required, *(f"{f} (optional)" for f in task.optional)])
    for field, value in fields.items():
        if field not in task.fields:
            raise ConfigError(f"task {name!r} has no field {field!r}", "task", there_are)
        if not isinstance(value, str):
            raise ConfigError(f"field {field!r} of task {name!r} is no text", "task", "give a string")
    given = {field: value.strip("\n") for field, value in fields.items() if value.strip()}
    missing = [field for field in task.required if field not in given]
    if missing:
        raise ConfigError(f"task {name!r} needs {' and '.join(missing)}", "task", f"give it: {there_are}")
    return given


def _fill(template: str, values: Mapping[str, str]) -> str:
    """The template's lines, filled; a line of an empty field goes, and the line that announces it."""
    lines: list[str] = []
    for line in template.split("\n"):
        names = _FIELD.findall(line)
        if any(not values[name] for name in names):
            if line == f"{{{names[0]}}}" and lines and lines[-1].endswith((":", "：")):
                lines.pop()
            continue
        lines.append(_FIELD.sub(lambda match: _value(match[1], values), line))
    return "\n".join(lines)


def _value(name: str, values: Mapping[str, str]) -> str:
    value = values[name]
    if name not in LONG:
        return value
    longest = max((len(run) for run in re.findall('"+', value)), default=0)
    fence = '"' * max(3, longest + 1)
    return f"{fence}\n{value}\n{fence}"


# -- words


def words_of(language: str) -> dict[str, Any]:
    """All words of a language: `untrusted`, `groups`, `fields`, and `tasks` (title, system, user, defaults).

    Raises:
        ConfigError: there are no templates in that language.
    """
    if language not in LANGUAGES:
        cure = "choose one of " + ", ".join(LANGUAGES) + "; the texts themselves may be in any language"
        raise ConfigError(f"there are no task templates in language {language!r}", "language", cure)
    return _read_words(language)


@cache
def _read_words(language: str) -> dict[str, Any]:
    path = Path(__file__).with_name(f"tasks.{language}.toml")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def catalog(language: str = "en") -> list[dict[str, Any]]:
    """What a menu needs: `name`, `title`, `group`, `fields` (name, label, required, long, default) of each.

    Raises:
        ConfigError: see `words_of`.
    """
    words = words_of(language)
    return [
        {
            "name": name,
            "title": words["tasks"][name]["title"],
            "group": words["groups"][task.group],
            "fields": [
                {
                    "name": field,
                    "label": words["fields"][field],
                    "required": field in task.required,
                    "long": field in LONG,
                    "default": words["tasks"][name].get("defaults", {}).get(field, ""),
                }
                for field in task.fields
            ],
        }
        for name, task in TASKS.items()
    ]
