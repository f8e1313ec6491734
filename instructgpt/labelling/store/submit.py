"""What labelers hand in. A form has one token, so that a double click, a retry after a lost connection and a
second tab make one record and get the same receipt."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler
from instructgpt.labelling.store.database import Store, bounded, get
from instructgpt.labelling.store.form import (
    MAX_NOTE,
    SKIP_REASONS,
    Answer,
    Kind,
    PromptAnswer,
    answer_from_json,
    answer_to_json,
    check_text,
    digest,
    fits_style,
    with_keys,
)
from instructgpt.labelling.store.leases import free_slot, locked_assignment, locked_task, take_slot
from instructgpt.labelling.store.projects import DAY
from instructgpt.labelling.store.queue import lease_lost, own_assignment, plausible
from instructgpt.labelling.store.refusals import Conflict, Invalid, NotFound, Problem
from instructgpt.labelling.store.screening import after_answer, score_of
from instructgpt.labelling.store.shown import ShownReply, messages_of, shown_replies
from instructgpt.labelling.store.tables import AssignmentRow, LabelRow, MemberRow, ProjectRow, TaskRow
from instructgpt.text.chat import Message


@dataclass(frozen=True)
class Receipt:
    """What was kept. Asking again gives the same receipt.

    Attributes:
        label_id: None after a skip.
        digest: `form.digest` of the answer as it was kept, with the labeler's own keys; a second tab with
            another answer can tell from it that its own was not.
    """

    assignment_id: int
    label_id: int | None
    status: Literal["submitted", "skipped"]
    at: float
    digest: str


@dataclass(frozen=True)
class MyLabel:
    """A labeler's own label, its replies with the keys and in the order in which they saw them."""

    assignment_id: int
    label_id: int
    project_id: int
    kind: Kind
    messages: tuple[Message, ...]
    brief: str
    replies: tuple[ShownReply, ...]
    answer: Answer
    submitted_at: float
    revision: int


def submit(
    store: Store, person_id: int, token: str, answer: Answer, *, active_seconds: float | None = None
) -> Receipt:
    """Keep an answer. When this returns, it is on the disk.

    The first answer under a token wins; later ones get its receipt. An answer that comes after the time is
    up is kept while the task still wants one.

    Args:
        store: the database.
        person_id: the labeler.
        token: of the lease.
        answer: with the keys of `Lease.replies`.
        active_seconds: time that the labeler worked, as the page measured it.

    Raises:
        Invalid: a field is missing or wrong, or not exactly the replies of the task are judged.
        NotFound: there is no such task in this labeler's hands.
        Forbidden: the account is not active.
        Conflict: it was skipped; or the time was up and another labeler has it.
    """
    now = store.clock()
    with store.write() as session:
        held, _, member, project, task = own_assignment(session, person_id, token)
        if held.state == "submitted":
            return _receipt(session, held, token)
        if held.state == "skipped":
            raise Conflict("already-skipped", "this task was skipped already", cure="take another task")
        answer = _checked(project, task, answer)
        stored = _by_position(session, held, answer)
        if held.purpose == "screening" and held.state != "leased":
            raise lease_lost()  # of a round of the test that was called off
        if held.purpose == "work":
            task = locked_task(session, task.id)
            if held.state != "leased":  # too late, but not if nobody else has taken the slot
                if task.state != "open":
                    raise lease_lost()
                take_slot(session, task, project)
            task.labels += 1
        label = LabelRow(
            assignment_id=held.id,
            revision=0,
            latest=True,
            project_id=project.id,
            task_id=task.id,
            person_id=person_id,
            purpose=held.purpose,
            token=token,
            answer=answer_to_json(stored),
            digest=digest(answer),
            submitted_at=now,
            seconds=now - held.leased_at,
            active_seconds=_seconds(active_seconds),
            score=score_of(session, task, stored) if held.purpose == "screening" else None,
        )
        session.add(label)
        held.state, held.finished_at, held.draft = "submitted", now, None
        session.flush()
        if held.purpose == "screening":
            after_answer(session, project, member, now)
        else:
            _count(member, now)
        audit.record(session, now, person_id, "submit", f"task {task.id}", project.id, label_id=label.id)
        return Receipt(held.id, label.id, "submitted", now, label.digest)


def _seconds(value: float | None) -> float | None:
    """A page's measurement, if it can be one."""
    return float(value) if value is not None and 0 <= value < 1e7 else None


def _count(member: MemberRow, now: float) -> None:
    day = int(now // DAY)
    member.today = member.today + 1 if member.day == day else 1
    member.day = day
    member.submitted += 1


def _checked(project: ProjectRow, task: TaskRow, answer: Answer) -> Answer:
    """The answer if it is whole, whatever made it; its ranks without gaps."""
    kind: Kind = project.kind  # type: ignore[assignment]  # only KINDS are written
    answer = answer_from_json(kind, answer_to_json(answer))
    if isinstance(answer, PromptAnswer):
        fits_style(answer, task.style)  # type: ignore[arg-type]
    return answer


def _by_position(session: Session, held: AssignmentRow, answer: Answer) -> Answer:
    replies = sorted(shown_replies(session, held), key=lambda pair: pair[1])
    return with_keys(answer, {reply.key: str(position) for reply, position in replies})


def _receipt(session: Session, held: AssignmentRow, token: str) -> Receipt:
    if held.state == "skipped":
        return Receipt(held.id, None, "skipped", held.finished_at or 0.0, "")
    label = session.scalars(select(LabelRow).where(LabelRow.token == token)).one()
    return Receipt(held.id, label.id, "submitted", label.submitted_at, label.digest)


def skip(store: Store, person_id: int, token: str, reason: str, note: str = "") -> Receipt:
    """Give a task up for good, with a reason; others may get it.

    Raises:
        Invalid: there is no such reason; a screening task can't be skipped.
        NotFound, Forbidden: see `submit`.
        Conflict: it was submitted, or taken back.
    """
    if reason not in SKIP_REASONS:
        raise Invalid([Problem("reason", f"is none of {', '.join(SKIP_REASONS)}")])
    note = check_text(note, "note", limit=MAX_NOTE, empty=True)
    now = store.clock()
    with store.write() as session:
        held, _, member, project, task = own_assignment(session, person_id, token)
        if held.state == "skipped":
            return _receipt(session, held, token)
        if held.purpose == "screening":
            raise Invalid([Problem("", "a task of the test can't be skipped")])
        if held.state == "submitted":
            raise Conflict("already-submitted", "this task was submitted already")
        if held.state != "leased":
            raise lease_lost()
        task = locked_task(session, task.id)
        free_slot(session, task, project)
        task.skips += 1
        member.skipped += 1
        held.state, held.finished_at, held.draft = "skipped", now, None
        held.skip_reason, held.skip_note = reason, note
        audit.record(session, now, person_id, "skip", f"task {task.id}", held.project_id, reason=reason)
        return Receipt(held.id, None, "skipped", now, "")


# -- looking back


def edit_form() -> str:
    """A token for one form that changes a label."""
    return secrets.token_urlsafe(24)


def revise(store: Store, person_id: int, assignment_id: int, answer: Answer, *, token: str) -> Receipt:
    """Another answer to a task that one has submitted; the old one is kept and no longer counts.

    Args:
        store: the database.
        person_id: the labeler.
        assignment_id: of their label.
        answer: with the keys of `MyLabel.replies`.
        token: of this form, from `edit_form`; the same token makes one revision.

    Raises:
        Invalid, NotFound, Forbidden: see `submit`.
        Conflict: the project is closed, the label was rejected, or it is part of the screening test.
    """
    if not plausible(token):
        raise Invalid([Problem("token", "is not one of edit_form")])
    now = store.clock()
    with store.write() as session:
        person = labeler(session, person_id)
        held = get(session, AssignmentRow, assignment_id, "label")
        if held.person_id != person.id or held.state != "submitted":
            raise NotFound("there is no such label")
        held = locked_assignment(session, held.id)
        known = session.scalars(select(LabelRow).where(LabelRow.token == token)).first()
        if known is not None:
            if known.assignment_id != held.id:
                raise NotFound("there is no such label")
            return Receipt(held.id, known.id, "submitted", known.submitted_at, known.digest)
        project = session.get_one(ProjectRow, held.project_id)
        last = session.scalars(
            select(LabelRow).where(LabelRow.assignment_id == held.id, LabelRow.latest)
        ).one()
        if project.status == "closed" or last.rejected_at is not None or held.purpose != "work":
            raise Conflict("label-fixed", "this label can't be changed any more")
        task = session.get_one(TaskRow, held.task_id)
        answer = _checked(project, task, answer)
        stored = _by_position(session, held, answer)
        last.latest = False
        label = LabelRow(
            assignment_id=held.id,
            revision=last.revision + 1,
            latest=True,
            project_id=project.id,
            task_id=task.id,
            person_id=person_id,
            purpose="work",
            token=token,
            answer=answer_to_json(stored),
            digest=digest(answer),
            submitted_at=now,
            seconds=last.seconds,
            active_seconds=last.active_seconds,
        )
        session.add(label)
        session.flush()
        audit.record(session, now, person_id, "revise", f"task {task.id}", project.id, label_id=label.id)
        return Receipt(held.id, label.id, "submitted", now, label.digest)


def my_labels(
    store: Store, person_id: int, project_id: int, *, before_id: int | None = None, limit: int = 50
) -> list[MyLabel]:
    """A labeler's own labels in a project, newest first; those of the screening test are not among them.

    Raises:
        NotFound, Forbidden: there is no such person, or the account is not active.
    """
    query = select(LabelRow).where(
        LabelRow.person_id == person_id,
        LabelRow.project_id == bounded(project_id),
        LabelRow.latest,
        LabelRow.purpose == "work",
    )
    if before_id is not None:
        query = query.where(LabelRow.id < bounded(before_id))
    with store.read() as session:
        labeler(session, person_id)
        return [
            _mine(session, row)
            for row in session.scalars(query.order_by(LabelRow.id.desc()).limit(bounded(limit)))
        ]


def my_label(store: Store, person_id: int, assignment_id: int) -> MyLabel:
    """One's own label by the number of its assignment.

    Raises:
        NotFound: it is somebody else's, part of the screening test, or not there.
        Forbidden: the account is not active.
    """
    with store.read() as session:
        labeler(session, person_id)
        held = get(session, AssignmentRow, assignment_id, "label")
        if held.person_id != person_id or held.state != "submitted" or held.purpose != "work":
            raise NotFound("there is no such label")
        return _mine(
            session,
            session.scalars(select(LabelRow).where(LabelRow.assignment_id == held.id, LabelRow.latest)).one(),
        )


def _mine(session: Session, row: LabelRow) -> MyLabel:
    held = session.get_one(AssignmentRow, row.assignment_id)
    task, project = session.get_one(TaskRow, row.task_id), session.get_one(ProjectRow, row.project_id)
    kind: Kind = project.kind  # type: ignore[assignment]
    replies = shown_replies(session, held)
    keys = {str(position): reply.key for reply, position in replies}
    return MyLabel(
        held.id,
        row.id,
        project.id,
        kind,
        messages_of(task),
        task.brief,
        tuple(reply for reply, _ in replies),
        with_keys(answer_from_json(kind, row.answer), keys),
        row.submitted_at,
        row.revision,
    )
