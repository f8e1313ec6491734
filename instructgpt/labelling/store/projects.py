"""Projects: what is asked of labelers, how often, of whom; and where each labeler stands in them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.form import KINDS, MAX_TEXT, Kind, check_text
from instructgpt.labelling.store.leases import replies_needed
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.refusals import Conflict, Invalid, Problem
from instructgpt.labelling.store.tables import MemberRow, ProjectRow, TaskRow

Status = Literal["open", "paused", "closed"]
Screening = Literal["none", "pending", "grading", "passed", "failed"]
DAY = 86_400.0


@dataclass(frozen=True)
class ProjectSettings:
    """What an admin decides.

    Attributes:
        name: unique.
        kind: what labelers do; one kind a project.
        instructions: Markdown, shown beside each task.
        replies: K, how many replies a task shows, 2 to 9; always 2 where two are compared.
        overlap: how many labelers see each task, 1 to 100.
        quota, quota_per_day: labels of one labeler, in all and per UTC day; None is no limit.
        lease_minutes: how long a task stays in a labeler's hands without a sign of life.
        pass_mark: share of the screening test that must be right.
        everyone: whether all labelers are members; else only those added.
        seed, valid, test: of the export's split by user.
    """

    name: str
    kind: Kind
    instructions: str = ""
    replies: int = 4
    overlap: int = 1
    quota: int | None = None
    quota_per_day: int | None = None
    lease_minutes: float = 60.0
    pass_mark: float = 0.75
    everyone: bool = True
    seed: int = 0
    valid: float = 0.1
    test: float = 0.0


@dataclass(frozen=True)
class Project:
    """A project and how many tasks, screening tasks and onboarding examples it has."""

    id: int
    settings: ProjectSettings
    status: Status
    created_at: float
    tasks: int
    screening_tasks: int
    examples: int


@dataclass(frozen=True)
class Standing:
    """Where a person stands in a project.

    Attributes:
        screening: none if the project has no test.
        screening_done: answers given in the present round of the test.
        onboarded: has read the examples, or there are none.
        submitted, skipped, today: labels and skips in all, labels of this UTC day.
    """

    project: Project
    person: Person
    screening: Screening
    screening_score: float | None
    screening_done: int
    onboarded: bool
    submitted: int
    skipped: int
    today: int


def _checked(settings: ProjectSettings) -> dict[str, Any]:
    """The settings as columns.

    Raises:
        Invalid: each value that can't be.
    """
    problems = []

    def within(field: str, low: float, high: float, whole: bool = True) -> None:
        value = getattr(settings, field)
        kinds = (int,) if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not low <= value <= high:
            problems.append(
                Problem(field, f"is not a {'whole ' if whole else ''}number from {low:g} to {high:g}")
            )

    for field, limit in (("name", 100), ("instructions", MAX_TEXT)):
        try:
            check_text(getattr(settings, field), field, limit=limit, empty=field == "instructions")
        except Invalid as error:
            problems += error.problems
    if settings.kind not in KINDS:
        problems.append(Problem("kind", f"is none of {', '.join(KINDS)}"))
    if settings.kind == "compare" and settings.replies != 2:
        problems.append(Problem("replies", "must be 2 where two replies are compared"))
    within("replies", 2, 9)
    within("overlap", 1, 100)
    for field in ("quota", "quota_per_day"):
        if getattr(settings, field) is not None:
            within(field, 1, 10**6)
    within("lease_minutes", 1, 10_080, whole=False)
    for field in ("pass_mark", "valid", "test"):
        within(field, 0, 1, whole=False)
    within("seed", 0, 2**31 - 1)
    if not problems and not settings.valid + settings.test < 1:
        problems.append(Problem("valid", "with test leaves nothing to train on"))
    if problems:
        raise Invalid(problems)
    columns = asdict(settings)
    columns["name"] = settings.name.strip()
    columns["instructions"] = settings.instructions.replace("\r\n", "\n")
    return columns


def project_of(row: ProjectRow) -> Project:
    """The plain form of a row."""
    settings = ProjectSettings(
        **{field: getattr(row, field) for field in ProjectSettings.__dataclass_fields__}
    )
    return Project(
        row.id,
        settings,
        row.status,  # type: ignore[arg-type]  # only those of Status are written
        row.created_at,
        row.tasks,
        row.screening_tasks,
        row.examples,
    )


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except IntegrityError as error:
        raise Conflict(
            "name-taken", f"there is a project {name!r} already", cure="choose another name"
        ) from error


def create_project(store: Store, settings: ProjectSettings, *, by: int | None) -> Project:
    """A new project, open.

    Raises:
        Invalid, Conflict, Forbidden: a value can't be; the name is taken; `by` is not an admin.
    """
    columns = _checked(settings)
    now = store.clock()
    with store.write() as session:
        require(session, by, "admin")
        row = ProjectRow(**columns, status="open", created_at=now, tasks=0, screening_tasks=0, examples=0)
        session.add(row)
        _flush(session, settings.name)
        audit.record(session, now, by, "create-project", f"project {row.id}", row.id, name=row.name)
        return project_of(row)


def update_project(store: Store, project_id: int, settings: ProjectSettings, *, by: int | None) -> Project:
    """Other settings; K and overlap hold for all tasks at once. Labels that are there stay, also where they
    are more than the new overlap.

    Raises:
        Invalid, NotFound, Conflict, Forbidden: see `create_project`; the kind can't change once there are
            tasks.
    """
    columns = _checked(settings)
    now = store.clock()
    with store.write() as session:
        require(session, by, "admin")
        row = _locked(session, project_id)
        if settings.kind != row.kind and row.tasks + row.screening_tasks + row.examples:
            raise Invalid([Problem("kind", "can't change once there are tasks")])
        before = {name: getattr(row, name) for name in columns}
        for name, value in columns.items():
            setattr(row, name, value)
        _flush(session, settings.name)
        if (row.overlap, row.replies) != (before["overlap"], before["replies"]):
            _resettle(session, row)
        changed = {
            name: value for name, value in columns.items() if before[name] != value and name != "instructions"
        }
        if before["instructions"] != columns["instructions"]:
            changed["instructions"] = "changed"
        audit.record(session, now, by, "update-project", f"project {row.id}", row.id, **changed)
        return project_of(row)


def _locked(session: Session, project_id: int) -> ProjectRow:
    get(session, ProjectRow, project_id, "project")
    query = select(ProjectRow).where(ProjectRow.id == project_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _resettle(session: Session, project: ProjectRow) -> None:
    """Bring all tasks to the project's overlap and K."""
    state = case(
        (TaskRow.withdrawn, "withdrawn"),
        (TaskRow.reply_count < replies_needed(project), "waiting"),
        (TaskRow.taken >= project.overlap, "full"),
        else_="open",
    )
    # A labeler's next search begins at the front: tasks that were full may be open again. Members come before
    # tasks in the order of locks.
    session.execute(update(MemberRow).where(MemberRow.project_id == project.id).values(cursor=0))
    work = update(TaskRow).where(TaskRow.project_id == project.id, TaskRow.purpose == "work")
    session.execute(work.values(wanted=project.overlap, state=state, lane=1))


def set_status(store: Store, project_id: int, status: Status, *, by: int | None) -> Project:
    """Open, pause or close a project; tasks in labelers' hands may still be submitted.

    Raises:
        Invalid, NotFound, Forbidden: see `create_project`.
    """
    if status not in get_args(Status):
        raise Invalid([Problem("status", f"is none of {', '.join(get_args(Status))}")])
    with store.write() as session:
        require(session, by, "admin")
        row = _locked(session, project_id)
        row.status = status
        audit.record(session, store.clock(), by, "set-status", f"project {row.id}", row.id, status=status)
        return project_of(row)


def project(store: Store, project_id: int) -> Project:
    """
    Raises:
        NotFound: there is none with this id.
    """
    with store.read() as session:
        return project_of(get(session, ProjectRow, project_id, "project"))


def projects(store: Store) -> list[Project]:
    """All projects, newest first."""
    with store.read() as session:
        return [project_of(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.id.desc()))]
