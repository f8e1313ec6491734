"""What labelers fill in: demonstrations, prompts, rankings, comparisons, and their JSON form. No database.

The form of a ranking is that of figure 12 of the paper: for each reply a rating of 1 to 7 and the flags of
its table 3, then the order, ties welcome.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal, get_args

from instructgpt.data.jsonl import json_type
from instructgpt.labelling.store.refusals import Invalid, Problem
from instructgpt.text.chat import Message

Kind = Literal["demonstration", "prompt", "rank", "compare"]
PromptStyle = Literal["plain", "few-shot", "user-based"]
KINDS: tuple[Kind, ...] = get_args(Kind)
STYLES: tuple[PromptStyle, ...] = get_args(PromptStyle)

REPLY_FLAGS = (
    "fails_instruction",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_group",
    "harmful_advice",
    "expresses_opinion",
    "moral_judgment",
)
"""The eleven binary marks of a reply (paper, table 3)."""

PROMPT_FLAGS = (
    "ambiguous",
    "sensitive",
    "identity_dependent",
    "closed_domain",
    "continuation_style",
    "requests_opinion",
    "requests_advice",
    "requests_moral_judgment",
    "explicit_safety",
    "other_constraints",
    "intent_unclear",
)
"""The binary marks of a prompt (paper, table 7)."""

SKIP_REASONS = ("unclear", "outside-expertise", "disturbing", "personal-data", "broken", "other")
MAX_TEXT = 100_000
MAX_NOTE = 5_000
MAX_TURNS = 40
EXAMPLES = (2, 16)
"""Fewest and most query/response pairs of a few-shot prompt."""


@dataclass(frozen=True)
class DemonstrationAnswer:
    """A reply as the labeler would have it; with more turns, both sides of the rest of a conversation.

    Attributes:
        turns: assistant and user in turn, the first and the last are the assistant's.
    """

    turns: tuple[Message, ...]
    note: str = ""


@dataclass(frozen=True)
class Example:
    """One query and response below a few-shot instruction."""

    query: str
    response: str


@dataclass(frozen=True)
class PromptAnswer:
    """A prompt that a labeler wrote (paper, A.1): plain, few-shot (an instruction and examples), or
    user-based."""

    text: str
    examples: tuple[Example, ...] = ()
    category: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Judgement:
    """What is said of one reply.

    Attributes:
        reply: key of the reply: `ShownReply.key` from a labeler, its stored position as a string in the
            store.
        rank: 1 is best; equal ranks are ties.
        rating: overall quality, 1 to 7.
        flags: some of `REPLY_FLAGS`.
    """

    reply: str
    rank: int
    rating: int | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankAnswer:
    """K replies judged and ordered; `all_bad` says that none of them is fit for use."""

    judgements: tuple[Judgement, ...]
    all_bad: bool = False
    prompt_flags: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class CompareAnswer:
    """Two replies; equal ranks say that neither is better."""

    judgements: tuple[Judgement, ...]
    note: str = ""


Answer = DemonstrationAnswer | PromptAnswer | RankAnswer | CompareAnswer


def answer_from_json(kind: Kind, value: Any) -> Answer:
    """A labeler's answer from the JSON of a form.

    Ranks with gaps are closed up: 1, 3, 3 becomes 1, 2, 2. Line breaks become plain
    ones, and those at the end of a text are cut off.

    Raises:
        Invalid: every fault, each with its field.
    """
    problems: list[Problem] = []
    if not isinstance(value, dict):
        raise Invalid([Problem("", f"the answer is {json_type(value)}, not an object")])
    note = _text(value.get("note") or "", "note", problems, limit=MAX_NOTE, empty=True)
    answer: Answer
    if kind == "demonstration":
        answer = DemonstrationAnswer(_turns(value.get("turns"), problems), note)
    elif kind == "prompt":
        category = value.get("category")
        category = _text(category, "category", problems, limit=64) if category else None
        text = _text(value.get("text"), "text", problems)
        answer = PromptAnswer(text, _examples(value.get("examples") or [], problems), category, note)
    elif kind == "rank":
        judgements = _judgements(value.get("judgements"), problems, rated=True)
        marks = _flags(value.get("prompt_flags") or [], "prompt_flags", PROMPT_FLAGS, problems)
        answer = RankAnswer(judgements, _truth(value.get("all_bad", False), "all_bad", problems), marks, note)
    else:
        judgements = _judgements(value.get("judgements"), problems, rated=False)
        if not problems and len(judgements) != 2:
            problems.append(Problem("judgements", f"there are {len(judgements)}, not two"))
        answer = CompareAnswer(judgements, note)
    if problems:
        raise Invalid(problems)
    return answer


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """The JSON form of an answer; `answer_from_json` gives it back. Empty fields are left out."""
    row: dict[str, Any]
    if isinstance(answer, DemonstrationAnswer):
        row = {"turns": [{"role": turn.role, "content": turn.content} for turn in answer.turns]}
    elif isinstance(answer, PromptAnswer):
        row = {"text": answer.text}
        if answer.examples:
            row["examples"] = [{"query": one.query, "response": one.response} for one in answer.examples]
        if answer.category is not None:
            row["category"] = answer.category
    else:
        row = {"judgements": [_judgement_row(one) for one in answer.judgements]}
        if isinstance(answer, RankAnswer):
            row |= {"all_bad": True} if answer.all_bad else {}
            row |= {"prompt_flags": list(answer.prompt_flags)} if answer.prompt_flags else {}
    return row | ({"note": answer.note} if answer.note else {})


def _judgement_row(one: Judgement) -> dict[str, Any]:
    row: dict[str, Any] = {"reply": one.reply, "rank": one.rank}
    row |= {"rating": one.rating} if one.rating is not None else {}
    return row | ({"flags": list(one.flags)} if one.flags else {})


def digest(answer: Answer) -> str:
    """Short hash of what an answer says: equal answers have equal digests on every machine, in whatever order
    the replies are judged."""
    row = answer_to_json(answer)
    if "judgements" in row:
        row["judgements"].sort(key=lambda one: one["reply"])
    text = json.dumps(row, sort_keys=True, ensure_ascii=True)
    return blake2b(text.encode(), digest_size=12).hexdigest()


def unstorable(text: str) -> str:
    """Why a text can't be kept by every database, or "" if it can: NUL, or half of a surrogate pair."""
    if "\x00" in text:
        return "holds a NUL character"
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds half of a surrogate pair"
    return ""


def check_text(value: Any, field: str, *, limit: int = MAX_TEXT, empty: bool = False) -> str:
    """`value` if it is a text that can be kept.

    Raises:
        Invalid: it is not a string, empty, too long or unstorable.
    """
    problems: list[Problem] = []
    text = _text(value, field, problems, limit=limit, empty=empty)
    if problems:
        raise Invalid(problems)
    return text


def _text(
    value: Any, field: str, problems: list[Problem], *, limit: int = MAX_TEXT, empty: bool = False
) -> str:
    wrong = ""
    if value is None:
        wrong = "is missing"
    elif not isinstance(value, str):
        wrong = f"is {json_type(value)}, not a text"
    elif len(value) > limit:
        wrong = f"has {len(value)} characters, more than {limit}"
    elif not empty and not value.strip():
        wrong = "is empty"
    else:
        wrong = unstorable(value)
    if wrong:
        problems.append(Problem(field, wrong))
        return ""
    # A form sends CRLF; a model would learn it.
    return str(value).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def _truth(value: Any, field: str, problems: list[Problem]) -> bool:
    if not isinstance(value, bool):
        problems.append(Problem(field, f"is {json_type(value)}, not true or false"))
        return False
    return value


def _flags(value: Any, field: str, known: Sequence[str], problems: list[Problem]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(flag, str) for flag in value):
        problems.append(Problem(field, "is not a list of flags"))
        return ()
    strange = sorted({flag for flag in value if flag not in known})
    if strange:
        problems.append(Problem(field, f"there is no flag {strange[0][:64]!r}"))
    return tuple(flag for flag in known if flag in value)


def _turns(value: Any, problems: list[Problem]) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        problems.append(Problem("turns", "there is no reply"))
        return ()
    if len(value) > MAX_TURNS or len(value) % 2 == 0:
        problems.append(
            Problem("turns", f"{len(value)} turns: an odd number up to {MAX_TURNS} must end with a reply")
        )
        return ()
    turns = []
    for place, turn in enumerate(value):
        role = ("assistant", "user")[place % 2]
        if not isinstance(turn, dict) or turn.get("role", role) != role:
            problems.append(Problem(f"turns[{place}].role", f"is not {role}"))
            continue
        turns.append(Message(role, _text(turn.get("content"), f"turns[{place}].content", problems)))
    return tuple(turns)


def _examples(value: Any, problems: list[Problem]) -> tuple[Example, ...]:
    if not isinstance(value, list) or len(value) > EXAMPLES[1]:
        problems.append(Problem("examples", f"is not a list of at most {EXAMPLES[1]}"))
        return ()
    found = []
    for place, one in enumerate(value):
        if not isinstance(one, dict):
            problems.append(Problem(f"examples[{place}]", "is not a query and a response"))
            continue
        parts = [
            _text(one.get(name), f"examples[{place}].{name}", problems) for name in ("query", "response")
        ]
        found.append(Example(*parts))
    return tuple(found)


def _judgements(value: Any, problems: list[Problem], *, rated: bool) -> tuple[Judgement, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= 9:
        problems.append(Problem("judgements", "is not a list of two to nine"))
        return ()
    found = []
    for place, one in enumerate(value):
        field = f"judgements[{place}]"
        if not isinstance(one, dict):
            problems.append(Problem(field, "is not an object"))
            continue
        key = _text(one.get("reply"), f"{field}.reply", problems, limit=64)
        rank = _number(one.get("rank"), f"{field}.rank", 9, problems)
        rating = None
        if rated or one.get("rating") is not None:
            rating = _number(one.get("rating"), f"{field}.rating", 7, problems)
        flags = _flags(one.get("flags") or [], f"{field}.flags", REPLY_FLAGS, problems)
        found.append(Judgement(key, rank, rating, flags))
    if len({one.reply for one in found}) < len(found):
        problems.append(Problem("judgements", "one reply is judged twice"))
    dense = {rank: place for place, rank in enumerate(sorted({one.rank for one in found}), start=1)}
    return tuple(Judgement(one.reply, dense[one.rank], one.rating, one.flags) for one in found)


def _number(value: Any, field: str, most: int, problems: list[Problem]) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        problems.append(
            Problem(field, "is missing" if value is None else f"is not a whole number from 1 to {most}")
        )
        return 1
    return value


def fits_style(answer: PromptAnswer, style: PromptStyle) -> None:
    """
    Raises:
        Invalid: a few-shot prompt has too few examples, or another one has some.
    """
    if style == "few-shot" and len(answer.examples) < EXAMPLES[0]:
        raise Invalid([Problem("examples", f"a few-shot prompt needs at least {EXAMPLES[0]} examples")])
    if style != "few-shot" and answer.examples:
        raise Invalid([Problem("examples", "only a few-shot prompt has examples")])


def with_keys(answer: Answer, keys: Mapping[str, str]) -> Answer:
    """The answer with other keys for its replies, judged in the order of `keys`.

    Args:
        answer: whatever is no judgement of replies is given back as it is.
        keys: the old key of each reply and its new one.

    Raises:
        Invalid: it doesn't judge exactly these replies.
    """
    if isinstance(answer, DemonstrationAnswer | PromptAnswer):
        return answer
    given = {one.reply: one for one in answer.judgements}
    if set(given) != set(keys):
        raise Invalid([Problem("judgements", f"not exactly the {len(keys)} replies of this task are judged")])
    judged = tuple(replace(given[old], reply=new) for old, new in keys.items())
    return replace(answer, judgements=judged)
