"""Numbers for the dashboard: how far a project is, who does how much, and how long a task takes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from sqlalchemy import Integer, Select, cast, func, select
from sqlalchemy.orm import Session

from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.members import members
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.projects import Screening
from instructgpt.labelling.store.tables import AssignmentRow, LabelRow, ProjectRow, TaskRow

STUCK_SKIPS = 3
NEWEST = 20_000
BUCKETS = {"hour": 3_600, "day": 86_400}


@dataclass(frozen=True)
class Progress:
    """Counts of a project's work tasks and labels.

    Attributes:
        waiting, open, full, withdrawn: tasks by state; together they are `tasks`.
        wanted_labels: overlap times tasks that are not withdrawn.
        labels: that count, so without the rejected.
        leased, skipped, rejected: leases that run; skips and rejections in all.
        finished_tasks: whose overlap is met.
        stuck_tasks: that are open although three or more have skipped them.
    """

    tasks: int
    waiting: int
    open: int
    full: int
    withdrawn: int
    wanted_labels: int
    labels: int
    leased: int
    skipped: int
    rejected: int
    finished_tasks: int
    stuck_tasks: int


def progress(store: Store, project_id: int, *, by: int | None) -> Progress:
    """
    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    counts = (
        func.count(),
        func.sum(TaskRow.wanted),
        func.sum(TaskRow.labels),
        func.sum(TaskRow.skips),
        func.sum(cast(TaskRow.labels >= TaskRow.wanted, Integer)),
        func.sum(cast(TaskRow.skips >= STUCK_SKIPS, Integer)),
    )
    query = select(TaskRow.state, *counts).where(TaskRow.project_id == project_id, TaskRow.purpose == "work")
    with store.read() as session:
        require(session, by, "reviewer")
        get(session, ProjectRow, project_id, "project")
        found = {state: numbers for state, *numbers in session.execute(query.group_by(TaskRow.state))}
        leased = _count(
            session, AssignmentRow.id, AssignmentRow.project_id == project_id, AssignmentRow.state == "leased"
        )
        rejected = _count(
            session, LabelRow.id, LabelRow.project_id == project_id, LabelRow.rejected_at.is_not(None)
        )
    empty = [0] * len(counts)
    states = {state: found.get(state, empty) for state in ("waiting", "open", "full", "withdrawn")}
    sums = [sum(numbers[place] for numbers in states.values()) for place in range(len(counts))]
    return Progress(
        tasks=sums[0],
        waiting=states["waiting"][0],
        open=states["open"][0],
        full=states["full"][0],
        withdrawn=states["withdrawn"][0],
        wanted_labels=sums[1] - states["withdrawn"][1],
        labels=sums[2],
        leased=leased,
        skipped=sums[3],
        rejected=rejected,
        finished_tasks=sums[4],
        stuck_tasks=states["open"][5],
    )


def _count(session: Session, column: object, *where: object) -> int:
    return session.scalar(select(func.count(column)).where(*where)) or 0  # type: ignore[arg-type]


@dataclass(frozen=True)
class LabelerProgress:
    """One labeler's share; `median_seconds` is of the time that the page measured, else of lease to
    submit."""

    person: Person
    labels: int
    skips: int
    leased: int
    median_seconds: float | None
    last_at: float | None
    screening: Screening
    screening_score: float | None


def labeler_progress(store: Store, project_id: int, *, by: int | None) -> list[LabelerProgress]:
    """Everybody who may work in a project or has, by name.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    standings = members(store, project_id, by=by)
    with store.read() as session:
        seconds: dict[int, list[float]] = {}
        for person_id, value in session.execute(_times(project_id, LabelRow.person_id)):
            seconds.setdefault(person_id, []).append(value)
        last = select(LabelRow.person_id, func.max(LabelRow.submitted_at)).where(
            LabelRow.project_id == project_id
        )
        last_at = {person_id: at for person_id, at in session.execute(last.group_by(LabelRow.person_id))}
        held = select(AssignmentRow.person_id).where(
            AssignmentRow.project_id == project_id, AssignmentRow.state == "leased"
        )
        leased = set(session.scalars(held))
    return [
        LabelerProgress(
            one.person,
            one.submitted,
            one.skipped,
            int(one.person.id in leased),
            median(seconds[one.person.id]) if one.person.id in seconds else None,
            last_at.get(one.person.id),
            one.screening,
            one.screening_score,
        )
        for one in standings
    ]


def _times(project_id: int, *columns: Any) -> Select[Any]:
    """Seconds of the newest labels, behind other columns."""
    time = func.coalesce(LabelRow.active_seconds, LabelRow.seconds)
    query = select(*columns, time).where(
        LabelRow.project_id == project_id, LabelRow.purpose == "work", LabelRow.latest
    )
    return query.order_by(LabelRow.id.desc()).limit(NEWEST)


def seconds_per_task(store: Store, project_id: int, *, by: int | None) -> list[float]:
    """Seconds of the newest 20,000 labels: as the page measured them, else from lease to submit.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        get(session, ProjectRow, project_id, "project")
        return list(session.scalars(_times(project_id)))


@dataclass(frozen=True)
class Bucket:
    """Labels of one person in the hour or day (UTC) that begins at `start`."""

    start: float
    person_id: int
    labels: int


def throughput(
    store: Store,
    project_id: int,
    *,
    by: int | None,
    bucket: Literal["hour", "day"] = "day",
    since: float = 0.0,
) -> list[Bucket]:
    """How many labels each person gave, in order of time; buckets without any are left out.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    size = BUCKETS[bucket]
    with store.read() as session:
        require(session, by, "reviewer")
        get(session, ProjectRow, project_id, "project")
        # The middle of a bucket: PostgreSQL's cast rounds and SQLite's cuts, and here both give the same.
        place = cast(func.round((LabelRow.submitted_at - size / 2) / size), Integer)
        query = select(place, LabelRow.person_id, func.count()).where(
            LabelRow.project_id == project_id,
            LabelRow.purpose == "work",
            LabelRow.latest,
            LabelRow.submitted_at >= since,
        )
        rows = session.execute(query.group_by(place, LabelRow.person_id).order_by(place, LabelRow.person_id))
        return [Bucket(float(start * size), person_id, count) for start, person_id, count in rows]


def skip_reasons(store: Store, project_id: int, *, by: int | None) -> dict[str, int]:
    """How often each reason to skip was given.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        get(session, ProjectRow, project_id, "project")
        query = select(AssignmentRow.skip_reason, func.count()).where(
            AssignmentRow.project_id == project_id, AssignmentRow.state == "skipped"
        )
        return {
            reason or "other": count
            for reason, count in session.execute(query.group_by(AssignmentRow.skip_reason))
        }
