"""The tables, as SQLAlchemy sees them; `migrations/` makes them. Nothing outside this package uses these
classes.

Times are seconds since the epoch. Texts of people's answers are JSON of `form.answer_to_json`, with the
stored position of a reply as its key.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
LEASED = text("state = 'leased'")


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, so that migrations can change them."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar = {
        float: Double,
        str: Text,
        bytes: LargeBinary,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class SecretRow(Base):
    """A random key that this database made for itself."""

    __tablename__ = "secrets"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[bytes]


class PersonRow(Base):
    """An account. `name_key` is the name without differences of case, and unique."""

    __tablename__ = "people"
    __table_args__ = (UniqueConstraint("name_key"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    name_key: Mapped[str]
    password_hash: Mapped[str | None]
    role: Mapped[str] = mapped_column(String(16))
    group_name: Mapped[str | None]
    language: Mapped[str | None] = mapped_column(String(16))
    active: Mapped[bool]
    excluded: Mapped[bool]
    created_at: Mapped[float]


class InvitationRow(Base):
    """An invitation, or a password reset if `person_id` is given from the start."""

    __tablename__ = "invitations"
    __table_args__ = (UniqueConstraint("token_hash"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    group_name: Mapped[str | None]
    note: Mapped[str]
    created_by: Mapped[int | None] = mapped_column(ForeignKey("people.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    person_id: Mapped[int | None] = mapped_column(ForeignKey("people.id"))


class SessionRow(Base):
    """A browser's log-in (kind "browser") or a token for programs (kind "api"); only the hash of its
    secret."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("token_hash"), Index(None, "person_id"), Index(None, "expires_at"))
    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str]
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]


class LoginAttemptRow(Base):
    """A log-in that failed or is being looked at, under the key of its account or of its address."""

    __tablename__ = "login_attempts"
    __table_args__ = (Index(None, "key", "at"), Index(None, "at"))
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(80))
    at: Mapped[float]


class ProjectRow(Base):
    """A project's settings; the counters are kept with `tasks`."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    instructions: Mapped[str]
    replies: Mapped[int]
    overlap: Mapped[int]
    quota: Mapped[int | None]
    quota_per_day: Mapped[int | None]
    lease_minutes: Mapped[float]
    pass_mark: Mapped[float]
    everyone: Mapped[bool]
    seed: Mapped[int]
    valid: Mapped[float]
    test: Mapped[float]
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[float]
    tasks: Mapped[int]
    screening_tasks: Mapped[int]
    examples: Mapped[int]


class MemberRow(Base):
    """A person's standing in a project, made at first contact.

    `cursor` is the position of the last fresh task they were given: tasks before it were theirs already,
    unless they came back. `day` counts UTC days and `today` their labels of that day.
    """

    __tablename__ = "members"
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"), primary_key=True)
    invited: Mapped[bool]
    cursor: Mapped[int]
    onboarded_at: Mapped[float | None]
    screening: Mapped[str] = mapped_column(String(16))
    screening_score: Mapped[float | None]
    screening_done: Mapped[int]
    screening_round: Mapped[int]
    submitted: Mapped[int]
    skipped: Mapped[int]
    day: Mapped[int]
    today: Mapped[int]


class TaskRow(Base):
    """One prompt and what is wanted for it.

    `taken` is the number of slots in use: running leases and labels that count. `state` follows from the
    other columns and stands in the index by which tasks are leased; `lane` 0 holds tasks that came back.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("project_id", "purpose", "key"),
        Index("ix_tasks_queue", "project_id", "purpose", "state", "lane", "position"),
        Index(None, "project_id", "prompt_hash"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    purpose: Mapped[str] = mapped_column(String(16))
    position: Mapped[int]
    lane: Mapped[int]
    key: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    withdrawn: Mapped[bool]
    wanted: Mapped[int]
    taken: Mapped[int]
    labels: Mapped[int]
    skips: Mapped[int]
    reply_count: Mapped[int]
    prompt: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    prompt_hash: Mapped[str] = mapped_column(String(64))
    style: Mapped[str] = mapped_column(String(16))
    brief: Mapped[str]
    response: Mapped[str | None]
    explanation: Mapped[str]


class ReplyRow(Base):
    """A model's reply to a task's prompt; `known_*` is the right answer of a screening task or an example."""

    __tablename__ = "replies"
    __table_args__ = (UniqueConstraint("task_id", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    position: Mapped[int]
    text: Mapped[str]
    model: Mapped[str | None]
    known_rank: Mapped[int | None]
    known_rating: Mapped[float | None]
    known_flags: Mapped[list[Any]]


class AssignmentRow(Base):
    """A task in the hands of a person, now or once: the pair is unique, so that none gets a task twice.

    `round` is 0 but for screening tasks, which somebody may be let take again. `state` is leased, submitted,
    skipped, expired or released; `shown` holds the positions of the replies in the order in which this person
    sees them.
    """

    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("task_id", "person_id", "round"),
        UniqueConstraint("token"),
        Index(
            "ix_assignments_one_lease",
            "person_id",
            "project_id",
            unique=True,
            sqlite_where=LEASED,
            postgresql_where=LEASED,
        ),
        Index("ix_assignments_expiry", "expires_at", sqlite_where=LEASED, postgresql_where=LEASED),
        Index(None, "project_id", "state"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    purpose: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    token: Mapped[str] = mapped_column(String(64))
    shown: Mapped[list[Any]]
    leased_at: Mapped[float]
    expires_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    skip_reason: Mapped[str | None]
    skip_note: Mapped[str | None]
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class LabelRow(Base):
    """What a person answered; never changed and never deleted. A revision is another row, and the
    `latest`."""

    __tablename__ = "labels"
    __table_args__ = (
        UniqueConstraint("assignment_id", "revision"),
        UniqueConstraint("token"),
        Index(None, "project_id", "purpose", "latest", "id"),
        Index(None, "person_id", "project_id", "id"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"))
    revision: Mapped[int]
    latest: Mapped[bool]
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    person_id: Mapped[int] = mapped_column(ForeignKey("people.id"))
    purpose: Mapped[str] = mapped_column(String(16))
    token: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column(String(64))
    submitted_at: Mapped[float]
    seconds: Mapped[float]
    active_seconds: Mapped[float | None]
    rejected_at: Mapped[float | None]
    reject_reason: Mapped[str | None]
    score: Mapped[float | None]


class AuditRow(Base):
    """Who did what, when. Triggers refuse to change or delete it."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "project_id", "id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    person_id: Mapped[int | None]
    action: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[int | None]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]


class FeedbackRow(Base):
    """What a user of the served model said of its replies."""

    __tablename__ = "feedback"
    __table_args__ = (UniqueConstraint("key"), Index(None, "user_id"))
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    messages: Mapped[list[Any]]
    replies: Mapped[list[Any]]
    ranks: Mapped[list[Any]]
    thumb: Mapped[str | None] = mapped_column(String(8))
    edited: Mapped[str | None]
    user_id: Mapped[str | None]
    consent: Mapped[bool]
    withdrawn_at: Mapped[float | None]
    at: Mapped[float]
    received_at: Mapped[float]
    flags: Mapped[list[Any]]
    note: Mapped[str]
