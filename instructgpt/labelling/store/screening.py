"""The screening test before real work (paper, App. B): tasks with known answers and a pass mark; and the
examples that are read before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import labeler, require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.form import (
    REPLY_FLAGS,
    Answer,
    CompareAnswer,
    Judgement,
    RankAnswer,
    answer_from_json,
)
from instructgpt.labelling.store.members import locked_member
from instructgpt.labelling.store.refusals import Invalid, Problem
from instructgpt.labelling.store.tables import (
    AssignmentRow,
    LabelRow,
    MemberRow,
    PersonRow,
    ProjectRow,
    ReplyRow,
    TaskRow,
)
from instructgpt.labelling.store.tasks import StoredTask, stored_task


@dataclass(frozen=True)
class ScreeningAnswer:
    """An answer of the test; `score` is None until a reviewer has graded what was written."""

    label_id: int
    task: StoredTask
    answer: Answer
    score: float | None


def order_score(known: Sequence[int], given: Sequence[int]) -> float:
    """Share of the pairs that the known ranks (K,) order which the given ranks (K,) order the same; a tie
    counts one half. 1 if the known ranks are all equal and order nothing."""
    right = pairs = 0.0
    for i, j in combinations(range(len(known)), 2):
        if known[i] == known[j]:
            continue
        pairs += 1
        if given[i] == given[j]:
            right += 0.5
        elif (known[i] < known[j]) == (given[i] < given[j]):
            right += 1
    return right / pairs if pairs else 1.0


def flag_score(known: Sequence[Sequence[str]], given: Sequence[Sequence[str]]) -> float:
    """Share of the cells (reply, flag) in which the marks agree."""
    cells = [(flag in a) == (flag in b) for a, b in zip(known, given, strict=True) for flag in REPLY_FLAGS]
    return sum(cells) / len(cells)


def score_of(session: Session, task: TaskRow, answer: Answer) -> float | None:
    """Score in 0..1 of a stored answer against the known one: that of the order, or the mean of it and that
    of the flags where some are known. None where a reviewer has to grade."""
    if not isinstance(answer, RankAnswer | CompareAnswer):
        return None
    query = select(ReplyRow).where(ReplyRow.task_id == task.id)
    replies = {str(row.position): row for row in session.scalars(query)}
    pairs: list[tuple[ReplyRow, Judgement]] = [(replies[one.reply], one) for one in answer.judgements]
    ranks = [row.known_rank for row, _ in pairs if row.known_rank is not None]
    if len(ranks) < len(pairs):
        return None
    order = order_score(ranks, [one.rank for _, one in pairs])
    known_flags = [row.known_flags for row, _ in pairs]
    if not any(known_flags):
        return order
    return (order + flag_score(known_flags, [one.flags for _, one in pairs])) / 2


def after_answer(session: Session, project: ProjectRow, member: MemberRow, now: float) -> None:
    """Count an answer of the test, and decide if it was the last."""
    member.screening_done += 1
    decide(session, project, member, now)


def _round_labels(session: Session, member: MemberRow) -> Sequence[LabelRow]:
    query = (
        select(LabelRow)
        .join(AssignmentRow, AssignmentRow.id == LabelRow.assignment_id)
        .where(
            LabelRow.person_id == member.person_id,
            LabelRow.project_id == member.project_id,
            LabelRow.purpose == "screening",
            AssignmentRow.round == member.screening_round,
        )
    )
    return session.scalars(query.order_by(LabelRow.id)).all()


def decide(session: Session, project: ProjectRow, member: MemberRow, now: float) -> bool:
    """Set where a member stands if they have answered all tasks of the test; whether they have."""
    labels = _round_labels(session, member)
    answered = {label.task_id for label in labels}
    asked = select(TaskRow.id).where(
        TaskRow.project_id == project.id, TaskRow.purpose == "screening", TaskRow.state == "open"
    )
    if not set(session.scalars(asked)) <= answered:
        return False
    scores = [label.score for label in labels if label.score is not None]
    if len(scores) < len(labels):
        member.screening = "grading"
    else:
        member.screening_score = math.fsum(scores) / len(scores)
        # The mean of exact marks must not fail by the last bit of a float.
        member.screening = "passed" if member.screening_score >= project.pass_mark - 1e-9 else "failed"
    audit.record(
        session,
        now,
        None,
        f"screening-{member.screening}",
        f"person {member.person_id}",
        project.id,
        score=member.screening_score,
    )
    return True


def grade(store: Store, label_id: int, score: float, *, by: int | None) -> None:
    """A reviewer's mark, 0 to 1, for a written answer of the test; the last one decides.

    Raises:
        Invalid: not a number from 0 to 1, or not an answer of the test.
        NotFound, Forbidden: there is no such label; `by` is a labeler, or grades their own answer.
    """
    if not 0 <= score <= 1:
        raise Invalid([Problem("score", "is not a number from 0 to 1")])
    now = store.clock()
    with store.write() as session:
        require(session, by, "reviewer")
        label = get(session, LabelRow, label_id, "label")
        if label.purpose != "screening" or label.person_id == by:
            raise Invalid([Problem("", "only answers of other people's tests are graded")])
        project, person = (
            session.get_one(ProjectRow, label.project_id),
            session.get_one(PersonRow, label.person_id),
        )
        member = locked_member(session, project, person)
        label.score = float(score)
        session.flush()
        audit.record(session, now, by, "grade", f"label {label.id}", project.id, score=score)
        if member.screening in ("grading", "passed", "failed") and label in _round_labels(session, member):
            decide(session, project, member, now)


def set_screening(
    store: Store,
    project_id: int,
    person_id: int,
    state: Literal["pending", "passed", "failed"],
    *,
    by: int | None,
) -> None:
    """Decide about a person's test by hand; "pending" lets them take it again from the start.

    Raises:
        Invalid, NotFound, Forbidden: another state; no such project or person; `by` is a labeler.
    """
    if state not in ("pending", "passed", "failed"):
        raise Invalid([Problem("state", "is none of pending, passed, failed")])
    now = store.clock()
    with store.write() as session:
        require(session, by, "reviewer")
        project = get(session, ProjectRow, project_id, "project")
        member = locked_member(session, project, get(session, PersonRow, person_id, "person"))
        member.screening = state
        if state == "pending":
            member.screening_round += 1
            member.screening_done, member.screening_score = 0, None
            held = select(AssignmentRow).where(
                AssignmentRow.person_id == person_id,
                AssignmentRow.project_id == project_id,
                AssignmentRow.purpose == "screening",
                AssignmentRow.state == "leased",
            )
            for one in session.scalars(held.with_for_update()):
                one.state, one.finished_at = "released", now
        audit.record(session, now, by, "set-screening", f"person {person_id}", project_id, state=state)


def screening_answers(
    store: Store, project_id: int, person_id: int, *, by: int | None
) -> list[ScreeningAnswer]:
    """A person's answers of the present round, beside the known ones.

    Raises:
        NotFound, Forbidden: no such project or person; `by` is a labeler.
    """
    with store.read() as session:
        require(session, by, "reviewer")
        project = get(session, ProjectRow, project_id, "project")
        get(session, PersonRow, person_id, "person")
        member = session.get(MemberRow, (project_id, person_id))
        if member is None:
            return []
        found = []
        for label in _round_labels(session, member):
            answer = answer_from_json(project.kind, label.answer)  # type: ignore[arg-type]
            task = stored_task(session, session.get_one(TaskRow, label.task_id))
            found.append(ScreeningAnswer(label.id, task, answer, label.score))
        return found


# -- examples to read before


def onboarding(store: Store, person_id: int, project_id: int) -> list[StoredTask]:
    """The examples of a project with their answers; models are left blank.

    Raises:
        NotFound, Forbidden: the project is not there or not open to them; the account is not active.
    """
    with store.write() as session:  # may be this person's first contact
        project = get(session, ProjectRow, project_id, "project")
        locked_member(session, project, labeler(session, person_id))
        query = select(TaskRow).where(
            TaskRow.project_id == project_id, TaskRow.purpose == "onboarding", TaskRow.state != "withdrawn"
        )
        rows = session.scalars(query.order_by(TaskRow.position)).all()
        return [stored_task(session, row, blind=True) for row in rows]


def finish_onboarding(store: Store, person_id: int, project_id: int) -> None:
    """The person has read the examples.

    Raises:
        NotFound, Forbidden: see `onboarding`.
    """
    now = store.clock()
    with store.write() as session:
        project = get(session, ProjectRow, project_id, "project")
        member = locked_member(session, project, labeler(session, person_id))
        if member.onboarded_at is None:
            member.onboarded_at = now
            audit.record(session, now, person_id, "onboarded", f"project {project_id}", project_id)
