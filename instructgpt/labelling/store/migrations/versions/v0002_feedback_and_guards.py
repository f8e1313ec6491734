"""Feedback from the serving side; triggers that keep the audit table and the labels as they were written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FIXED = (
    "assignment_id, revision, project_id, task_id, person_id, purpose, token, answer, digest, submitted_at"
)
"""Columns of a label that no statement may change."""


def upgrade() -> None:
    """Add the table and the triggers."""
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("replies", sa.JSON, nullable=False),
        sa.Column("ranks", sa.JSON, nullable=False),
        sa.Column("thumb", sa.String(8), nullable=True),
        sa.Column("edited", sa.Text, nullable=True),
        sa.Column("user_id", sa.Text, nullable=True),
        sa.Column("consent", sa.Boolean, nullable=False),
        sa.Column("withdrawn_at", sa.Double, nullable=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
        sa.UniqueConstraint("key", name="uq_feedback_key"),
    )
    op.create_index("ix_feedback_user_id", "feedback", ["user_id"])
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Not possible: feedback would be lost."""
    raise NotImplementedError("this migration can't be undone: copy the database instead")


def _guard_sqlite() -> None:
    for table, what in (
        ("audit", "UPDATE"),
        ("audit", "DELETE"),
        ("labels", f"UPDATE OF {FIXED}"),
        ("labels", "DELETE"),
    ):
        name = f"{table}_{what.split()[0].lower()}"
        op.execute(
            f"CREATE TRIGGER {name}_refused BEFORE {what} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed'); END"
        )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME; END $$"
    )
    for table, what in (("audit", "UPDATE OR DELETE"), ("labels", f"UPDATE OF {FIXED} OR DELETE")):
        op.execute(
            f"CREATE TRIGGER {table}_refused BEFORE {what} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_truncate_refused BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
