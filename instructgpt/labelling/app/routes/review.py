"""Reviewers look through labels, reject them, and grade written screening answers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from instructgpt.labelling.app.answers import LETTERS
from instructgpt.labelling.app.page import Form, Id, Page, Reviewer
from instructgpt.labelling.store import projects, review, screening, tasks
from instructgpt.labelling.store.refusals import Conflict, NotFound
from instructgpt.labelling.store.review import LabelRecord

router = APIRouter(include_in_schema=False, prefix="/admin")

PURPOSES = ("work", "screening")
PAGE_LABELS = 30


@router.get("/projects/{project_id}/labels")
def label_list(project_id: Id, page: Reviewer, after: int = 0, purpose: str = "work") -> Response:
    """The labels of a project, oldest first."""
    project = projects.project(page.store, project_id)
    shown = purpose if purpose in PURPOSES else "work"
    rows = review.labels(
        page.store,
        project_id,
        by=page.me,
        purpose=shown,
        include_excluded=True,
        include_rejected=True,
        after_id=after if 0 <= after < 2**31 else 0,
        limit=PAGE_LABELS + 1,
    )
    return page.render(
        "admin/labels.html",
        project=project,
        rows=rows[:PAGE_LABELS],
        more=len(rows) > PAGE_LABELS,
        purpose=shown,
        letters=LETTERS,
    )


def _row(page: Page, project_id: int, label_id: int) -> LabelRecord:
    found = review.labels(
        page.store,
        project_id,
        by=page.me,
        purpose=None,
        include_excluded=True,
        include_rejected=True,
        after_id=label_id - 1,
        limit=1,
    )
    if not found or found[0].label_id != label_id:
        raise NotFound("there is no such label")
    return found[0]


@router.get("/projects/{project_id}/labels/{label_id}")
def label_page(project_id: Id, label_id: Id, page: Reviewer) -> Response:
    """One label beside its prompt and replies."""
    row = _row(page, project_id, label_id)
    score = None
    if row.purpose == "screening":
        answers = screening.screening_answers(page.store, project_id, row.person_id, by=page.me)
        score = next((answer.score for answer in answers if answer.label_id == label_id), None)
    return page.render(
        "admin/label.html",
        project=projects.project(page.store, project_id),
        row=row,
        task=tasks.task(page.store, row.task_id, by=page.me),
        letters=LETTERS,
        score=score,
    )


@router.post("/projects/{project_id}/labels/{label_id}")
def judge(project_id: Id, label_id: Id, page: Reviewer, form: Form) -> Response:
    """Reject a label, take it back, or grade it."""
    row = _row(page, project_id, label_id)
    action = form.line("action")
    try:
        if action in ("reject", "restore"):
            reason = form.line("reason")[:500]
            review.set_rejected(page.store, row.label_id, action == "reject", by=page.me, reason=reason)
        elif action == "grade":
            screening.grade(page.store, row.label_id, _share(form.line("score")), by=page.me)
    except Conflict as refusal:
        return page.render("error.html", refusal.status, code=refusal.code, what=refusal.what)
    return page.go(f"/admin/projects/{project_id}/labels/{label_id}")


def _share(text: str) -> float:
    """A grade of 0 to 100 per cent as a share; what is no number is none."""
    percent = float(text) if text.isascii() and text.isdecimal() and len(text) < 5 else 0.0
    return min(percent, 100.0) / 100
