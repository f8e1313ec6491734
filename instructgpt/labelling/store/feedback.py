"""What users of the served model said of its replies: which of two is better, a thumb, a corrected text.

The row is that of the serving side's `POST /v1/feedback`. Rows without consent are kept for counting and
never exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select, update

from instructgpt.data.jsonl import json_type
from instructgpt.errors import DataError
from instructgpt.labelling.store import audit
from instructgpt.labelling.store.database import Store, serialise
from instructgpt.labelling.store.form import MAX_NOTE, MAX_TURNS, check_text
from instructgpt.labelling.store.refusals import Invalid, Problem
from instructgpt.labelling.store.tables import FeedbackRow
from instructgpt.text.chat import Message

FeedbackKind = Literal["comparison", "thumb", "edit"]
MAX_REPLIES = 9


@dataclass(frozen=True)
class FeedbackReply:
    """A reply as it was served, with what made it."""

    text: str
    model: str | None = None
    model_hash: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Feedback:
    """One act of one user.

    Attributes:
        key: chosen by the sender, one for each act, so that sending again stores nothing twice.
        messages: the conversation up to the replies.
        ranks: of a comparison's replies, 1 is best and equal ranks are ties.
        thumb: of the one reply.
        edited: what the one reply should have been.
        consent: whether the user allows training on it.
        at: when it was said, seconds since the epoch; None is now.
    """

    key: str
    kind: FeedbackKind
    messages: tuple[Message, ...]
    replies: tuple[FeedbackReply, ...]
    ranks: tuple[int, ...] = ()
    thumb: Literal["up", "down"] | None = None
    edited: str | None = None
    user_id: str | None = None
    consent: bool = False
    at: float | None = None
    flags: tuple[str, ...] = ()
    note: str = ""


def feedback_from_json(value: Any) -> Feedback:
    """Feedback from the JSON that the serving side sends: `id, kind, prompt, replies` of `text, model,
    model_hash, parameters`, then `choice` (place of the better reply, "tie" or "both_bad") or `ranks`,
    `thumb` or `edited`, and `user, consent, time, flags, reason`.

    Raises:
        Invalid: a field is missing or wrong.
    """
    if not isinstance(value, dict):
        raise Invalid([Problem("", f"feedback is {json_type(value)}, not an object")])
    kind = value.get("kind")
    if kind not in ("comparison", "thumb", "edit"):
        raise Invalid([Problem("kind", "is none of comparison, thumb, edit")])
    replies = _replies(value.get("replies"))
    flags = value.get("flags") or []
    if not isinstance(flags, list) or len(flags) > 32:
        raise Invalid([Problem("flags", "is not a list of at most 32")])
    flags = [check_text(flag, "flags", limit=64) for flag in flags]
    ranks: tuple[int, ...] = ()
    if kind == "comparison":
        ranks = _ranks(value, len(replies))
        flags += ["both_bad"] if value.get("choice") == "both_bad" else []
    if value.get("consent", False) not in (True, False):
        raise Invalid([Problem("consent", "is not true or false")])
    user = value.get("user", value.get("user_id"))
    feedback = Feedback(
        key=check_text(value.get("id", value.get("key")), "id", limit=128),
        kind=kind,
        messages=_messages(value.get("prompt")),
        replies=replies,
        ranks=ranks,
        thumb=value.get("thumb") if kind == "thumb" else None,
        edited=check_text(value.get("edited"), "edited") if kind == "edit" else None,
        user_id=check_text(user, "user", limit=256) if user else None,
        consent=bool(value.get("consent", False)),
        at=_time(value.get("time")),
        flags=tuple(flags),
        note=check_text(value.get("reason") or "", "reason", limit=MAX_NOTE, empty=True),
    )
    _check(feedback)
    return feedback


def _messages(value: Any) -> tuple[Message, ...]:
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list) or not 1 <= len(turns) <= 5 * MAX_TURNS:
        raise Invalid([Problem("prompt", "is neither a text nor a list of messages")])
    found = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise Invalid([Problem(f"prompt[{place}]", "is not an object with role and content")])
        content = check_text(turn.get("content"), f"prompt[{place}].content", empty=True)
        try:
            found.append(Message(str(turn.get("role")), content))
        except DataError as error:
            raise Invalid([Problem(f"prompt[{place}].role", error.what)]) from error
    return tuple(found)


def _replies(value: Any) -> tuple[FeedbackReply, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_REPLIES:
        raise Invalid([Problem("replies", f"is not a list of 1 to {MAX_REPLIES}")])
    found = []
    for place, one in enumerate(value):
        name = f"replies[{place}]"
        if not isinstance(one, dict):
            raise Invalid([Problem(name, "is not an object")])
        model, model_hash = (
            check_text(one[part], f"{name}.{part}", limit=256) if one.get(part) is not None else None
            for part in ("model", "model_hash")
        )
        sampling = one.get("parameters") or {}
        if not isinstance(sampling, dict) or len(str(sampling)) > MAX_NOTE:
            raise Invalid(
                [Problem(f"{name}.parameters", f"is not an object of at most {MAX_NOTE} characters")]
            )
        found.append(
            FeedbackReply(
                check_text(one.get("text"), f"{name}.text", empty=True), model, model_hash, sampling
            )
        )
    return tuple(found)


def _ranks(value: Mapping[str, Any], count: int) -> tuple[int, ...]:
    choice, ranks = value.get("choice"), value.get("ranks")
    if choice in ("tie", "both_bad"):
        return (1,) * count
    if isinstance(choice, int) and not isinstance(choice, bool) and 0 <= choice < count:
        return tuple(1 if place == choice else 2 for place in range(count))
    whole = isinstance(ranks, list) and all(
        isinstance(one, int) and not isinstance(one, bool) for one in ranks
    )
    if choice is None and whole:
        return tuple(ranks)  # type: ignore[arg-type]
    raise Invalid([Problem("choice", f"is none of 0 to {count - 1}, tie, both_bad")])


def _time(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11:
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid([Problem("time", "is not a time of ISO 8601")]) from error


def _check(feedback: Feedback) -> None:
    problem = ""
    if feedback.messages[-1:] == () or feedback.messages[-1].role == "assistant":
        problem = "the prompt doesn't end with what the user said"
    elif feedback.kind == "comparison":
        if len(feedback.replies) < 2 or len(feedback.ranks) != len(feedback.replies):
            problem = "a comparison needs two replies or more, and a rank for each"
        elif not all(1 <= rank <= MAX_REPLIES for rank in feedback.ranks):
            problem = f"a rank is not from 1 to {MAX_REPLIES}"
    elif len(feedback.replies) != 1:
        problem = f"a {feedback.kind} is about one reply"
    elif feedback.kind == "thumb" and feedback.thumb not in ("up", "down"):
        problem = "the thumb is neither up nor down"
    elif feedback.kind == "edit" and not (feedback.edited or "").strip():
        problem = "the edited text is empty"
    if problem:
        raise Invalid([Problem("", problem)])


def store_feedback(store: Store, feedback: Feedback) -> int:
    """Keep it, and give its number; what is there under the same key stays, and its number is given.

    Raises:
        Invalid: its parts don't fit together.
    """
    _check(feedback)
    now = store.clock()
    with store.write() as session:
        serialise(session, f"feedback:{feedback.key}")
        known = session.scalars(select(FeedbackRow.id).where(FeedbackRow.key == feedback.key)).first()
        if known is not None:
            return known
        row = FeedbackRow(
            key=feedback.key,
            kind=feedback.kind,
            messages=[{"role": one.role, "content": one.content} for one in feedback.messages],
            replies=[
                {
                    "text": one.text,
                    "model": one.model,
                    "model_hash": one.model_hash,
                    "sampling": dict(one.sampling),
                }
                for one in feedback.replies
            ],
            ranks=list(feedback.ranks),
            thumb=feedback.thumb,
            edited=feedback.edited,
            user_id=feedback.user_id,
            consent=feedback.consent,
            at=now if feedback.at is None else feedback.at,
            received_at=now,
            flags=list(feedback.flags),
            note=feedback.note,
        )
        session.add(row)
        session.flush()
        audit.record(session, now, None, "feedback", f"feedback {row.id}", kind=feedback.kind)
        return row.id


def withdraw_consent(store: Store, user_id: str) -> int:
    """From now on nothing that this user said is exported; how many rows that is.

    Raises:
        Invalid: that can't be the name of a user.
    """
    check_text(user_id, "user", limit=256)
    now = store.clock()
    with store.write() as session:
        mine = update(FeedbackRow).where(FeedbackRow.user_id == user_id, FeedbackRow.withdrawn_at.is_(None))
        count: int = session.execute(mine.values(withdrawn_at=now)).rowcount  # type: ignore[attr-defined]
        audit.record(session, now, None, "withdraw-consent", "feedback", rows=count)
        return count


def feedback_counts(store: Store) -> dict[str, int]:
    """Rows of each kind, and of those that may be exported as "exportable"."""
    allowed = (FeedbackRow.consent, FeedbackRow.withdrawn_at.is_(None))
    with store.read() as session:
        by_kind = select(FeedbackRow.kind, func.count()).group_by(FeedbackRow.kind)
        counts = {kind: count for kind, count in session.execute(by_kind)}
        exportable = session.scalar(select(func.count(FeedbackRow.id)).where(*allowed)) or 0
    return {kind: counts.get(kind, 0) for kind in ("comparison", "thumb", "edit")} | {
        "exportable": exportable
    }
