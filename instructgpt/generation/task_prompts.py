"""Prompts of a task template: from a file, several, a JSONL file of fields, or the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from instructgpt.data.jsonl import JSONL_ENDINGS, expand, json_type, read_jsonl, read_text
from instructgpt.data.records import Prompt
from instructgpt.errors import ConfigError, DataError
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tasks import catalog, render, render_within, task_named
from instructgpt.text.tokenizer import Tokenizer


class TaskSettings(Protocol):
    """The settings of `generate` that make prompts of a task."""

    @property
    def task(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def field(self) -> tuple[str, ...]: ...
    @property
    def truncate(self) -> bool: ...
    @property
    def max_new(self) -> int: ...


@dataclass(frozen=True)
class TaskPrompt(Prompt):
    """A prompt that a task template made: also the fields that it was made of, and where they come from."""

    fields: Mapping[str, str] = field(default_factory=dict)
    where: str = ""


def read_task_prompts(settings: TaskSettings) -> list[TaskPrompt]:
    """A prompt for each file, or for each line of a JSONL file; one if there is no file.

    A text file is the task's main field. A line of JSONL names fields, and may have an `id`. Fields of
    `--field` hold for all; a line's own win.

    Raises:
        ConfigError: an unknown task, language or field, or a field that is missing.
        DataError: a file or a line can't be read, or lacks a field.
    """
    task = task_named(settings.task)
    common = _given(settings.field)
    if not settings.file:
        return [_prompt(settings, common, {}, "--field")]
    if settings.file == "-":
        return [_prompt(settings, common, {task.main: sys.stdin.read()}, "standard input")]
    found: list[TaskPrompt] = []
    for path in expand(settings.file, ("",)):
        if path.name.endswith(JSONL_ENDINGS):
            example = f'{{"{task.main}": "..."}}'
            found += [_prompt(settings, common, row, where) for where, row in read_jsonl(path, example)]
        else:
            found.append(_prompt(settings, common, {task.main: read_text(path)}, str(path)))
    return found


def _given(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts as fields; a value @FILE is the file's text."""
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and name):
            raise ConfigError(
                f"{pair!r} is no field", "--field", "write name=value, or name=@FILE for a file's text"
            )
        if value.startswith("@"):
            (path,) = expand(value[1:], ("",))[:1]
            value = read_text(path)
        fields[name.replace("-", "_")] = value
    return fields


def _prompt(
    settings: TaskSettings, common: Mapping[str, str], row: Mapping[str, Any], where: str
) -> TaskPrompt:
    task = task_named(settings.task)
    own = {name: _text(row[name], name, where) for name in task.fields if row.get(name) is not None}
    fields = {**common, **own}
    try:
        messages = render(settings.task, settings.language, **fields)
    except ConfigError as error:
        if not row:
            raise
        raise DataError(error.what, where, error.cure) from error
    own_id = "" if row.get("id") is None else str(row["id"])
    return TaskPrompt(tuple(messages), id=own_id, category=task.category, fields=fields, where=where)


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"field {name!r} is {json_type(value)}, not a text", where, "write a string")


def fit_task_prompts(
    settings: TaskSettings, prompts: Sequence[Prompt], tokenizer: Tokenizer, context: int
) -> list[Prompt]:
    """The prompts as they are asked: whole, or with `--truncate` with the end of a too long text cut off.

    Args:
        context: the model's, in tokens; a prompt and its reply must fit.

    Raises:
        DataError: a prompt is too long and may not be cut; says by how many tokens.
    """
    room = context - settings.max_new
    fitted: list[Prompt] = []
    for prompt in prompts:
        taken = _count(tokenizer, prompt.messages)
        if taken <= room or not isinstance(prompt, TaskPrompt):
            fitted.append(prompt)
            continue
        main = task_named(settings.task).main
        if not settings.truncate:
            raise DataError(
                f"the prompt takes {taken} tokens, {taken - room} too many: the model's context of {context} "
                f"must hold a reply of up to {settings.max_new} too",
                prompt.where,
                f"cut the end of {main!r} with --truncate, lower --max-new, or use a model with a "
                "longer context",
            )
        messages, characters = render_within(
            settings.task, settings.language, prompt.fields, lambda shorter: _count(tokenizer, shorter), room
        )
        print(f"{prompt.where}: the last {characters} characters of {main!r} were cut off", file=sys.stderr)
        fitted.append(replace(prompt, messages=tuple(messages)))
    return fitted


def _count(tokenizer: Tokenizer, messages: Sequence[Message]) -> int:
    return len(render_prompt(tokenizer, messages))


def task_table(language: str) -> str:
    """The tasks with their fields, for `--list-tasks`; optional fields in brackets."""
    rows = []
    for entry in catalog(language):
        fields = [f["name"] if f["required"] else f"[{f['name']}]" for f in entry["fields"]]
        rows.append((entry["name"], " ".join(fields), entry["title"]))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {fields:<{widths[1]}}  {title}" for name, fields, title in rows)


def task_file_inputs(settings: TaskSettings) -> str:
    """The files that the prompts come from, as `open_run` takes them."""
    named = [pair.partition("=")[2][1:] for pair in settings.field if "=@" in pair]
    files: list[Path] = [path for part in [settings.file, *named] if part for path in expand(part, ("",))]
    return ",".join(map(str, files))
