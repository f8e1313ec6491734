"""Slots of tasks: how many labelers a task still wants, and how a slot comes back.

A slot is in use while somebody holds a lease on the task or has given a label that counts. Rows are always
locked in the order member, assignment, task, and at most one task in a transaction, so that no two
transactions can wait for one another.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.tables import AssignmentRow, ProjectRow, TaskRow


def replies_needed(project: ProjectRow) -> int:
    """How many replies a task shows: K where replies are judged, none where something is written."""
    return project.replies if project.kind in ("rank", "compare") else 0


def settle(task: TaskRow, needed: int) -> None:
    """Set a task's state from its other columns."""
    if task.withdrawn:
        task.state = "withdrawn"
    elif task.reply_count < needed:
        task.state = "waiting"
    else:
        task.state = "full" if task.taken >= task.wanted else "open"


def locked_task(session: Session, task_id: int) -> TaskRow:
    """The task as it is now; nobody else changes it until this transaction ends."""
    query = select(TaskRow).where(TaskRow.id == task_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def locked_assignment(session: Session, assignment_id: int) -> AssignmentRow:
    """The assignment as it is now; nobody else changes it until this transaction ends."""
    query = select(AssignmentRow).where(AssignmentRow.id == assignment_id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def take_slot(session: Session, task: TaskRow, project: ProjectRow) -> None:
    """One slot of a locked task comes into use."""
    task.taken += 1
    settle(task, replies_needed(project))


def free_slot(session: Session, task: TaskRow, project: ProjectRow) -> None:
    """One slot of a locked task is free again, and goes before the tasks that nobody has seen."""
    task.taken -= 1
    task.lane = 0
    settle(task, replies_needed(project))


def _give_back(store: Store, assignment_id: int, state: str, by: int | None, before: float | None) -> bool:
    """End a lease without an answer; whether it was still running."""
    now = store.clock()
    with store.write() as session:
        held = locked_assignment(session, assignment_id)
        if held.state != "leased" or (
            before is not None and (held.expires_at is None or held.expires_at > before)
        ):
            return False
        held.state, held.finished_at = state, now
        if held.purpose == "work":
            project = session.get_one(ProjectRow, held.project_id)
            free_slot(session, locked_task(session, held.task_id), project)
        audit.record(
            session, now, by, state, f"task {held.task_id}", held.project_id, person_id=held.person_id
        )
        return True


def return_expired(store: Store) -> int:
    """Give back the tasks whose time is up: how many."""
    now = store.clock()
    with store.read() as session:
        late = select(AssignmentRow.id).where(
            AssignmentRow.state == "leased", AssignmentRow.expires_at <= now
        )
        found = session.scalars(late.order_by(AssignmentRow.expires_at)).all()
    return sum(_give_back(store, assignment_id, "expired", None, now) for assignment_id in found)


def return_all(store: Store, person_id: int, by: int | None) -> int:
    """Give back the tasks in a person's hands: how many. A screening task stays, for when they come back."""
    with store.read() as session:
        held = select(AssignmentRow.id).where(
            AssignmentRow.person_id == person_id, AssignmentRow.state == "leased"
        )
        found = session.scalars(held.where(AssignmentRow.purpose == "work")).all()
    return sum(_give_back(store, assignment_id, "released", by, None) for assignment_id in found)
