"""Who works in which project, and where they stand in it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler, require
from instructgpt.labelling.store.database import Store, get, serialise
from instructgpt.labelling.store.people import person_of
from instructgpt.labelling.store.projects import DAY, Screening, Standing, project_of
from instructgpt.labelling.store.refusals import NotFound
from instructgpt.labelling.store.tables import MemberRow, PersonRow, ProjectRow


def standing_of(member: MemberRow | None, project: ProjectRow, person: PersonRow, now: float) -> Standing:
    """The plain form of a row; of one who has not begun if there is none."""
    screening: Screening = "none"
    if project.screening_tasks:
        screening = member.screening if member else "pending"  # type: ignore[assignment]
    return Standing(
        project_of(project),
        person_of(person),
        screening,
        member.screening_score if member else None,
        member.screening_done if member else 0,
        project.examples == 0 or (member is not None and member.onboarded_at is not None),
        member.submitted if member else 0,
        member.skipped if member else 0,
        member.today if member and member.day == int(now // DAY) else 0,
    )


def locked_member(session: Session, project: ProjectRow, person: PersonRow) -> MemberRow:
    """A member's row, made if this is their first contact, and theirs alone until the transaction ends: what
    one person does in one project is done one after the other.

    Raises:
        NotFound: the project is not open to them; that it is there is not told.
    """
    query = select(MemberRow).where(MemberRow.project_id == project.id, MemberRow.person_id == person.id)
    query = query.with_for_update().execution_options(populate_existing=True)
    member = session.scalars(query).first()
    if member is None:
        serialise(session, f"member:{project.id}:{person.id}")
        member = session.scalars(query).first() or _new_member(session, project.id, person.id, invited=False)
    if not project.everyone and not member.invited:
        raise NotFound("there is no such project")
    return member


def _new_member(session: Session, project_id: int, person_id: int, *, invited: bool) -> MemberRow:
    member = MemberRow(
        project_id=project_id,
        person_id=person_id,
        invited=invited,
        cursor=0,
        screening="pending",
        screening_done=0,
        screening_round=1,
        submitted=0,
        skipped=0,
        day=0,
        today=0,
    )
    session.add(member)
    session.flush()
    return member


def add_member(store: Store, project_id: int, person_id: int, *, by: int | None) -> None:
    """Open a project to a person; of use where it is not open to everyone.

    Raises:
        NotFound, Forbidden: there is no such project or person; `by` is not an admin.
    """
    _set_invited(store, project_id, person_id, True, by)


def remove_member(store: Store, project_id: int, person_id: int, *, by: int | None) -> None:
    """Take a person out of a project that is not open to everyone; their labels stay.

    Raises:
        NotFound, Forbidden: see `add_member`.
    """
    _set_invited(store, project_id, person_id, False, by)


def _set_invited(store: Store, project_id: int, person_id: int, invited: bool, by: int | None) -> None:
    with store.write() as session:
        require(session, by, "admin")
        get(session, ProjectRow, project_id, "project")
        get(session, PersonRow, person_id, "person")
        serialise(session, f"member:{project_id}:{person_id}")
        member = session.get(MemberRow, (project_id, person_id), with_for_update=True)
        member = member or _new_member(session, project_id, person_id, invited=invited)
        member.invited = invited
        audit.record(
            session, store.clock(), by, "set-member", f"person {person_id}", project_id, invited=invited
        )


def members(store: Store, project_id: int, *, by: int | None) -> list[Standing]:
    """Everybody who may work in a project or has, by name; for admins and reviewers.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        row = get(session, ProjectRow, project_id, "project")
        joined = (MemberRow.person_id == PersonRow.id) & (MemberRow.project_id == project_id)
        query = select(PersonRow, MemberRow).outerjoin(MemberRow, joined).order_by(PersonRow.name_key)
        found = []
        for person, member in session.execute(query):
            open_to = member.invited if member else False
            if open_to or (row.everyone and person.active) or (member and member.submitted):
                found.append(standing_of(member, row, person, store.clock()))
        return found


def projects_for(store: Store, person_id: int) -> list[Standing]:
    """The projects that are open to a person and not closed, or in which they have worked; newest first.

    Raises:
        NotFound, Forbidden: there is no such person, or the account is not active.
    """
    with store.read() as session:
        person = labeler(session, person_id)
        joined = (MemberRow.project_id == ProjectRow.id) & (MemberRow.person_id == person_id)
        query = select(ProjectRow, MemberRow).outerjoin(MemberRow, joined).order_by(ProjectRow.id.desc())
        return [
            standing_of(member, row, person, store.clock())
            for row, member in session.execute(query)
            if (member and member.submitted)
            or ((row.everyone or (member and member.invited)) and row.status != "closed")
        ]
