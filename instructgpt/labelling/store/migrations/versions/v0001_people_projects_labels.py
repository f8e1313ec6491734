"""People, projects, tasks, labels."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

LEASED = sa.text("state = 'leased'")


def upgrade() -> None:
    """Make the first tables."""
    _people()
    _projects()
    _tasks()
    _work()


def downgrade() -> None:
    """Not possible: labels would be lost."""
    raise NotImplementedError("the first migration can't be undone: copy the database instead")


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, nullable=False)


def _column(name: str, kind: Any, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def _refers(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{other}.id"], name=f"fk_{table}_{column}")


def _people() -> None:
    op.create_table(
        "secrets",
        _column("name", sa.String(64)),
        _column("value", sa.LargeBinary),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )
    op.create_table(
        "people",
        _id(),
        _column("name", sa.Text),
        _column("name_key", sa.Text),
        _column("password_hash", sa.Text, null=True),
        _column("role", sa.String(16)),
        _column("group_name", sa.Text, null=True),
        _column("language", sa.String(16), null=True),
        _column("active", sa.Boolean),
        _column("excluded", sa.Boolean),
        _column("created_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_people"),
        sa.UniqueConstraint("name_key", name="uq_people_name_key"),
    )
    op.create_table(
        "invitations",
        _id(),
        _column("token_hash", sa.String(64)),
        _column("role", sa.String(16)),
        _column("group_name", sa.Text, null=True),
        _column("note", sa.Text),
        _column("created_by", sa.Integer, null=True),
        _column("created_at", sa.Double),
        _column("expires_at", sa.Double),
        _column("used_at", sa.Double, null=True),
        _column("revoked_at", sa.Double, null=True),
        _column("person_id", sa.Integer, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_invitations"),
        sa.UniqueConstraint("token_hash", name="uq_invitations_token_hash"),
        _refers("invitations", "created_by", "people"),
        _refers("invitations", "person_id", "people"),
    )
    op.create_table(
        "sessions",
        _id(),
        _column("token_hash", sa.String(64)),
        _column("kind", sa.String(16)),
        _column("name", sa.Text),
        _column("person_id", sa.Integer),
        _column("created_at", sa.Double),
        _column("expires_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("token_hash", name="uq_sessions_token_hash"),
        _refers("sessions", "person_id", "people"),
    )
    op.create_index("ix_sessions_person_id", "sessions", ["person_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "login_attempts",
        _id(),
        _column("key", sa.String(80)),
        _column("at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_login_attempts"),
    )
    op.create_index("ix_login_attempts_key_at", "login_attempts", ["key", "at"])
    op.create_index("ix_login_attempts_at", "login_attempts", ["at"])


def _projects() -> None:
    op.create_table(
        "projects",
        _id(),
        _column("name", sa.Text),
        _column("kind", sa.String(16)),
        _column("instructions", sa.Text),
        _column("replies", sa.Integer),
        _column("overlap", sa.Integer),
        _column("quota", sa.Integer, null=True),
        _column("quota_per_day", sa.Integer, null=True),
        _column("lease_minutes", sa.Double),
        _column("pass_mark", sa.Double),
        _column("everyone", sa.Boolean),
        _column("seed", sa.Integer),
        _column("valid", sa.Double),
        _column("test", sa.Double),
        _column("status", sa.String(16)),
        _column("created_at", sa.Double),
        _column("tasks", sa.Integer),
        _column("screening_tasks", sa.Integer),
        _column("examples", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("name", name="uq_projects_name"),
    )
    op.create_table(
        "members",
        _column("project_id", sa.Integer),
        _column("person_id", sa.Integer),
        _column("invited", sa.Boolean),
        _column("cursor", sa.Integer),
        _column("onboarded_at", sa.Double, null=True),
        _column("screening", sa.String(16)),
        _column("screening_score", sa.Double, null=True),
        _column("screening_done", sa.Integer),
        _column("screening_round", sa.Integer),
        _column("submitted", sa.Integer),
        _column("skipped", sa.Integer),
        _column("day", sa.Integer),
        _column("today", sa.Integer),
        sa.PrimaryKeyConstraint("project_id", "person_id", name="pk_members"),
        _refers("members", "project_id", "projects"),
        _refers("members", "person_id", "people"),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        _id(),
        _column("project_id", sa.Integer),
        _column("purpose", sa.String(16)),
        _column("position", sa.Integer),
        _column("lane", sa.Integer),
        _column("key", sa.Text),
        _column("state", sa.String(16)),
        _column("withdrawn", sa.Boolean),
        _column("wanted", sa.Integer),
        _column("taken", sa.Integer),
        _column("labels", sa.Integer),
        _column("skips", sa.Integer),
        _column("reply_count", sa.Integer),
        _column("prompt", sa.JSON, null=True),
        _column("prompt_hash", sa.String(64)),
        _column("style", sa.String(16)),
        _column("brief", sa.Text),
        _column("response", sa.Text, null=True),
        _column("explanation", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("project_id", "purpose", "key", name="uq_tasks_project_id_purpose_key"),
        _refers("tasks", "project_id", "projects"),
    )
    op.create_index("ix_tasks_queue", "tasks", ["project_id", "purpose", "state", "lane", "position"])
    op.create_index("ix_tasks_project_id_prompt_hash", "tasks", ["project_id", "prompt_hash"])
    op.create_table(
        "replies",
        _id(),
        _column("task_id", sa.Integer),
        _column("position", sa.Integer),
        _column("text", sa.Text),
        _column("model", sa.Text, null=True),
        _column("known_rank", sa.Integer, null=True),
        _column("known_rating", sa.Double, null=True),
        _column("known_flags", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_replies"),
        sa.UniqueConstraint("task_id", "position", name="uq_replies_task_id_position"),
        _refers("replies", "task_id", "tasks"),
    )


def _work() -> None:
    op.create_table(
        "assignments",
        _id(),
        _column("task_id", sa.Integer),
        _column("project_id", sa.Integer),
        _column("person_id", sa.Integer),
        _column("purpose", sa.String(16)),
        _column("round", sa.Integer),
        _column("state", sa.String(16)),
        _column("token", sa.String(64)),
        _column("shown", sa.JSON),
        _column("leased_at", sa.Double),
        _column("expires_at", sa.Double, null=True),
        _column("finished_at", sa.Double, null=True),
        _column("skip_reason", sa.Text, null=True),
        _column("skip_note", sa.Text, null=True),
        _column("draft", sa.JSON, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_assignments"),
        sa.UniqueConstraint("task_id", "person_id", "round", name="uq_assignments_task_id_person_id_round"),
        sa.UniqueConstraint("token", name="uq_assignments_token"),
        *[_refers("assignments", f"{one}_id", many) for one, many in _OWNERS],
    )
    where: dict[str, Any] = {"sqlite_where": LEASED, "postgresql_where": LEASED}
    op.create_index(
        "ix_assignments_one_lease", "assignments", ["person_id", "project_id"], unique=True, **where
    )
    op.create_index("ix_assignments_expiry", "assignments", ["expires_at"], **where)
    op.create_index("ix_assignments_project_id_state", "assignments", ["project_id", "state"])
    op.create_table(
        "labels",
        _id(),
        _column("assignment_id", sa.Integer),
        _column("revision", sa.Integer),
        _column("latest", sa.Boolean),
        _column("project_id", sa.Integer),
        _column("task_id", sa.Integer),
        _column("person_id", sa.Integer),
        _column("purpose", sa.String(16)),
        _column("token", sa.String(64)),
        _column("answer", sa.JSON),
        _column("digest", sa.String(64)),
        _column("submitted_at", sa.Double),
        _column("seconds", sa.Double),
        _column("active_seconds", sa.Double, null=True),
        _column("rejected_at", sa.Double, null=True),
        _column("reject_reason", sa.Text, null=True),
        _column("score", sa.Double, null=True),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
        sa.UniqueConstraint("assignment_id", "revision", name="uq_labels_assignment_id_revision"),
        sa.UniqueConstraint("token", name="uq_labels_token"),
        _refers("labels", "assignment_id", "assignments"),
        *[_refers("labels", f"{one}_id", many) for one, many in _OWNERS],
    )
    op.create_index(
        "ix_labels_project_id_purpose_latest_id", "labels", ["project_id", "purpose", "latest", "id"]
    )
    op.create_index("ix_labels_person_id_project_id_id", "labels", ["person_id", "project_id", "id"])
    op.create_table(
        "audit",
        _id(),
        _column("at", sa.Double),
        _column("person_id", sa.Integer, null=True),
        _column("action", sa.String(32)),
        _column("project_id", sa.Integer, null=True),
        _column("subject", sa.Text),
        _column("detail", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_project_id_id", "audit", ["project_id", "id"])


_OWNERS = (("project", "projects"), ("task", "tasks"), ("person", "people"))
