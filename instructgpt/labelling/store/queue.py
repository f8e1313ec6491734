"""Which task a labeler gets next, and for how long it is theirs.

A labeler has one running lease in a project. Tasks come in the order in which they were added; tasks that
came back (time up, skipped, label rejected) come first. Nobody gets a task twice, and a task has as many
labelers as its overlap says.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Literal

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler
from instructgpt.labelling.store.database import Store, bounded, get
from instructgpt.labelling.store.held import Held, locked_held, read_held, sweep_is_due
from instructgpt.labelling.store.leases import (
    locked_task,
    replies_needed,
    return_expired,
    take_slot,
)
from instructgpt.labelling.store.members import locked_member
from instructgpt.labelling.store.projects import DAY
from instructgpt.labelling.store.refusals import Conflict, Forbidden, Invalid, NotFound, Problem, QuotaReached
from instructgpt.labelling.store.screening import decide
from instructgpt.labelling.store.shown import Lease, ShownReply, screening_left, shown, shuffled
from instructgpt.labelling.store.tables import (
    AssignmentRow,
    MemberRow,
    PersonRow,
    ProjectRow,
    ReplyRow,
    TaskRow,
)

__all__ = [
    "Lease",
    "ShownReply",
    "lease",
    "next_task",
    "renew",
    "return_expired",
    "save_draft",
]

MAX_LENGTHS = 8
"""Signs of life keep a task for at most this many lease lengths after it was given out."""
MAX_DRAFT = 512 * 1024


def next_task(store: Store, person_id: int, project_id: int) -> Lease | None:
    """The task in this labeler's hands, or a new one; None if nothing is left for them now.

    Raises:
        NotFound: the project is not there, or not open to them.
        Forbidden: the account is not active; the screening test was failed or waits for a reviewer.
        Conflict: the project is not open; its examples come first.
        QuotaReached: they have done as much as is asked.
    """
    if sweep_is_due(store, store.clock()):
        return_expired(store)
    wait = False
    while (found := _try(store, person_id, project_id, wait)) is _Outcome.AGAIN:
        wait = True
    return found


class _Outcome(Enum):
    """AGAIN: something has changed, and another transaction has to look at it."""

    AGAIN = "again"


def _try(store: Store, person_id: int, project_id: int, wait: bool) -> Lease | Literal[_Outcome.AGAIN] | None:
    now = store.clock()
    with store.write() as session:
        person, project = _both(session, person_id, project_id)
        member = locked_member(session, project, person)
        held = _running(session, project, person)
        if held is None:
            _may_begin(project, member, now)
            if project.screening_tasks and member.screening == "pending":
                held = _lease_screening(session, project, member, now)
                if held is None and decide(session, project, member, now):
                    # The last tasks of a test were withdrawn: what the rest comes to is kept, then told.
                    return _Outcome.AGAIN
            else:
                task = _waited_for(session, project, member) if wait else _free(session, project, member)
                if task is _Outcome.AGAIN:
                    return task
                if task is not None:
                    held = _lease_work(session, project, member, task, now)
        return None if held is None else shown(session, held, member)


def _both(session: Session, person_id: int, project_id: int) -> tuple[PersonRow, ProjectRow]:
    query = select(PersonRow, ProjectRow).join(ProjectRow, ProjectRow.id == bounded(project_id))
    row = session.execute(query.where(PersonRow.id == bounded(person_id))).first()
    # As long as the row is there, the session finds both without asking again.
    person = labeler(session, row[0].id if row else person_id)
    return person, get(session, ProjectRow, project_id, "project")


def _running(session: Session, project: ProjectRow, person: PersonRow) -> AssignmentRow | None:
    query = select(AssignmentRow).where(
        AssignmentRow.person_id == person.id,
        AssignmentRow.project_id == project.id,
        AssignmentRow.state == "leased",
    )
    return session.scalars(query).first()


def _may_begin(project: ProjectRow, member: MemberRow, now: float) -> None:
    if project.status != "open":
        raise Conflict("project-closed", f"this project is {project.status}")
    if project.examples and member.onboarded_at is None:
        raise Conflict("onboarding-first", "the examples come first", cure="read them and say so")
    if project.screening_tasks and member.screening == "grading":
        raise Forbidden("screening-grading", "your test waits for a reviewer")
    if project.screening_tasks and member.screening == "failed":
        raise Forbidden("screening-failed", "the test was not passed")
    if project.quota is not None and member.submitted >= project.quota:
        raise QuotaReached("quota-total", f"you have done all {project.quota} tasks that are asked of you")
    today = member.today if member.day == int(now // DAY) else 0
    if project.quota_per_day is not None and today >= project.quota_per_day:
        raise QuotaReached("quota-day", f"you have done today's {project.quota_per_day} tasks")


def _lease_screening(
    session: Session, project: ProjectRow, member: MemberRow, now: float
) -> AssignmentRow | None:
    task = session.scalars(screening_left(project, member).order_by(TaskRow.position).limit(1)).first()
    return None if task is None else _give(session, project, member, task, now, None)


def _searches(project: ProjectRow, member: MemberRow) -> Iterator[Select[TaskRow]]:
    """Where the next task is looked for: what came back, what is new to all, what was passed by."""
    seen = select(AssignmentRow.id).where(
        AssignmentRow.task_id == TaskRow.id,
        AssignmentRow.person_id == member.person_id,
        AssignmentRow.round == 0,
    )
    waiting = select(TaskRow).where(
        TaskRow.project_id == project.id,
        TaskRow.purpose == "work",
        TaskRow.state == "open",
        ~seen.exists(),
    )
    for part in (
        waiting.where(TaskRow.lane == 0),
        waiting.where(TaskRow.lane == 1, TaskRow.position > member.cursor),
        waiting.where(TaskRow.lane == 1, TaskRow.position <= member.cursor),
    ):
        yield part.order_by(TaskRow.position).limit(1)


def _free(
    session: Session, project: ProjectRow, member: MemberRow
) -> TaskRow | Literal[_Outcome.AGAIN] | None:
    """A task, locked, that nobody is taking at this moment. AGAIN if there is none: it remains to be seen
    what becomes of those that are being taken."""
    for search in _searches(project, member):
        query = search.with_for_update(skip_locked=True).execution_options(populate_existing=True)
        task = session.scalars(query).first()
        if task is not None:
            return task
    return None if session.get_bind().dialect.name == "sqlite" else _Outcome.AGAIN


def _waited_for(
    session: Session, project: ProjectRow, member: MemberRow
) -> TaskRow | Literal[_Outcome.AGAIN] | None:
    """The first task that looks free, waited for until nobody else holds it; AGAIN if it isn't free then.

    PostgreSQL keeps the lock on a row that no longer fits, so that a query which waits for several, or waits
    behind one that has skipped some, can end in a deadlock. This waits for one, in a transaction of its own.
    """
    for search in _searches(project, member):
        task = session.scalars(search).first()
        if task is not None:
            task = locked_task(session, task.id)
            return task if task.state == "open" else _Outcome.AGAIN
    return None


def _lease_work(
    session: Session, project: ProjectRow, member: MemberRow, task: TaskRow, now: float
) -> AssignmentRow:
    if task.lane == 1:
        member.cursor = max(member.cursor, task.position)
    take_slot(session, task, project)
    return _give(session, project, member, task, now, now + 60 * project.lease_minutes)


def _give(
    session: Session,
    project: ProjectRow,
    member: MemberRow,
    task: TaskRow,
    now: float,
    expires_at: float | None,
) -> AssignmentRow:
    held = AssignmentRow(
        task_id=task.id,
        project_id=project.id,
        person_id=member.person_id,
        purpose=task.purpose,
        round=member.screening_round if task.purpose == "screening" else 0,
        state="leased",
        token=secrets.token_urlsafe(24),
        shown=shuffled(session, _replies(session, task, project), member.person_id),
        leased_at=now,
        expires_at=expires_at,
    )
    session.add(held)
    session.flush()
    audit.record(session, now, member.person_id, "lease", f"task {task.id}", project.id)
    return held


def _replies(session: Session, task: TaskRow, project: ProjectRow) -> Sequence[ReplyRow]:
    """The first K; of a screening task all, since its known answer is about just those."""
    needed = replies_needed(project)
    if not needed:
        return []
    query = select(ReplyRow).where(ReplyRow.task_id == task.id).order_by(ReplyRow.position)
    return session.scalars(query.limit(None if task.purpose == "screening" else needed)).all()


def lease(store: Store, person_id: int, assignment_id: int) -> Lease:
    """One's own lease by its number: running, or timed out, since a late answer may still be taken.

    Raises:
        NotFound: it is somebody else's, submitted, skipped, or not there.
        Forbidden: the account is not active.
    """
    with store.read() as session:
        known = 0 < assignment_id < 2**31
        all_of_it = read_held(session, person_id, AssignmentRow.id == assignment_id if known else None)
        held = all_of_it.assignment
        if held.state in ("submitted", "skipped") or (held.purpose, held.state) == ("screening", "released"):
            raise NotFound("there is no such task")
        return shown(session, held, all_of_it.member)


def plausible(token: str) -> bool:
    """Whether a text could be a token of a form; others are not shown to the database."""
    return 16 <= len(token) <= 64 and token.isascii() and token.isprintable()


def own_assignment(session: Session, person_id: int, token: str) -> Held:
    """The assignment of this token, locked, and its member before it.

    Raises:
        NotFound: there is none, or it is somebody else's.
        Forbidden: the account is not active.
    """
    return locked_held(session, person_id, AssignmentRow.token == token if plausible(token) else None)


def _renew(held: AssignmentRow, project: ProjectRow, now: float) -> float:
    if held.state != "leased":
        raise lease_lost()
    length = 60 * project.lease_minutes
    if held.expires_at is None:
        return now + length
    held.expires_at = max(held.expires_at, min(now + length, held.leased_at + MAX_LENGTHS * length))
    return held.expires_at


def lease_lost() -> Conflict:
    """What a labeler is told whose task was taken back."""
    return Conflict(
        "lease-lost", "the time for this task was up, and it was taken back", cure="take another task"
    )


def renew(store: Store, person_id: int, token: str) -> float:
    """A sign of life: the task stays in this labeler's hands for another lease length. When it will be up.

    Raises:
        NotFound, Forbidden: see `submit.submit`.
        Conflict: it was taken back already.
    """
    with store.write() as session:
        held = own_assignment(session, person_id, token)
        return _renew(held.assignment, held.project, store.clock())


def save_draft(store: Store, person_id: int, token: str, draft: Any) -> None:
    """Keep what is in the form so far; another tab or the next day finds it in `Lease.draft`. Also a sign of
    life.

    Raises:
        Invalid: it is not JSON, or has more than 512 KiB.
        NotFound, Forbidden, Conflict: see `renew`.
    """
    try:
        size = len(json.dumps(draft, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid([Problem("draft", "is not JSON")]) from error
    if size > MAX_DRAFT:
        raise Invalid([Problem("draft", f"has more than {MAX_DRAFT // 1024} KiB")])
    with store.write() as session:
        held = own_assignment(session, person_id, token)
        _renew(held.assignment, held.project, store.clock())
        held.assignment.draft = {"value": draft}
