"""Accounts. Passwords are kept as argon2id hashes."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

import argon2
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler, require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.form import check_text
from instructgpt.labelling.store.leases import return_all
from instructgpt.labelling.store.refusals import Conflict, Invalid, LoginRefused, Problem
from instructgpt.labelling.store.tables import PersonRow, SessionRow

Role = Literal["admin", "reviewer", "labeler"]
ROLES: tuple[Role, ...] = get_args(Role)
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1_000


@dataclass(frozen=True)
class Person:
    """An account.

    Attributes:
        group: any grouping that statistics should show apart, such as a vendor.
        active: may log in and label.
        excluded: their labels are left out of exports and statistics.
        language: of the pages, if they chose one.
    """

    id: int
    name: str
    role: Role
    group: str | None
    active: bool
    excluded: bool
    created_at: float
    language: str | None


def person_of(row: PersonRow) -> Person:
    """The plain form of a row."""
    return Person(
        row.id,
        row.name,
        row.role,  # type: ignore[arg-type]  # only ROLES are written
        row.group_name,
        row.active,
        row.excluded,
        row.created_at,
        row.language,
    )


def name_key(name: str) -> str:
    """A name without differences of case, width and white space: two people can't have names that look the
    same."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def token_hash(token: str) -> str:
    """What is kept of a random token. It has 256 random bits, so that a plain hash can't be searched."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def check_name(name: str) -> str:
    """The name without white space around it; Invalid if it can't be one."""
    name = check_text(name, "name", limit=64).strip()
    if any(unicodedata.category(letter).startswith("C") for letter in name):
        raise Invalid([Problem("name", "holds an invisible character")])
    return name


def check_password(password: str) -> str:
    """The password; Invalid if it is too short or too long."""
    check_text(password, "password", limit=LONGEST_PASSWORD)
    if len(password) < SHORTEST_PASSWORD:
        raise Invalid([Problem("password", f"has fewer than {SHORTEST_PASSWORD} characters")])
    return password


def check_role(role: str) -> str:
    """The role; Invalid if there is none of this name."""
    if role not in ROLES:
        raise Invalid([Problem("role", f"is none of {', '.join(ROLES)}")])
    return role


def check_group(group: str | None) -> str | None:
    """The group, None if it is empty; Invalid if it can't be one."""
    return check_text(group, "group", limit=64).strip() if group else None


# -- accounts


def any_person(store: Store) -> bool:
    """Whether there is an account at all; if not, this is the first start."""
    with store.read() as session:
        return session.scalars(select(PersonRow.id).limit(1)).first() is not None


def add_person(
    session: Session, store: Store, name: str, password_hash: str | None, role: str, group: str | None
) -> PersonRow:
    """A new account in this transaction.

    Raises:
        Conflict: the name is taken.
    """
    row = PersonRow(
        name=name,
        name_key=name_key(name),
        password_hash=password_hash,
        role=role,
        group_name=group,
        active=True,
        excluded=False,
        created_at=store.clock(),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError as error:
        raise Conflict("name-taken", f"the name {name!r} is taken", cure="choose another") from error
    return row


def create_person(
    store: Store, name: str, password: str | None, role: Role, *, by: int | None, group: str | None = None
) -> Person:
    """A new account; without a password nobody can log in to it with one.

    Raises:
        Conflict: the name is taken.
        Invalid: the name is not 1 to 64 visible characters, or the password is short.
        Forbidden: `by` is not an admin.
    """
    name, role_, group = check_name(name), check_role(role), check_group(group)
    hashed = store.hasher.hash(check_password(password)) if password is not None else None
    with store.write() as session:
        require(session, by, "admin")
        row = add_person(session, store, name, hashed, role_, group)
        audit.record(session, store.clock(), by, "create-person", f"person {row.id}", role=role_)
        return person_of(row)


def ensure_person(store: Store, name: str, role: Role) -> Person:
    """The person of this name, made without a password if there is none; the role of one who is there stays.

    Raises:
        Invalid: see `create_person`.
    """
    name, role_ = check_name(name), check_role(role)
    query = select(PersonRow).where(PersonRow.name_key == name_key(name))
    with store.read() as session:
        row = session.scalars(query).first()
        if row:
            return person_of(row)
    try:
        return create_person(store, name, None, role_, by=None)  # type: ignore[arg-type]
    except Conflict:  # another request made it in between
        with store.read() as session:
            return person_of(session.scalars(query).one())


def person(store: Store, person_id: int) -> Person:
    """
    Raises:
        NotFound: there is none with this id.
    """
    with store.read() as session:
        return person_of(get(session, PersonRow, person_id, "person"))


def people(store: Store, *, by: int | None) -> list[Person]:
    """Everybody, by name; for admins and reviewers.

    Raises:
        Forbidden: `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        return [person_of(row) for row in session.scalars(select(PersonRow).order_by(PersonRow.name_key))]


def end_sessions(session: Session, person_id: int) -> None:
    """End all sessions and tokens of a person."""
    session.execute(delete(SessionRow).where(SessionRow.person_id == person_id))


def set_password(store: Store, person_id: int, password: str, *, by: int | None) -> None:
    """A new password, by an admin; all sessions and tokens of that person end.

    Raises:
        Invalid, NotFound, Forbidden: see `create_person`.
    """
    hashed = store.hasher.hash(check_password(password))
    with store.write() as session:
        require(session, by, "admin")
        get(session, PersonRow, person_id, "person").password_hash = hashed
        end_sessions(session, person_id)
        audit.record(session, store.clock(), by, "set-password", f"person {person_id}")


def change_password(store: Store, person_id: int, old: str, new: str) -> None:
    """A new password, by its owner; all sessions and tokens end.

    Raises:
        LoginRefused: the old one is wrong.
        Invalid: the new one is too short.
        NotFound, Forbidden: the account is not there or not active.
    """
    with store.read() as session:
        kept = labeler(session, person_id).password_hash
    if kept is None or not matches(store.hasher, kept, old):
        raise LoginRefused()
    hashed = store.hasher.hash(check_password(new))
    with store.write() as session:
        changed = update(PersonRow).where(PersonRow.id == person_id, PersonRow.password_hash == kept)
        if not session.execute(changed.values(password_hash=hashed)).rowcount:  # type: ignore[attr-defined]
            raise LoginRefused()  # changed by somebody else meanwhile
        end_sessions(session, person_id)
        audit.record(session, store.clock(), person_id, "change-password", f"person {person_id}")


def matches(hasher: argon2.PasswordHasher, kept: str, password: str) -> bool:
    """Whether `password` is the one of this hash; takes its time."""
    if len(password) > LONGEST_PASSWORD:
        return False
    try:
        return hasher.verify(kept, password.encode("utf-8", "surrogatepass"))
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


def _change(
    store: Store, person_id: int, by: int | None, action: str, least: str, **values: str | bool | None
) -> Person:
    with store.write() as session:
        if by != person_id or least != "labeler":
            require(session, by, "admin")
        row = get(session, PersonRow, person_id, "person")
        for name, value in values.items():
            setattr(row, name, value)
        audit.record(session, store.clock(), by, action, f"person {person_id}", **values)
        return person_of(row)


def set_role(store: Store, person_id: int, role: Role, *, by: int | None) -> Person:
    """
    Raises:
        Invalid, NotFound, Forbidden: see `create_person`; nobody takes the admin's role from themselves.
    """
    if by == person_id and role != "admin":
        raise Conflict("own-account", "admins can't take their own role away", cure="ask another admin")
    return _change(store, person_id, by, "set-role", "admin", role=check_role(role))


def set_group(store: Store, person_id: int, group: str | None, *, by: int | None) -> Person:
    """
    Raises:
        Invalid, NotFound, Forbidden: see `create_person`.
    """
    return _change(store, person_id, by, "set-group", "admin", group_name=check_group(group))


def set_language(store: Store, person_id: int, language: str | None) -> None:
    """The language of a person's own pages.

    Raises:
        Invalid, NotFound: see `create_person`.
    """
    language = check_text(language, "language", limit=16) if language else None
    _change(store, person_id, person_id, "set-language", "labeler", language=language)


def set_active(store: Store, person_id: int, active: bool, *, by: int | None) -> Person:
    """Let a person in or out. Going out ends their sessions and gives the tasks in their hands back.

    Raises:
        NotFound, Forbidden: see `create_person`.
        Conflict: an admin's own account.
    """
    if by == person_id and not active:
        raise Conflict("own-account", "admins can't deactivate themselves", cure="ask another admin")
    with store.write() as session:
        require(session, by, "admin")
        row = get(session, PersonRow, person_id, "person")
        row.active = active
        if not active:
            end_sessions(session, person_id)
        audit.record(session, store.clock(), by, "set-active", f"person {person_id}", active=active)
        changed = person_of(row)
    if not active:
        return_all(store, person_id, by)
    return changed


def set_excluded(store: Store, person_id: int, excluded: bool, *, by: int | None) -> Person:
    """Leave a person's labels out of exports and statistics, or take them in again; they stay in the
    database.

    Raises:
        NotFound, Forbidden: see `create_person`.
    """
    return _change(store, person_id, by, "set-excluded", "admin", excluded=excluded)
