"""Tasks before they are stored, and what is wrong with those that can't be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from instructgpt.data.records import Prompt
from instructgpt.labelling.store.form import REPLY_FLAGS, STYLES, PromptStyle, check_text
from instructgpt.labelling.store.refusals import Invalid, Problem

Purpose = Literal["work", "screening", "onboarding"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
MAX_NAME = 200
"""Longest id of a prompt and name of a model."""


@dataclass(frozen=True)
class NewReply:
    """A model's reply; `rank`, `rating` and `flags` are the known answer of a screening task or an
    example."""

    text: str
    model: str | None = None
    rank: int | None = None
    rating: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class NewTask:
    """A task to be added.

    Attributes:
        prompt: None where a prompt is to be written.
        style, brief: of the prompt to be written; the brief is shown to the labeler as it is.
        response: the model answer of an onboarding demonstration.
        explanation: why the known answer is right, shown with an example.
    """

    prompt: Prompt | None
    replies: tuple[NewReply, ...] = ()
    style: PromptStyle = "plain"
    brief: str = ""
    response: str | None = None
    explanation: str = ""


def check_task(kind: str, task: NewTask, purpose: Purpose, where: str) -> None:
    """
    Raises:
        Invalid: the task doesn't fit a project of this kind, or holds what can't be kept.
    """
    problems: list[Problem] = []
    if kind == "prompt":
        if task.prompt is not None or task.style not in STYLES:
            problems.append(
                Problem(
                    where, f"prompts are to be written here: give a brief and a style of {', '.join(STYLES)}"
                )
            )
        if not task.brief.strip() and task.style == "user-based":
            problems.append(Problem(where, "a user-based prompt needs a brief that names the use case"))
    elif task.prompt is None:
        problems.append(Problem(where, "has no prompt"))
    judged = kind in ("rank", "compare")
    if task.replies and not judged:
        problems.append(Problem(where, "has replies, but nothing is judged in this project"))
    ranked = [one.rank is not None for one in task.replies]
    if (
        purpose == "screening"
        and judged
        and not (2 <= len(ranked) <= (2 if kind == "compare" else 9) and all(ranked))
    ):
        many = "two replies" if kind == "compare" else "two to nine replies"
        problems.append(Problem(where, f"a screening task needs {many}, each with its known rank"))
    if any(ranked) and not all(ranked):
        problems.append(Problem(where, "some replies have a known rank and some have none"))
    problems += _unstorable(task, where)
    if problems:
        raise Invalid(problems)


def _unstorable(task: NewTask, where: str) -> list[Problem]:
    problems: list[Problem] = []
    said = task.prompt.messages if task.prompt else ()
    texts = [*(message.content for message in said), task.brief, task.explanation, task.response or ""]
    try:
        for value in texts:
            check_text(value, where, empty=True)
        if task.prompt:
            check_text(task.prompt.id, f"{where}, its id", limit=MAX_NAME)
        for one in task.replies:
            check_reply(one, where)
    except Invalid as error:
        problems += error.problems
    return problems


def check_reply(reply: NewReply, where: str = "") -> None:
    """
    Raises:
        Invalid: it holds what can't be kept, or its known answer can't be one.
    """
    check_text(reply.text, where, empty=True)  # a model may well say nothing
    if reply.model is not None:
        check_text(reply.model, f"{where}, the model's name", limit=MAX_NAME)
    if (reply.rank is not None and not 1 <= reply.rank <= 9) or any(
        flag not in REPLY_FLAGS for flag in reply.flags
    ):
        raise Invalid([Problem(where, "a known rank is not from 1 to 9, or there is no such flag")])
