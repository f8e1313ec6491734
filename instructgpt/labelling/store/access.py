"""Who may do what. Checked inside the transaction that does it, whatever the pages have checked before."""

from __future__ import annotations

from sqlalchemy.orm import Session

from instructgpt.labelling.store.refusals import Forbidden, NotFound
from instructgpt.labelling.store.tables import PersonRow

RANKS = {"labeler": 0, "reviewer": 1, "admin": 2}


def require(session: Session, by: int | None, role: str) -> None:
    """
    Args:
        session: the transaction.
        by: the person who acts; None is the operator at the console, who may do all.
        role: the least role that may.

    Raises:
        Forbidden: the person may not.
    """
    if by is None:
        return
    row = session.get(PersonRow, by)
    if row is None or not row.active:
        raise Forbidden("inactive", "this account is not active")
    if RANKS[row.role] < RANKS[role]:
        raise Forbidden("forbidden", f"this is for the role {role}")


def labeler(session: Session, person_id: int) -> PersonRow:
    """The active person with this id; every role may label.

    Raises:
        NotFound, Forbidden: there is none, or the account is not active.
    """
    row = session.get(PersonRow, person_id)
    if row is None:
        raise NotFound("there is no such person")
    if not row.active:
        raise Forbidden("inactive", "this account is not active")
    return row
