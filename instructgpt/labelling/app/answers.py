"""The fields of a task's form as an answer, and an answer as the fields of its form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.labelling.app.page import Posted
from instructgpt.labelling.app.texts import Translator
from instructgpt.labelling.store.form import (
    Answer,
    CompareAnswer,
    DemonstrationAnswer,
    Kind,
    PromptAnswer,
    PromptStyle,
    RankAnswer,
    answer_from_json,
)
from instructgpt.labelling.store.queue import ShownReply
from instructgpt.labelling.store.refusals import Invalid

LETTERS = "ABCDEFGHI"
MAX_TURNS = 31
FEWEST_EXAMPLES, MOST_EXAMPLES = 2, 16

Values = dict[str, list[str]]
"""Field name -> its values, as a form posts them."""


class Unfinished(Exception):
    """A form that isn't an answer yet; `problems` are sentences in the labeler's language."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def read_answer(
    kind: Kind, style: PromptStyle, replies: Sequence[ShownReply], form: Posted, t: Translator
) -> Answer:
    """The answer that a posted form holds.

    Raises:
        Unfinished: something is missing or can't be.
    """
    problems: list[str] = []
    value: dict[str, Any] = {"note": form.line("note")}
    if kind == "demonstration":
        value["turns"] = _turns(form, problems, t)
    elif kind == "prompt":
        value |= _prompt(form, style, problems, t)
    elif kind == "rank":
        value["judgements"] = [
            _judgement(form, reply, LETTERS[i], problems, t) for i, reply in enumerate(replies)
        ]
        value["all_bad"] = form.on("all_bad")
        value["prompt_flags"] = form.all("prompt_flag")
    else:
        value["judgements"] = _verdict(form, replies, problems, t)
    if problems:
        raise Unfinished(problems)
    try:
        return answer_from_json(kind, value)
    except Invalid as error:
        raise Unfinished([f"{problem.field}: {problem.what}" for problem in error.problems]) from error


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else None


def _judgement(
    form: Posted, reply: ShownReply, letter: str, problems: list[str], t: Translator
) -> dict[str, Any]:
    rank, rating = _whole(form.text(f"rank-{reply.key}")), _whole(form.text(f"rating-{reply.key}"))
    if not rating:
        problems.append(t("problem.rating", letter=letter))
    if not rank:
        problems.append(t("problem.rank", letter=letter))
    return {"reply": reply.key, "rank": rank, "rating": rating, "flags": form.all(f"flag-{reply.key}")}


def _verdict(
    form: Posted, replies: Sequence[ShownReply], problems: list[str], t: Translator
) -> list[dict[str, Any]]:
    choice = form.text("choice")
    keys = [reply.key for reply in replies]
    if choice not in (*keys, "tie"):
        problems.append(t("problem.choice"))
    return [
        {
            "reply": key,
            "rank": 1 if choice in (key, "tie") else 2,
            "rating": _whole(form.text(f"rating-{key}")),
            "flags": form.all(f"flag-{key}"),
        }
        for key in keys
    ]


def turn_count(values: Mapping[str, Sequence[str]]) -> int:
    """Turns that a form shows: an odd number, since the assistant has the first and the last word."""
    return next((n for n in range(MAX_TURNS, 1, -2) if f"turn-{n - 1}" in values), 1)


def _turns(form: Posted, problems: list[str], t: Translator) -> list[dict[str, str]]:
    values = form.values()
    texts = [form.text(f"turn-{i}").strip() for i in range(turn_count(values))]
    while len(texts) > 2 and not texts[-1] and not texts[-2]:  # a turn that was added and left empty
        texts = texts[:-2]
    for number, text in enumerate(texts):
        if not text:
            problems.append(t("problem.turn", n=number + 1) if len(texts) > 1 else t("problem.reply"))
    return [{"role": ("assistant", "user")[i % 2], "content": text} for i, text in enumerate(texts)]


def example_count(values: Mapping[str, Sequence[str]]) -> int:
    """Examples that a few-shot form shows."""
    shown = (n for n in range(MOST_EXAMPLES, FEWEST_EXAMPLES, -1) if f"query-{n - 1}" in values)
    return next(shown, FEWEST_EXAMPLES)


def _prompt(form: Posted, style: PromptStyle, problems: list[str], t: Translator) -> dict[str, Any]:
    text = form.text("text").strip()
    if not text:
        problems.append(t("problem.prompt"))
    value: dict[str, Any] = {"text": text, "category": form.line("category") or None}
    if style != "few-shot":
        return value
    examples = []
    for i in range(example_count(form.values())):
        query, response = form.text(f"query-{i}").strip(), form.text(f"response-{i}").strip()
        if query and response:
            examples.append({"query": query, "response": response})
        elif query or response:
            problems.append(t("problem.example", n=i + 1))
    if len(examples) < FEWEST_EXAMPLES and not problems:
        problems.append(t("problem.examples", n=FEWEST_EXAMPLES))
    return value | {"examples": examples}


def fields_of(answer: Answer) -> Values:
    """The fields that would post this answer."""
    values: Values = {"note": [answer.note]}
    if isinstance(answer, DemonstrationAnswer):
        values |= {f"turn-{i}": [turn.content] for i, turn in enumerate(answer.turns)}
    elif isinstance(answer, PromptAnswer):
        values |= {"text": [answer.text], "category": [answer.category or ""]}
        for i, example in enumerate(answer.examples):
            values |= {f"query-{i}": [example.query], f"response-{i}": [example.response]}
    else:
        for judgement in answer.judgements:
            values[f"rank-{judgement.reply}"] = [str(judgement.rank)]
            values[f"rating-{judgement.reply}"] = [str(judgement.rating or "")]
            values[f"flag-{judgement.reply}"] = list(judgement.flags)
        if isinstance(answer, RankAnswer):
            values["all_bad"] = ["1"] if answer.all_bad else []
            values["prompt_flag"] = list(answer.prompt_flags)
        elif isinstance(answer, CompareAnswer):
            best = [judgement.reply for judgement in answer.judgements if judgement.rank == 1]
            values["choice"] = best if len(best) == 1 else ["tie"]
    return values


def fields_of_draft(draft: Any) -> Values:
    """The fields of a draft as the page's script and `draft_of` write it; nothing if it is something else."""
    entries = draft.get("entries") if isinstance(draft, dict) else None
    values: Values = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
            values.setdefault(entry[0], []).append(entry[1])
    return values


def draft_of(form: Posted, at: float) -> dict[str, Any]:
    """A draft of what was posted at `at` (seconds)."""
    kept = [[name, value] for name, value in form.items if name not in ("csrf", "token", "action", "seconds")]
    return {"at": at * 1000, "entries": kept}


def draft_attribute(draft: Any) -> str:
    """The draft as the page's script reads it."""
    return json.dumps(draft, ensure_ascii=False) if isinstance(draft, dict) else ""
