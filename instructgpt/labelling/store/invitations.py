"""One-time links to make an account or to set a lost password; only hashes of their tokens are kept."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.form import MAX_NOTE, check_text
from instructgpt.labelling.store.people import (
    Person,
    Role,
    add_person,
    check_group,
    check_name,
    check_password,
    check_role,
    end_sessions,
    person_of,
    token_hash,
)
from instructgpt.labelling.store.refusals import Conflict, Invalid, NotFound, Problem
from instructgpt.labelling.store.tables import InvitationRow, PersonRow

DAY = 86_400.0
LONGEST_DAYS = 90.0


@dataclass(frozen=True)
class Invitation:
    """An invitation to make an account; made with a `person_id`, it sets that person's password instead."""

    id: int
    role: Role
    group: str | None
    note: str
    created_at: float
    expires_at: float
    used_at: float | None
    revoked_at: float | None
    person_id: int | None


def _plain(row: InvitationRow) -> Invitation:
    return Invitation(
        row.id,
        row.role,  # type: ignore[arg-type]  # only ROLES are written
        row.group_name,
        row.note,
        row.created_at,
        row.expires_at,
        row.used_at,
        row.revoked_at,
        row.person_id,
    )


def invite(
    store: Store,
    role: Role,
    *,
    by: int | None,
    group: str | None = None,
    note: str = "",
    days: float = 7,
    person_id: int | None = None,
) -> tuple[str, Invitation]:
    """A new invitation: (its token, which is shown this once, what is kept).

    Args:
        store: the database.
        role: of the account to be made.
        by: an admin.
        group: of the account to be made.
        note: for whom it is, for the list of invitations.
        days: until it expires, up to 90.
        person_id: an account whose password is to be set with it; its role and group stay.

    Raises:
        Invalid, NotFound, Forbidden: a value can't be taken; there is no such person; `by` is not an admin.
    """
    role_, group = check_role(role), check_group(group)
    note = check_text(note, "note", limit=MAX_NOTE, empty=True)
    if not 0 < days <= LONGEST_DAYS:
        raise Invalid([Problem("days", f"is not above 0 and up to {LONGEST_DAYS:.0f}")])
    token = secrets.token_urlsafe(32)
    now = store.clock()
    with store.write() as session:
        require(session, by, "admin")
        if person_id is not None:
            known = get(session, PersonRow, person_id, "person")
            role_, group = known.role, known.group_name
        row = InvitationRow(
            token_hash=token_hash(token),
            role=role_,
            group_name=group,
            note=note,
            created_by=by,
            created_at=now,
            expires_at=now + days * DAY,
            person_id=person_id,
        )
        session.add(row)
        session.flush()
        audit.record(session, now, by, "invite", f"invitation {row.id}", role=role_, person_id=person_id)
        return token, _plain(row)


def _valid(session: Session, token: str, now: float) -> InvitationRow:
    query = select(InvitationRow).where(InvitationRow.token_hash == token_hash(token))
    row = session.scalars(query.with_for_update()).first()
    if row is None or row.revoked_at is not None:
        raise NotFound("there is no such invitation")
    if row.used_at is not None:
        raise Conflict("token-used", "this invitation was used already", cure="log in, or ask for a new one")
    if row.expires_at <= now:
        raise Conflict("token-expired", "this invitation has expired", cure="ask for a new one")
    return row


def invitation(store: Store, token: str) -> Invitation:
    """What a token invites to.

    Raises:
        NotFound: there is no such invitation, or it was revoked.
        Conflict: it was used or has expired.
    """
    with store.read() as session:
        return _plain(_valid(session, token, store.clock()))


def accept_invitation(store: Store, token: str, name: str, password: str) -> Person:
    """Make the account, or set the password, and use the invitation up, both or neither.

    Args:
        store: the database.
        token: of the invitation.
        name: of the new account; not looked at where a password is set.
        password: the new one.

    Raises:
        NotFound, Conflict: see `invitation`; the name is taken.
        Invalid: see `people.create_person`.
    """
    kept = invitation(store, token)  # before the hash is made, which costs
    if kept.person_id is None:
        name = check_name(name)
    hashed = store.hasher.hash(check_password(password))
    now = store.clock()
    with store.write() as session:
        row = _valid(session, token, now)
        row.used_at = now
        if row.person_id is None:
            account = add_person(session, store, name, hashed, row.role, row.group_name)
            row.person_id = account.id
        else:
            account = get(session, PersonRow, row.person_id, "person")
            account.password_hash = hashed
            end_sessions(session, account.id)
        audit.record(session, now, account.id, "accept-invitation", f"invitation {row.id}")
        return person_of(account)


def invitations(store: Store, *, by: int | None) -> list[Invitation]:
    """All of them, newest first; for admins.

    Raises:
        Forbidden: `by` is not an admin.
    """
    with store.read() as session:
        require(session, by, "admin")
        return [
            _plain(row) for row in session.scalars(select(InvitationRow).order_by(InvitationRow.id.desc()))
        ]


def revoke_invitation(store: Store, invitation_id: int, *, by: int | None) -> None:
    """Make an invitation worthless; one that was used stays used.

    Raises:
        NotFound, Forbidden: there is none; `by` is not an admin.
    """
    now = store.clock()
    with store.write() as session:
        require(session, by, "admin")
        row = get(session, InvitationRow, invitation_id, "invitation")
        unused = update(InvitationRow).where(InvitationRow.id == row.id, InvitationRow.used_at.is_(None))
        session.execute(unused.values(revoked_at=now))
        audit.record(session, now, by, "revoke-invitation", f"invitation {row.id}")
