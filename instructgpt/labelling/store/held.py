"""An assignment with the rows that it hangs on, read by one query instead of five.

The session finds each row by its key from then on, without asking again, as long as somebody holds it: it
keeps none alive itself. So callers keep the whole tuple.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from instructgpt.labelling.store.access import labeler
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.leases import locked_assignment
from instructgpt.labelling.store.refusals import NotFound
from instructgpt.labelling.store.tables import AssignmentRow, MemberRow, PersonRow, ProjectRow, TaskRow

SWEEP_SECONDS = 0.5
"""How often a labeler's next task begins with giving back what others have kept too long."""


class Held(NamedTuple):
    """An assignment, who has it, as a member of which project, and of which task."""

    assignment: AssignmentRow
    person: PersonRow
    member: MemberRow
    project: ProjectRow
    task: TaskRow


def read_held(session: Session, person_id: int, which: ColumnElement[bool] | None) -> Held:
    """A labeler's own assignment. `which` says which one; None says that there can't be such a one.

    Raises:
        NotFound: there is none, or it is somebody else's.
        Forbidden: the account is not active.
    """
    row = None
    if which is not None:
        query = (
            select(AssignmentRow, PersonRow, MemberRow, ProjectRow, TaskRow)
            .join(PersonRow, PersonRow.id == AssignmentRow.person_id)
            .join(
                MemberRow,
                and_(
                    MemberRow.project_id == AssignmentRow.project_id,
                    MemberRow.person_id == AssignmentRow.person_id,
                ),
            )
            .join(ProjectRow, ProjectRow.id == AssignmentRow.project_id)
            .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
            .where(which, AssignmentRow.person_id == person_id)
        )
        row = session.execute(query).first()
    labeler(session, person_id)
    if row is None:
        raise NotFound("there is no such task")
    return Held(*row)


def locked_held(session: Session, person_id: int, which: ColumnElement[bool] | None) -> Held:
    """The same, member and assignment locked in this order and as they are now.

    Raises:
        NotFound, Forbidden: see `read_held`.
    """
    held = read_held(session, person_id, which)
    query = select(MemberRow).where(
        MemberRow.project_id == held.member.project_id, MemberRow.person_id == person_id
    )
    session.scalars(query.with_for_update().execution_options(populate_existing=True)).one()
    locked_assignment(session, held.assignment.id)
    return held


def sweep_is_due(store: Store, now: float) -> bool:
    """Whether `SWEEP_SECONDS` have passed, by the store's clock, since this process last said so."""
    last = store.swept.get("expired")
    if last is not None and abs(now - last) < SWEEP_SECONDS:
        return False
    store.swept["expired"] = now
    return True
