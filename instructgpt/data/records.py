"""The records that flow between stages, and their JSONL form.

| record | line |
|---|---|
| Prompt | `{"prompt": str or messages}` |
| Demonstration | `{"prompt", "response": str}` |
| Ranking | `{"prompt", "responses": [{"text", "rank", "rating"?, "flags"?, "model"?}], "labeler"?}` |
| Text | `{"text": str}` |

Rank 1 is best and equal ranks are ties. All may carry `id, user_id, category, group, split, source, consent`,
and for verifiable rewards `answer` and `checks` (see `checks.py`).
Lines of other projects' shapes are read too: see `sources.py`. Text stays text: no file ever holds token ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from instructgpt.data.checks import Check, check_rows, parse_answers, parse_checks
from instructgpt.data.jsonl import (
    JSONL_ENDINGS,
    TEXT_ENDINGS,
    expand,
    json_type,
    read_jsonl,
    read_text,
    write_jsonl,
)
from instructgpt.data.sources import Kind, normalise
from instructgpt.errors import DataError
from instructgpt.text.chat import Message

__all__ = [
    "Demonstration",
    "Prompt",
    "RankedResponse",
    "Ranking",
    "Text",
    "read_demonstrations",
    "read_prompts",
    "read_rankings",
    "read_texts",
    "to_row",
    "write_jsonl",
]

EXAMPLES: dict[Kind, str] = {
    "prompt": '{"prompt": "Name a river."}',
    "demonstration": '{"prompt": "Name a river.", "response": "The Nile."}',
    "ranking": '{"prompt": "Name a river.", "responses": [{"text": "The Nile.", "rank": 1}, '
    '{"text": "Paris.", "rank": 2}]}',
    "text": '{"text": "The Nile is a river in Africa."}',
}
"""A right line of each kind, shown in errors."""


def content_id(*parts: str) -> str:
    """Id of a record that came without one: a hash of its content, the same on every machine and in every
    run."""
    return blake2b(json.dumps(parts, ensure_ascii=True).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for the assistant's next message.

    Attributes:
        messages: the last one is the user's (or a system message alone).
        id: names the prompt in random keys and in reports; a hash of the messages if not given.
        user_id: who wrote it; splits and caps go by it.
        category: use case, for example "open QA".
        group: any grouping that a report should show apart.
        split, source: where it belongs to and comes from.
        consent: whether its author allows training on it; None is unknown.
        answers: right answers, any of which will do; `answer` in a file.
        checks: what a reply must be like.
    """

    messages: tuple[Message, ...]
    id: str = ""
    user_id: str | None = None
    category: str | None = None
    group: str | None = None
    split: str | None = None
    source: str | None = None
    consent: bool | None = None
    answers: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            parts = [part for message in self.messages for part in (message.role, message.content)]
            object.__setattr__(self, "id", content_id(*parts))

    @classmethod
    def of(cls, text: str, **more: Any) -> Prompt:
        """A prompt of one user message."""
        return cls((Message("user", text),), **more)

    @property
    def text(self) -> str:
        """The last message's content: what is asked."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Demonstration:
    """A prompt and how a person would have the assistant answer it."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class RankedResponse:
    """One reply of a ranking. rank 1 is best and equal ranks are ties; rating is 1 to 7 (paper, figure
    12)."""

    text: str
    rank: int
    rating: float | None = None
    flags: tuple[str, ...] = ()
    model: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Two or more replies to one prompt, ranked by one labeler."""

    prompt: Prompt
    responses: tuple[RankedResponse, ...]
    labeler: str | None = None


@dataclass(frozen=True)
class Text:
    """A document for pretraining."""

    text: str
    id: str = ""
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.text))


Record = TypeVar("Record", Prompt, Demonstration, Ranking, Text)


# -- one line -> one record; errors name the field, the reader adds file:line


def _wrong(what: str, kind: Kind, cure: str) -> DataError:
    return DataError(what, cure=f"{cure}, as in {EXAMPLES[kind]}")


def _field(row: Mapping[str, Any], name: str, kind: Kind) -> Any:
    if name not in row:
        known = ", ".join(repr(key) for key in row) or "nothing"
        raise _wrong(f"the record has no {name!r} (it has {known})", kind, f"add {name!r}")
    return row[name]


def _string(value: Any, name: str, kind: Kind, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise _wrong(f"{name} is {json_type(value)}, not a string", kind, "write a string")
    if not empty and not value.strip():
        raise _wrong(f"{name} is empty", kind, "write the text or leave the record out")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            what = f"{name} holds half of a surrogate pair ({half})"
            raise _wrong(what, kind, "write the whole character") from error
    return value


def _optional(row: Mapping[str, Any], name: str, kind: Kind) -> str | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # numbers are common as ids
    return _string(value, repr(name), kind, empty=True)


def _messages(value: Any, kind: Kind) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", _string(value, "'prompt'", kind)),)
    if not isinstance(value, list):
        raise _wrong(
            f"'prompt' is {json_type(value)}, not a string or a list of messages", kind, "write a string"
        )
    messages = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str) or "content" not in turn:
            raise DataError(
                f"message {number} of 'prompt' is not an object with 'role' and 'content'",
                cure='write messages as [{"role": "user", "content": "Name a river."}]',
            )
        content = _string(turn["content"], f"the content of message {number} of 'prompt'", kind, empty=True)
        messages.append(Message(turn["role"], content))
    if not messages or messages[-1].role == "assistant":
        what = "ends with the assistant's message" if messages else "has no messages"
        raise _wrong(f"'prompt' {what}", kind, "end it with a user's message, the reply goes elsewhere")
    if not any(message.content.strip() for message in messages):
        raise _wrong("'prompt' is empty", kind, "write the text or leave the record out")
    return tuple(messages)


def _prompt(row: Mapping[str, Any], kind: Kind) -> Prompt:
    consent = row.get("consent")
    if consent is not None and not isinstance(consent, bool):
        raise DataError(f"'consent' is {json_type(consent)}, not true or false", cure='write "consent": true')
    return Prompt(
        messages=_messages(_field(row, "prompt", kind), kind),
        id=_optional(row, "id", kind) or "",
        user_id=_optional(row, "user_id", kind),
        category=_optional(row, "category", kind),
        group=_optional(row, "group", kind),
        split=_optional(row, "split", kind),
        source=_optional(row, "source", kind),
        consent=consent,
        answers=parse_answers(row.get("answer")),
        checks=parse_checks(row.get("checks")),
    )


def _demonstration(row: Mapping[str, Any]) -> Demonstration:
    response = _string(_field(row, "response", "demonstration"), "'response'", "demonstration")
    return Demonstration(_prompt(row, "demonstration"), response)


def _ranked(value: Any, number: int) -> RankedResponse:
    name = f"response {number}"
    if not isinstance(value, dict):
        raise _wrong(
            f"{name} is {json_type(value)}, not an object", "ranking", "give each response text and rank"
        )
    for key in ("text", "rank"):
        if key not in value:
            raise _wrong(f"{name} has no {key!r}", "ranking", f"add {key!r}")
    rank, rating, flags = value["rank"], value.get("rating"), value.get("flags") or []
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise _wrong(
            f"'rank' of {name} is {json.dumps(rank)}, not a whole number from 1 (best)",
            "ranking",
            "number the ranks",
        )
    if rating is not None and (isinstance(rating, bool) or not isinstance(rating, int | float)):
        raise _wrong(f"'rating' of {name} is {json_type(rating)}, not a number", "ranking", "write a number")
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise _wrong(f"'flags' of {name} is not a list of strings", "ranking", 'write "flags": ["name", ...]')
    text = _string(
        value["text"], f"the text of {name}", "ranking", empty=True
    )  # a model may well say nothing
    return RankedResponse(
        text=text, rank=rank, rating=rating, flags=tuple(flags), model=_optional(value, "model", "ranking")
    )


def _ranking(row: Mapping[str, Any]) -> Ranking:
    responses = _field(row, "responses", "ranking")
    if not isinstance(responses, list) or len(responses) < 2:
        what = f"has {len(responses)}" if isinstance(responses, list) else f"is {json_type(responses)}"
        raise _wrong(
            f"'responses' must be a list of at least two, it {what}", "ranking", "give two or more replies"
        )
    ranked = tuple(_ranked(value, number) for number, value in enumerate(responses, start=1))
    return Ranking(_prompt(row, "ranking"), ranked, _optional(row, "labeler", "ranking"))


def _text(row: Mapping[str, Any]) -> Text:
    text = _string(_field(row, "text", "text"), "'text'", "text")
    return Text(text, _optional(row, "id", "text") or "", _optional(row, "source", "text"))


# -- files -> lists of records


def _read(path: str | Path, kind: Kind, parse: Callable[[Mapping[str, Any]], Record]) -> list[Record]:
    records: list[Record] = []
    for file in expand(path, JSONL_ENDINGS):
        records += _read_file(file, kind, parse)
    return records


def _read_file(file: Path, kind: Kind, parse: Callable[[Mapping[str, Any]], Record]) -> list[Record]:
    records: list[Record] = []
    for where, row in read_jsonl(file, EXAMPLES[kind]):
        try:
            records.append(parse(normalise(row, kind)))
        except DataError as error:
            raise DataError(error.what, where=where, cure=error.cure) from error
    return records


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts of JSONL files; records that carry more (responses) are read as their prompts alone.

    Args:
        path: a file, a glob, or several of them with commas; .jsonl or .jsonl.gz, in our shape or one that
            `sources.normalise` knows.

    Raises:
        DataError: with file, line and field, and a right line to compare with.
    """
    return _read(path, "prompt", lambda row: _prompt(row, "prompt"))


def read_demonstrations(path: str | Path) -> list[Demonstration]:
    """Demonstrations of JSONL files; arguments and errors as for `read_prompts`."""
    return _read(path, "demonstration", _demonstration)


def read_rankings(path: str | Path) -> list[Ranking]:
    """Rankings and preference pairs of JSONL files; arguments and errors as for `read_prompts`."""
    return _read(path, "ranking", _ranking)


def read_texts(path: str | Path, target_characters: int = 4000) -> list[Text]:
    """Documents for pretraining from .jsonl(.gz) (a line each) and .txt(.gz) files.

    Args:
        path: as for `read_prompts`.
        target_characters: paragraphs of a .txt file (between blank lines; lines, if it has no blank ones) are
            put together until they have this many characters; 0 keeps the file as one document.

    Raises:
        DataError: as for `read_prompts`.
    """
    texts: list[Text] = []
    for file in expand(path, (*JSONL_ENDINGS, *TEXT_ENDINGS)):
        if file.name.endswith(JSONL_ENDINGS):
            texts += _read_file(file, "text", _text)
        else:
            texts += [Text(document) for document in _documents(read_text(file), target_characters)]
    return texts


def _documents(text: str, target_characters: int) -> list[str]:
    """A text cut between paragraphs into documents of at least the target length, but for the last."""
    if target_characters <= 0:
        return [text.strip()]
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    by_lines = all(lines)
    paragraphs = lines if by_lines else [part.strip("\n") for part in "\n".join(lines).split("\n\n")]
    joint = "\n" if by_lines else "\n\n"
    documents: list[str] = []
    pending: list[str] = []
    length = 0
    for paragraph in paragraphs:
        if paragraph.strip():
            pending.append(paragraph)
            length += len(paragraph) + len(joint)
        if pending and length >= target_characters:
            documents.append(joint.join(pending))
            pending, length = [], 0
    return [*documents, joint.join(pending)] if pending else documents


# -- record -> line


def to_row(record: Prompt | Demonstration | Ranking | Text) -> dict[str, Any]:
    """The JSON object of a record, for `write_jsonl`; reading it gives the record back. Empty fields are left
    out."""
    if isinstance(record, Text):
        return {"text": record.text, **_given(record, "id", "source")}
    prompt = record if isinstance(record, Prompt) else record.prompt
    plain = len(prompt.messages) == 1 and prompt.messages[0].role == "user"
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    row: dict[str, Any] = {"prompt": prompt.text if plain else messages}
    if isinstance(record, Demonstration):
        row["response"] = record.response
    if isinstance(record, Ranking):
        row["responses"] = [
            {"text": reply.text, "rank": reply.rank}
            | _given(reply, "rating", "model")
            | ({"flags": list(reply.flags)} if reply.flags else {})
            for reply in record.responses
        ]
        row |= _given(record, "labeler")
    if prompt.answers:
        row["answer"] = prompt.answers[0] if len(prompt.answers) == 1 else list(prompt.answers)
    if prompt.checks:
        row["checks"] = check_rows(prompt.checks)
    apart = ("messages", "answers", "checks")
    return row | _given(prompt, *(field.name for field in fields(Prompt) if field.name not in apart))


def _given(record: Any, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(record, name)) is not None}
