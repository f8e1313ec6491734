"""What labelers are asked: prompts with models' replies, from Python or from JSONL files.

    {"prompt": "Name a river."}
    {"prompt": [{"role": "user", "content": "Hi"}], "id": "p7", "responses": ["Hello", {"text": "Yo"}]}
    {"prompt": "Name a river.", "responses": [{"text": "Nile", "rank": 1}, {"text": "Paris", "rank": 2}]}
    {"brief": "Something that a nurse would ask", "style": "user-based"}

The third carries the known answer of a screening task or an example; the fourth asks for a prompt. All fields
of our prompts (`id, user_id, category, group, split, source, consent, answer, checks`) are kept and exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from instructgpt.data.records import Prompt, to_row
from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, bounded, get
from instructgpt.labelling.store.form import PromptStyle
from instructgpt.labelling.store.leases import locked_task, replies_needed, settle
from instructgpt.labelling.store.new_tasks import PURPOSES, NewReply, NewTask, Purpose, check_task
from instructgpt.labelling.store.prompts import prompt_from_row, prompt_hash
from instructgpt.labelling.store.refusals import Invalid, Problem
from instructgpt.labelling.store.tables import ProjectRow, ReplyRow, TaskRow

__all__ = [
    "Added",
    "NewReply",
    "NewTask",
    "Purpose",
    "StoredReply",
    "StoredTask",
    "add_prompt_tasks",
    "add_replies",
    "add_tasks",
    "stored_task",
    "task",
    "tasks",
    "withdraw_task",
]

STATES = ("waiting", "open", "full", "withdrawn")
COUNTERS = {"work": "tasks", "screening": "screening_tasks", "onboarding": "examples"}
"""The column of a project that counts its tasks of each purpose."""
MAX_TASKS = 1_000_000
CHUNK = 500
"""Tasks stored in one transaction."""


@dataclass(frozen=True)
class Added:
    """What an import did; `waiting` tasks have fewer replies than the project shows."""

    added: int
    already_there: int
    waiting: int


@dataclass(frozen=True)
class StoredReply:
    """A reply as it is kept."""

    id: int
    position: int
    text: str
    model: str | None
    known_rank: int | None
    known_rating: float | None
    known_flags: tuple[str, ...]


@dataclass(frozen=True)
class StoredTask:
    """A task as it is kept, for admins and reviewers.

    Attributes:
        wanted, taken: slots in all, and in use by running leases or labels that count.
        labels, skips: what was handed in.
    """

    id: int
    project_id: int
    key: str
    purpose: Purpose
    prompt: Prompt | None
    style: PromptStyle
    brief: str
    replies: tuple[StoredReply, ...]
    state: Literal["waiting", "open", "full", "withdrawn"]
    wanted: int
    taken: int
    labels: int
    skips: int
    response: str | None
    explanation: str


def stored_task(session: Session, row: TaskRow, *, blind: bool = False) -> StoredTask:
    """The plain form of a row; `blind` leaves the models' names out."""
    query = select(ReplyRow).where(ReplyRow.task_id == row.id).order_by(ReplyRow.position)
    replies = tuple(
        StoredReply(
            one.id,
            one.position,
            one.text,
            None if blind else one.model,
            one.known_rank,
            one.known_rating,
            tuple(one.known_flags),
        )
        for one in session.scalars(query)
    )
    return StoredTask(
        row.id,
        row.project_id,
        row.key,
        row.purpose,  # type: ignore[arg-type]  # only PURPOSES are written
        prompt_from_row(row.prompt) if row.prompt else None,
        row.style,  # type: ignore[arg-type]
        row.brief,
        replies,
        row.state,  # type: ignore[arg-type]
        row.wanted,
        row.taken,
        row.labels,
        row.skips,
        row.response,
        row.explanation,
    )


# -- adding


def add_tasks(
    store: Store, project_id: int, tasks: Iterable[NewTask], *, by: int | None, purpose: Purpose = "work"
) -> Added:
    """Add tasks; those whose prompt's id is there already are passed over, so that an import can be sent
    twice.

    All are looked at before one is stored. They are stored some at a time, so that labelers needn't wait for
    a long import; if it is stopped on the way, the same call adds the rest.

    Raises:
        Invalid: a task doesn't fit the project; the field names its number from 1, as "task 3".
        NotFound, Forbidden: there is no such project; `by` is not an admin.
    """
    if purpose not in PURPOSES:
        raise Invalid([Problem("purpose", f"is none of {', '.join(PURPOSES)}")])
    given = list(islice(tasks, MAX_TASKS + 1))
    if len(given) > MAX_TASKS:
        raise Invalid([Problem("", f"there are more than {MAX_TASKS} tasks")])
    with store.read() as session:
        require(session, by, "admin")
        kind = get(session, ProjectRow, project_id, "project").kind
    for number, task in enumerate(given, start=1):
        check_task(kind, task, purpose, f"task {number}")
    parts = []
    for start in range(0, len(given), CHUNK):
        with store.write() as session:
            require(session, by, "admin")
            parts.append(
                _insert(session, store.clock(), project_id, given[start : start + CHUNK], purpose, by)
            )
    if len(given) > CHUNK and store.engine.dialect.name == "postgresql":
        with store.write() as session:
            session.execute(text("ANALYZE tasks"))  # else the planner may read all of them for each lease
    return Added(
        *(sum(getattr(part, name) for part in parts) for name in ("added", "already_there", "waiting"))
    )


def _insert(
    session: Session, now: float, project_id: int, given: Sequence[NewTask], purpose: Purpose, by: int | None
) -> Added:
    query = select(ProjectRow).where(ProjectRow.id == project_id).with_for_update(key_share=True)
    project = session.scalars(query).one()
    same = (TaskRow.project_id == project_id, TaskRow.purpose == purpose)
    keys = [task.prompt.id for task in given if task.prompt]
    there = set(session.scalars(select(TaskRow.key).where(*same, TaskRow.key.in_(keys))))
    position = session.scalar(select(func.max(TaskRow.position)).where(*same)) or 0
    rows: list[dict[str, Any]] = []
    replies: list[tuple[NewReply, ...]] = []
    for task in given:
        # A request to write a prompt has no content to be known by; each is one more.
        key = task.prompt.id if task.prompt else f"write-{position + len(rows) + 1}"
        if key in there:
            continue
        there.add(key)
        rows.append(_row(project, task, purpose, key, position + len(rows) + 1))
        replies.append(task.replies)
    if rows:
        inserted = session.scalars(insert(TaskRow).returning(TaskRow.id, sort_by_parameter_order=True), rows)
        answers = [
            _reply_row(task_id, place, one)
            for task_id, several in zip(inserted, replies, strict=True)
            for place, one in enumerate(several)
        ]
        if answers:
            session.execute(insert(ReplyRow), answers)
    counter = COUNTERS[purpose]
    setattr(project, counter, getattr(project, counter) + len(rows))
    waiting = sum(row["state"] == "waiting" for row in rows)
    subject = f"project {project_id}"
    audit.record(session, now, by, "add-tasks", subject, project_id, purpose=purpose, added=len(rows))
    return Added(len(rows), len(given) - len(rows), waiting)


def _row(project: ProjectRow, task: NewTask, purpose: Purpose, key: str, position: int) -> dict[str, Any]:
    wanted = project.overlap if purpose == "work" else 0
    # A screening task shows what it has; its known answer is for just these replies.
    needed = replies_needed(project) if purpose == "work" else 0
    return {
        "project_id": project.id,
        "purpose": purpose,
        "position": position,
        "lane": 1,
        "key": key,
        "state": "waiting" if len(task.replies) < needed else "open",
        "withdrawn": False,
        "wanted": wanted,
        "taken": 0,
        "labels": 0,
        "skips": 0,
        "reply_count": len(task.replies),
        "prompt": to_row(task.prompt) if task.prompt else None,
        "prompt_hash": prompt_hash(task.prompt) if task.prompt else "",
        "style": task.style,
        "brief": task.brief,
        "response": task.response,
        "explanation": task.explanation,
    }


def _reply_row(task_id: int, position: int, one: NewReply) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "position": position,
        "text": one.text,
        "model": one.model,
        "known_rank": one.rank,
        "known_rating": one.rating,
        "known_flags": list(one.flags),
    }


def add_prompt_tasks(
    store: Store, project_id: int, count: int, *, style: PromptStyle, brief: str = "", by: int | None
) -> Added:
    """`count` requests to write a prompt of one style.

    Raises:
        Invalid, NotFound, Forbidden: see `add_tasks`.
    """
    if not 1 <= count <= MAX_TASKS:
        raise Invalid([Problem("count", f"is not from 1 to {MAX_TASKS}")])
    return add_tasks(store, project_id, [NewTask(None, style=style, brief=brief)] * count, by=by)


def add_replies(
    session: Session, task_id: int, project: ProjectRow, replies: Sequence[NewReply], *, again: bool = False
) -> int:
    """Put replies behind those that a task has, in this transaction; how many were added.

    A reply that is there with the same text and model is passed over, unless `again`: then it was sampled
    once more, and is put there as long as the task has fewer replies than it shows.
    """
    task = locked_task(session, task_id)
    if again:
        new = list(replies)[: max(0, replies_needed(project) - task.reply_count)]
    else:
        there = select(ReplyRow.text, ReplyRow.model).where(ReplyRow.task_id == task.id)
        known = {(text, model) for text, model in session.execute(there)}
        new = [one for one in dict.fromkeys(replies) if (one.text, one.model) not in known]
    for place, one in enumerate(new, start=task.reply_count):
        session.add(ReplyRow(**_reply_row(task.id, place, one)))
    task.reply_count += len(new)
    settle(task, replies_needed(project))
    return len(new)


# -- looking


def withdraw_task(store: Store, task_id: int, withdrawn: bool, *, by: int | None) -> None:
    """Give a task to nobody any more, or again. Its labels stay.

    Raises:
        NotFound, Forbidden: there is no such task; `by` is not an admin.
    """
    with store.write() as session:
        require(session, by, "admin")
        get(session, TaskRow, task_id, "task")
        row = locked_task(session, task_id)
        row.withdrawn, row.lane = withdrawn, 0
        project = session.get_one(ProjectRow, row.project_id)
        if row.purpose == "work":
            settle(row, replies_needed(project))
        elif row.state != (state := "withdrawn" if withdrawn else "open"):
            row.state = state
            counter, step = COUNTERS[row.purpose], -1 if withdrawn else 1
            setattr(project, counter, getattr(project, counter) + step)
        action = "withdraw" if withdrawn else "return"
        audit.record(session, store.clock(), by, action, f"task {row.id}", project.id)


def tasks(
    store: Store,
    project_id: int,
    *,
    by: int | None,
    after_id: int = 0,
    limit: int = 50,
    state: str | None = None,
    purpose: str | None = None,
) -> list[StoredTask]:
    """Tasks in the order in which they were added, `limit` of them after the one with id `after_id`.

    Raises:
        Invalid: there is no such state or purpose.
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    if state not in (None, *STATES) or purpose not in (None, *PURPOSES):
        raise Invalid(
            [Problem("", f"tasks have a state of {', '.join(STATES)} and a purpose of {', '.join(PURPOSES)}")]
        )
    query = select(TaskRow).where(TaskRow.project_id == project_id, TaskRow.id > bounded(after_id))
    if state is not None:
        query = query.where(TaskRow.state == state)
    if purpose is not None:
        query = query.where(TaskRow.purpose == purpose)
    with store.read() as session:
        require(session, by, "reviewer")
        get(session, ProjectRow, project_id, "project")
        return [
            stored_task(session, row)
            for row in session.scalars(query.order_by(TaskRow.id).limit(bounded(limit))).all()
        ]


def task(store: Store, task_id: int, *, by: int | None) -> StoredTask:
    """
    Raises:
        NotFound, Forbidden: there is no such task; `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        return stored_task(session, get(session, TaskRow, task_id, "task"))
