"""What labelers see: their projects, the next task, their own labels."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from instructgpt.labelling.app.answers import (
    LETTERS,
    MAX_TURNS,
    MOST_EXAMPLES,
    Unfinished,
    Values,
    draft_attribute,
    draft_of,
    example_count,
    fields_of,
    fields_of_draft,
    read_answer,
    turn_count,
)
from instructgpt.labelling.app.page import Form, Id, Member, Page, Posted
from instructgpt.labelling.store import form as forms
from instructgpt.labelling.store import members, projects, queue, screening
from instructgpt.labelling.store import submit as answers
from instructgpt.labelling.store.form import digest
from instructgpt.labelling.store.members import Standing
from instructgpt.labelling.store.queue import Lease
from instructgpt.labelling.store.refusals import Conflict, Forbidden, NotFound, QuotaReached, Refusal
from instructgpt.labelling.store.submit import MyLabel

router = APIRouter(include_in_schema=False)

_PAUSES = (Forbidden, QuotaReached, Conflict)
"""Refusals that are a state of the work, not a mistake: they get a page of their own."""


@router.get("/")
def home(page: Member) -> Response:
    """The projects that this person works on."""
    return page.render("home.html", standings=members.projects_for(page.store, page.me))


@router.get("/projects/{project_id}/work")
def work(project_id: Id, page: Member) -> Response:
    """Take the next task, or go on with the one that was taken."""
    try:
        lease = queue.next_task(page.store, page.me, project_id)
    except _PAUSES as refusal:
        if refusal.code == "onboarding-first":
            return page.go(f"/projects/{project_id}/examples")
        return _pause(page, project_id, refusal)
    if lease is None:
        return _pause(page, project_id, None)
    return page.go(f"/tasks/{lease.assignment_id}")


def _pause(page: Page, project_id: int, refusal: Refusal | None) -> Response:
    standing = _standing(page, project_id)
    code = refusal.code if refusal else "nothing-left"
    status = refusal.status if isinstance(refusal, Forbidden) else 200
    return page.render(
        "pause.html", status, standing=standing, code=code, what=refusal.what if refusal else ""
    )


def _standing(page: Page, project_id: int) -> Standing:
    for standing in members.projects_for(page.store, page.me):
        if standing.project.id == project_id:
            return standing
    raise NotFound("there is no such project")


@router.get("/projects/{project_id}/examples")
def examples(project_id: Id, page: Member) -> Response:
    """Worked examples to read before the first task."""
    found = screening.onboarding(page.store, page.me, project_id)
    return page.render("examples.html", standing=_standing(page, project_id), examples=found, letters=LETTERS)


@router.post("/projects/{project_id}/examples")
def examples_read(project_id: Id, page: Member, form: Form) -> Response:
    """They were read; work begins."""
    screening.finish_onboarding(page.store, page.me, project_id)
    return page.go(f"/projects/{project_id}/work")


@router.get("/tasks/{assignment_id}")
def task(assignment_id: Id, page: Member) -> Response:
    """The form of a task that this person holds."""
    try:
        lease = queue.lease(page.store, page.me, assignment_id)
    except NotFound:
        # Reloading what was submitted just now shows it; anything else of others is not there.
        label = answers.my_label(page.store, page.me, assignment_id)
        return page.go(f"/mine/{label.assignment_id}")
    return _task_page(page, lease, fields_of_draft(lease.draft))


def _task_page(
    page: Page, lease: Lease, values: Values, problems: list[str] | None = None, status: int = 200
) -> Response:
    project = projects.project(page.store, lease.project_id)
    return page.render(
        f"task_{'write' if lease.kind in ('demonstration', 'prompt') else lease.kind}.html",
        status,
        project=project,
        kind=lease.kind,
        lease=lease,
        messages=lease.messages,
        replies=lease.replies,
        style=lease.style,
        brief=lease.brief,
        category=lease.category,
        action=f"/tasks/{lease.assignment_id}",
        token=lease.token,
        draft_key=f"{page.me}-{lease.assignment_id}",
        other_kept=False,
        server_draft=draft_attribute(lease.draft),
        problems=problems or [],
        **_choices(values),
    )


def _choices(values: Values) -> dict[str, Any]:
    return {
        "values": values,
        "letters": LETTERS,
        "reply_flags": forms.REPLY_FLAGS,
        "prompt_flags": forms.PROMPT_FLAGS,
        "skip_reasons": forms.SKIP_REASONS,
        "turns": turn_count(values),
        "shots": example_count(values),
    }


@router.post("/tasks/{assignment_id}")
def submit(assignment_id: Id, page: Member, form: Form) -> Response:
    """Store the answer; sent twice it is one record."""
    lease = _held(page, assignment_id, form)
    if isinstance(lease, Response):
        return lease
    if form.line("action") in ("more", "fewer"):
        return _other_length(page, lease, form)
    try:
        answer = read_answer(lease.kind, lease.style, lease.replies, form, page.t)
    except Unfinished as unfinished:
        if page.wants_json:
            return _problems(page, unfinished)
        return _task_page(page, lease, form.values(), unfinished.problems, 422)
    answers.submit(page.store, page.me, form.line("token"), answer, active_seconds=_seconds(form))
    return page.go(f"/projects/{lease.project_id}/work")


def _held(page: Page, assignment_id: int, form: Posted) -> Lease | Response:
    """The lease of a posted form; where the task is submitted already, the way on."""
    try:
        lease = queue.lease(page.store, page.me, assignment_id)
    except NotFound:
        return _submitted_before(page, answers.my_label(page.store, page.me, assignment_id), form)
    if form.line("token") != lease.token:
        raise NotFound("there is no such task")
    return lease


def _submitted_before(page: Page, label: MyLabel, form: Posted) -> Response:
    """After a second click the next task; if another tab has sent another answer, that one."""
    try:
        posted = read_answer(label.kind, _style(label), label.replies, form, page.t)
        same = digest(posted) == digest(label.answer)
    except Unfinished:
        same = False
    if same:
        return page.go(f"/projects/{label.project_id}/work")
    return page.go(f"/mine/{label.assignment_id}", other="1")


def _style(label: MyLabel) -> forms.PromptStyle:
    """The style of a prompt that was written."""
    examples = isinstance(label.answer, forms.PromptAnswer) and label.answer.examples
    return "few-shot" if examples else "user-based" if label.brief else "plain"


def _problems(page: Page, unfinished: Unfinished) -> Response:
    return page.finish(JSONResponse({"problems": unfinished.problems}, 422))


def _seconds(form: Posted) -> float | None:
    text = form.line("seconds")
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 8 else None


def _longer(values: Values, kind: str, more: bool) -> Values:
    """The same fields with one turn or example more or less."""
    if kind == "demonstration":
        count = turn_count(values) + (2 if more else -2)
        names = [f"turn-{i}" for i in range(max(1, min(count, MAX_TURNS)))]
        parts: tuple[str, ...] = ("turn-",)
    else:
        count = max(2, min(example_count(values) + (1 if more else -1), MOST_EXAMPLES))
        names = [f"{part}-{i}" for i in range(count) for part in ("query", "response")]
        parts = ("query-", "response-")
    kept = {name: texts for name, texts in values.items() if not name.startswith(parts)}
    return kept | {name: values.get(name, [""]) for name in names}


def _other_length(page: Page, lease: Lease, form: Posted) -> Response:
    values = _longer(form.values(), lease.kind, form.line("action") == "more")
    draft = draft_of(Posted([(k, v) for k, vs in values.items() for v in vs], {}), page.store.clock())
    queue.save_draft(page.store, page.me, lease.token, draft)
    return page.go(f"/tasks/{lease.assignment_id}")


@router.post("/tasks/{assignment_id}/skip")
def skip(assignment_id: Id, page: Member, form: Form) -> Response:
    """Give the task back for good, with a reason."""
    reason, project = form.line("reason"), form.line("project")
    if reason not in forms.SKIP_REASONS:
        lease = queue.lease(page.store, page.me, assignment_id)
        return _task_page(page, lease, fields_of_draft(lease.draft), [page.t("problem.reason")], 422)
    answers.skip(page.store, page.me, form.line("token"), reason, form.line("skip_note")[: forms.MAX_NOTE])
    known = project.isascii() and project.isdecimal() and len(project) < 10
    return page.go(f"/projects/{project}/work" if known else "/")


@router.get("/projects/{project_id}/mine")
def mine(project_id: Id, page: Member, before: int | None = None) -> Response:
    """What this person has labelled in a project."""
    before_id = before if before is not None and 0 < before < 2**31 else None
    labels = answers.my_labels(page.store, page.me, project_id, before_id=before_id, limit=30)
    return page.render("mine.html", standing=_standing(page, project_id), labels=labels)


@router.get("/mine/{assignment_id}")
def my_label(assignment_id: Id, page: Member) -> Response:
    """The form again, filled with what was submitted."""
    label = answers.my_label(page.store, page.me, assignment_id)
    return _revise_page(page, label, fields_of(label.answer), answers.edit_form())


def _revise_page(
    page: Page,
    label: MyLabel,
    values: Values,
    token: str,
    problems: list[str] | None = None,
    status: int = 200,
) -> Response:
    return page.render(
        f"task_{'write' if label.kind in ('demonstration', 'prompt') else label.kind}.html",
        status,
        project=projects.project(page.store, label.project_id),
        kind=label.kind,
        lease=None,
        messages=label.messages,
        replies=label.replies,
        style=_style(label),
        brief=label.brief,
        category=None,
        action=f"/mine/{label.assignment_id}",
        token=token,
        draft_key=f"{page.me}-{label.assignment_id}-{label.revision}",
        other_kept="other" in page.request.query_params,
        server_draft="",
        problems=problems or [],
        **_choices(values),
    )


@router.post("/mine/{assignment_id}")
def revise(assignment_id: Id, page: Member, form: Form) -> Response:
    """Replace one's own answer; the old one is kept beside it."""
    label = answers.my_label(page.store, page.me, assignment_id)
    token = form.line("token")[:64]
    if form.line("action") in ("more", "fewer"):
        values = _longer(form.values(), label.kind, form.line("action") == "more")
        return _revise_page(page, label, values, token)
    try:
        answer = read_answer(label.kind, _style(label), label.replies, form, page.t)
    except Unfinished as unfinished:
        if page.wants_json:
            return _problems(page, unfinished)
        return _revise_page(page, label, form.values(), token, unfinished.problems, 422)
    answers.revise(page.store, page.me, assignment_id, answer, token=token)
    return page.go(f"/projects/{label.project_id}/mine")
