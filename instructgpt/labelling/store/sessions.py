"""Logging in and staying so: sessions of browsers, tokens of programs, and how many wrong passwords are let
through. Only hashes of secrets are kept."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Transaction

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler, require
from instructgpt.labelling.store.database import Store, get, serialise
from instructgpt.labelling.store.form import check_text
from instructgpt.labelling.store.people import Person, matches, name_key, person_of, token_hash
from instructgpt.labelling.store.refusals import LoginRefused, NotFound, TooManyAttempts
from instructgpt.labelling.store.tables import LoginAttemptRow, PersonRow, SessionRow

DAY = 86_400.0


@dataclass(frozen=True)
class LoginLimits:
    """How many log-ins may fail within `window` seconds, per account and per address."""

    per_account: int = 10
    per_address: int = 100
    window: float = 900.0


@dataclass(frozen=True)
class Session:
    """Who is logged in.

    Attributes:
        csrf: a value that forms carry; it follows from the session's secret and is the same all through it.
    """

    person: Person
    created_at: float
    expires_at: float
    csrf: str


@dataclass(frozen=True)
class ApiToken:
    """A token of a program, without its secret."""

    id: int
    name: str
    person_id: int
    created_at: float
    expires_at: float


def log_in(
    store: Store,
    name: str,
    password: str,
    address: str,
    *,
    limits: LoginLimits | None = None,
    days: float = 14,
) -> tuple[str, Session]:
    """Open a session by name and password: (token for the cookie, the session).

    The try is written down before the password is looked at, so that many at once can't slip through, and
    taken back when it is right. Unknown names take as long as known ones.

    Raises:
        LoginRefused: unknown name, wrong password, no password, or not active.
        TooManyAttempts: too many have failed, for the account or from the address.
    """
    limits = limits or LoginLimits()
    keys = _reserve(store, name, address, limits)
    with store.read() as session:
        query = select(PersonRow).where(PersonRow.name_key == name_key(name))
        row = session.scalars(query).first() if _storable(name) else None
        known = (row.id, row.password_hash, row.active) if row else None
    right = matches(store.hasher, (known[1] if known else None) or _nobody(store), password)
    if not right or known is None or known[1] is None or not known[2]:
        raise LoginRefused()
    if store.hasher.check_needs_rehash(known[1]):
        _rehash(store, known[0], known[1], password)
    with store.write() as session:
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.id == keys[1]))
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.key == _account_key(name)))
        return _open(session, store, labeler(session, known[0]), days)


def _storable(name: str) -> bool:
    return "\x00" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _account_key(name: str) -> str:
    return "account:" + hashlib.sha256(name_key(name).encode("utf-8", "surrogatepass")).hexdigest()


def _address_key(address: str) -> str:
    return "address:" + hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()


def _reserve(store: Store, name: str, address: str, limits: LoginLimits) -> tuple[int, int]:
    """Write one try down for the account and one for the address: their ids."""
    now = store.clock()
    since = now - limits.window
    allowed = ((_account_key(name), limits.per_account), (_address_key(address), limits.per_address))
    with store.write() as session:
        session.execute(delete(LoginAttemptRow).where(LoginAttemptRow.at < since - DAY))
        for key, most in sorted(allowed):  # in one order, so that two can't wait for one another
            serialise(session, key)
            tries = select(func.count(), func.min(LoginAttemptRow.at)).where(
                LoginAttemptRow.key == key, LoginAttemptRow.at > since
            )
            count, first = session.execute(tries).one()
            if count >= most:
                raise TooManyAttempts(first + limits.window - now)
        rows = [LoginAttemptRow(key=key, at=now) for key, _ in allowed]
        session.add_all(rows)
        session.flush()
        return rows[0].id, rows[1].id


_NOBODY: dict[tuple[int, int, int], str] = {}


def _nobody(store: Store) -> str:
    """A hash that no password has, made with this store's costs."""
    costs = (store.hasher.time_cost, store.hasher.memory_cost, store.hasher.parallelism)
    if costs not in _NOBODY:
        _NOBODY[costs] = store.hasher.hash(secrets.token_urlsafe(32))
    return _NOBODY[costs]


def _rehash(store: Store, person_id: int, kept: str, password: str) -> None:
    """Keep the password under today's costs; nothing happens if it was changed meanwhile."""
    hashed = store.hasher.hash(password)
    with store.write() as session:
        row = get(session, PersonRow, person_id, "person")
        if row.password_hash == kept:
            row.password_hash = hashed


def _open(session: Transaction, store: Store, row: PersonRow, days: float) -> tuple[str, Session]:
    token = secrets.token_urlsafe(32)
    now = store.clock()
    session.execute(delete(SessionRow).where(SessionRow.expires_at <= now))
    session.add(
        SessionRow(
            token_hash=token_hash(token),
            kind="browser",
            name="",
            person_id=row.id,
            created_at=now,
            expires_at=now + days * DAY,
        )
    )
    audit.record(session, now, row.id, "log-in", f"person {row.id}")
    return token, Session(person_of(row), now, now + days * DAY, _csrf(token))


def _csrf(token: str) -> str:
    return hashlib.sha256(b"csrf:" + token.encode("utf-8", "surrogatepass")).hexdigest()


def open_session(store: Store, person_id: int, *, days: float = 14) -> tuple[str, Session]:
    """A session without a password, for who was let in another way: (token for the cookie, the session).

    Raises:
        NotFound, Forbidden: there is no such person, or the account is not active.
    """
    with store.write() as session:
        return _open(session, store, labeler(session, person_id), days)


def session_of(store: Store, token: str) -> Session | None:
    """The session or API token that this secret belongs to; None if there is none, it has expired, or the
    person was deactivated."""
    with store.read() as session:
        query = select(SessionRow, PersonRow).join(PersonRow, PersonRow.id == SessionRow.person_id)
        found = session.execute(query.where(SessionRow.token_hash == token_hash(token))).first()
        if found is None:
            return None
        kept, owner = found
        if kept.expires_at <= store.clock() or not owner.active:
            return None
        return Session(person_of(owner), kept.created_at, kept.expires_at, _csrf(token))


def log_out(store: Store, token: str) -> None:
    """End a session; nothing happens if there is none."""
    with store.write() as session:
        row = session.scalars(select(SessionRow).where(SessionRow.token_hash == token_hash(token))).first()
        if row:
            audit.record(session, store.clock(), row.person_id, "log-out", f"person {row.person_id}")
            session.delete(row)


# -- tokens of programs


def create_api_token(store: Store, person_id: int, name: str, *, by: int | None, days: float = 365) -> str:
    """A token by which a program acts as this person; shown this once.

    Raises:
        Invalid, NotFound, Forbidden: the name can't be taken; there is no such person, or the account is not
            active; `by` is not an admin.
    """
    name = check_text(name, "name", limit=64)
    token = secrets.token_urlsafe(32)
    now = store.clock()
    with store.write() as session:
        require(session, by, "admin")
        row = SessionRow(
            token_hash=token_hash(token),
            kind="api",
            name=name,
            person_id=labeler(session, person_id).id,
            created_at=now,
            expires_at=now + days * DAY,
        )
        session.add(row)
        session.flush()
        audit.record(session, now, by, "create-token", f"token {row.id}", person_id=person_id, name=name)
    return token


def api_tokens(store: Store, *, by: int | None) -> list[ApiToken]:
    """All tokens of programs, without their secrets; for admins.

    Raises:
        Forbidden: `by` is not an admin.
    """
    with store.read() as session:
        require(session, by, "admin")
        rows = session.scalars(select(SessionRow).where(SessionRow.kind == "api").order_by(SessionRow.id))
        return [ApiToken(row.id, row.name, row.person_id, row.created_at, row.expires_at) for row in rows]


def revoke_api_token(store: Store, token_id: int, *, by: int | None) -> None:
    """
    Raises:
        NotFound, Forbidden: there is no such token; `by` is not an admin.
    """
    with store.write() as session:
        require(session, by, "admin")
        row = get(session, SessionRow, token_id, "token")
        if row.kind != "api":
            raise NotFound("there is no such token")
        audit.record(session, store.clock(), by, "revoke-token", f"token {row.id}", name=row.name)
        session.delete(row)
