"""What a labeler sees of a task: its replies in their own order, and nothing that tells who wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from instructgpt.labelling.store.database import secret
from instructgpt.labelling.store.form import Kind, PromptStyle
from instructgpt.labelling.store.tables import AssignmentRow, MemberRow, ProjectRow, ReplyRow, TaskRow
from instructgpt.text.chat import Message


@dataclass(frozen=True)
class ShownReply:
    """A reply as a labeler sees it: neither its model nor its place in the database can be told from the
    key."""

    key: str
    text: str


@dataclass(frozen=True)
class Lease:
    """A task in a labeler's hands.

    Attributes:
        token: what `submit`, `skip`, `renew` and `save_draft` are called with; one for this task and labeler.
        messages: the prompt; empty where a prompt is to be written, then `brief` says about what.
        replies: in this labeler's own order, the same each time.
        expires_at: None for a screening task, which waits.
        draft: what `save_draft` kept last.
        screening_left: screening tasks still to do, with this one; 0 for real work.
    """

    assignment_id: int
    token: str
    project_id: int
    kind: Kind
    purpose: Literal["work", "screening"]
    messages: tuple[Message, ...]
    category: str | None
    style: PromptStyle
    brief: str
    replies: tuple[ShownReply, ...]
    leased_at: float
    expires_at: float | None
    draft: Any | None
    screening_left: int


def _keyed(key: bytes, purpose: str, person_id: int, reply_id: int) -> str:
    return blake2b(f"{purpose}:{person_id}:{reply_id}".encode(), key=key, digest_size=8).hexdigest()


def shuffled(session: Session, replies: Sequence[ReplyRow], person_id: int) -> list[int]:
    """Positions of the replies in the order in which this person sees them."""
    key = secret(session, "replies") if replies else b""
    return [one.position for one in sorted(replies, key=lambda one: _keyed(key, "order", person_id, one.id))]


def shown_replies(session: Session, held: AssignmentRow) -> tuple[tuple[ShownReply, int], ...]:
    """The replies of an assignment in the order in which its labeler sees them, each with its stored
    position."""
    if not held.shown:
        return ()
    key = secret(session, "replies")
    rows = session.scalars(select(ReplyRow).where(ReplyRow.task_id == held.task_id)).all()
    by_position = {one.position: one for one in rows}
    found = [by_position[position] for position in held.shown]
    return tuple(
        (ShownReply(_keyed(key, "key", held.person_id, one.id), one.text), one.position) for one in found
    )


def shown(session: Session, held: AssignmentRow, member: MemberRow) -> Lease:
    """What the labeler sees of an assignment."""
    project, task = session.get_one(ProjectRow, held.project_id), session.get_one(TaskRow, held.task_id)
    left = len(session.scalars(screening_left(project, member)).all()) if held.purpose == "screening" else 0
    return Lease(
        assignment_id=held.id,
        token=held.token,
        project_id=project.id,
        kind=project.kind,  # type: ignore[arg-type]  # only KINDS are written
        purpose=held.purpose,  # type: ignore[arg-type]
        messages=messages_of(task),
        category=(task.prompt or {}).get("category"),
        style=task.style,  # type: ignore[arg-type]
        brief=task.brief,
        replies=tuple(reply for reply, _ in shown_replies(session, held)),
        leased_at=held.leased_at,
        expires_at=held.expires_at,
        draft=held.draft["value"] if held.draft else None,
        screening_left=left,
    )


def messages_of(task: TaskRow) -> tuple[Message, ...]:
    """The prompt of a task; nothing where one is to be written."""
    if task.prompt is None:
        return ()
    prompt = task.prompt["prompt"]
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(turn["role"], turn["content"]) for turn in prompt)


def screening_left(project: ProjectRow, member: MemberRow) -> Select[TaskRow]:
    """The screening tasks that a member has not answered in the present round."""
    answered = select(AssignmentRow.id).where(
        AssignmentRow.task_id == TaskRow.id,
        AssignmentRow.person_id == member.person_id,
        AssignmentRow.round == member.screening_round,
        AssignmentRow.state != "leased",
    )
    return select(TaskRow).where(
        TaskRow.project_id == project.id,
        TaskRow.purpose == "screening",
        TaskRow.state == "open",
        ~answered.exists(),
    )
