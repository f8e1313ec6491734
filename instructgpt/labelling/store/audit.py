"""Who did what: one row for each change of state, written in the transaction that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, bounded
from instructgpt.labelling.store.tables import AuditRow


@dataclass(frozen=True)
class AuditEntry:
    """One change of state.

    Attributes:
        person_id: who did it; None is the operator at the console, or the program itself.
        action: such as "submit" or "set-role".
        subject: what it was done to, such as "task 12".
        detail: what is needed to understand it; never an answer's text, a password or a token.
    """

    id: int
    at: float
    person_id: int | None
    action: str
    project_id: int | None
    subject: str
    detail: dict[str, Any]


def record(
    session: Session,
    at: float,
    person_id: int | None,
    action: str,
    subject: str,
    project_id: int | None = None,
    /,
    **detail: Any,
) -> None:
    """Add an entry to the transaction that changes the state."""
    session.add(
        AuditRow(
            at=at, person_id=person_id, action=action, project_id=project_id, subject=subject, detail=detail
        )
    )


def audit_log(
    store: Store,
    *,
    by: int | None,
    project_id: int | None = None,
    before_id: int | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """Entries, newest first; for admins.

    Raises:
        Forbidden: `by` is not an admin.
    """
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(bounded(limit))
    if project_id is not None:
        query = query.where(AuditRow.project_id == bounded(project_id))
    if before_id is not None:
        query = query.where(AuditRow.id < bounded(before_id))
    with store.read() as session:
        require(session, by, "admin")
        return [
            AuditEntry(row.id, row.at, row.person_id, row.action, row.project_id, row.subject, row.detail)
            for row in session.scalars(query)
        ]
