"""Labels as reviewers and statistics see them, and taking single ones out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, bounded, get
from instructgpt.labelling.store.form import MAX_NOTE, Answer, Kind, answer_from_json, check_text
from instructgpt.labelling.store.leases import free_slot, locked_task, take_slot
from instructgpt.labelling.store.refusals import Conflict, Invalid, Problem
from instructgpt.labelling.store.tables import (
    AssignmentRow,
    LabelRow,
    PersonRow,
    ProjectRow,
    ReplyRow,
    TaskRow,
)

IN_ONE_QUERY = 500
"""How many numbers a query lists at a time; databases bound it."""


@dataclass(frozen=True)
class LabelRecord:
    """One label, in its latest revision.

    Attributes:
        answer: the key of each judgement's reply is its stored position, "0", "1", ..., in this order.
        seconds: from lease to submit; of a revised label those of the first time.
        active_seconds: as the page measured them.
        models: of the task's replies, by position.
        rejected, excluded: taken out by a reviewer; its labeler is taken out.
        known: an answer of the screening test.
        shown: positions of the replies in the order in which this labeler saw them.
    """

    label_id: int
    assignment_id: int
    project_id: int
    task_id: int
    task_key: str
    purpose: str
    kind: Kind
    person_id: int
    person: str
    group: str | None
    answer: Answer
    submitted_at: float
    seconds: float
    active_seconds: float | None
    category: str | None
    models: tuple[str | None, ...]
    rejected: bool
    excluded: bool
    known: bool
    shown: tuple[int, ...]


def labels(
    store: Store,
    project_id: int,
    *,
    by: int | None,
    purpose: str | None = "work",
    include_excluded: bool = False,
    include_rejected: bool = False,
    after_id: int = 0,
    limit: int | None = None,
) -> list[LabelRecord]:
    """Labels of a project, oldest first; `purpose` None gives those of the screening test, too.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    query = (
        select(LabelRow, AssignmentRow.shown, TaskRow.key, TaskRow.prompt, PersonRow)
        .join(AssignmentRow, AssignmentRow.id == LabelRow.assignment_id)
        .join(TaskRow, TaskRow.id == LabelRow.task_id)
        .join(PersonRow, PersonRow.id == LabelRow.person_id)
        .where(LabelRow.project_id == bounded(project_id), LabelRow.latest, LabelRow.id > bounded(after_id))
    )
    if purpose is not None:
        query = query.where(LabelRow.purpose == purpose)
    if not include_excluded:
        query = query.where(PersonRow.excluded.is_(False))
    if not include_rejected:
        query = query.where(LabelRow.rejected_at.is_(None))
    with store.read() as session:
        require(session, by, "reviewer")
        kind: Kind = get(session, ProjectRow, project_id, "project").kind  # type: ignore[assignment]
        found = session.execute(
            query.order_by(LabelRow.id).limit(None if limit is None else bounded(limit))
        ).all()
        models = _models(session, sorted({row.task_id for row, *_ in found}))
        return [
            LabelRecord(
                label_id=row.id,
                assignment_id=row.assignment_id,
                project_id=project_id,
                task_id=row.task_id,
                task_key=key,
                purpose=row.purpose,
                kind=kind,
                person_id=person.id,
                person=person.name,
                group=person.group_name,
                answer=answer_from_json(kind, row.answer),
                submitted_at=row.submitted_at,
                seconds=row.seconds,
                active_seconds=row.active_seconds,
                category=(prompt or {}).get("category"),
                models=tuple(models[row.task_id]),
                rejected=row.rejected_at is not None,
                excluded=person.excluded,
                known=row.purpose == "screening",
                shown=tuple(shown),
            )
            for row, shown, key, prompt, person in found
        ]


def _models(session: Session, task_ids: Sequence[int]) -> defaultdict[int, list[str | None]]:
    found: defaultdict[int, list[str | None]] = defaultdict(list)
    for part in parts(task_ids):
        query = select(ReplyRow.task_id, ReplyRow.model).where(ReplyRow.task_id.in_(part))
        for task_id, model in session.execute(query.order_by(ReplyRow.task_id, ReplyRow.position)):
            found[task_id].append(model)
    return found


def parts(numbers: Sequence[int]) -> Iterable[Sequence[int]]:
    """The numbers, as many at a time as one query may list."""
    return (numbers[start : start + IN_ONE_QUERY] for start in range(0, len(numbers), IN_ONE_QUERY))


def set_rejected(store: Store, label_id: int, rejected: bool, *, by: int | None, reason: str = "") -> None:
    """Take one label out, and let another labeler have its task; or take it back in. The label stays stored.

    Raises:
        Invalid: it is not the latest label of a work task, or the reason is too long.
        Conflict: it can't come back, since another labeler has its task.
        NotFound, Forbidden: there is no such label; `by` is a labeler.
    """
    reason = check_text(reason, "reason", limit=MAX_NOTE, empty=True)
    now = store.clock()
    with store.write() as session:
        require(session, by, "reviewer")
        get(session, LabelRow, label_id, "label")
        query = select(LabelRow).where(LabelRow.id == label_id).with_for_update()
        row = session.scalars(query.execution_options(populate_existing=True)).one()
        if not row.latest or row.purpose != "work":
            raise Invalid([Problem("", "only the latest label of a task can be taken out or in")])
        if (row.rejected_at is not None) == rejected:
            return
        project = session.get_one(ProjectRow, row.project_id)
        task = locked_task(session, row.task_id)
        if rejected:
            row.rejected_at, row.reject_reason = now, reason
            task.labels -= 1
            free_slot(session, task, project)
        else:
            if task.taken >= task.wanted:
                raise Conflict("slot-taken", "another labeler has this task by now")
            row.rejected_at = row.reject_reason = None
            task.labels += 1
            take_slot(session, task, project)
        action = "reject" if rejected else "accept"
        audit.record(session, now, by, action, f"label {label_id}", project.id, reason=reason)
