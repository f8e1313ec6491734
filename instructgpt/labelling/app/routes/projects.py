"""Administrators make and set up projects, and see how they go."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from instructgpt.labelling.app import plots
from instructgpt.labelling.app.page import Admin, Form, Id, Page, Posted, Reviewer
from instructgpt.labelling.app.quality_page import agreement_sections
from instructgpt.labelling.store import form as forms
from instructgpt.labelling.store import people, progress, projects
from instructgpt.labelling.store.projects import Project, ProjectSettings
from instructgpt.labelling.store.refusals import Conflict, Invalid

router = APIRouter(include_in_schema=False, prefix="/admin")

STATUSES = ("open", "paused", "closed")
_WHOLE = {"replies": 4, "overlap": 1, "quota": None, "quota_per_day": None}
_SHARES = {"pass_mark": 0.75, "valid": 0.1, "test": 0.0}
_DAYS = 60
"""How far back the plot of labels a day goes."""


@router.get("")
def overview(page: Reviewer) -> Response:
    """All projects."""
    rows = [
        (project, progress.progress(page.store, project.id, by=page.me))
        for project in projects.projects(page.store)
    ]
    return page.render("admin/overview.html", rows=rows)


@router.get("/new")
def new_project(page: Admin) -> Response:
    """The form of a new project."""
    return _settings_page(page, None, settings_fields(ProjectSettings(name="", kind="rank")))


@router.post("/new")
def create_project(page: Admin, form: Form) -> Response:
    """Make it, or show the instructions as labelers will see them."""
    if form.line("action") == "preview":
        return _settings_page(page, None, form.values(), preview=True)
    settings, problems = read_settings(page, form, None)
    if settings is not None:
        try:
            project = projects.create_project(page.store, settings, by=page.me)
            return page.go(f"/admin/projects/{project.id}/tasks")
        except (Invalid, Conflict) as refusal:
            problems = _problems(page, refusal)
    return _settings_page(page, None, form.values(), problems, 422)


def _problems(page: Page, refusal: Invalid | Conflict) -> list[str]:
    if isinstance(refusal, Invalid):
        return [f"{problem.field}: {problem.what}" for problem in refusal.problems]
    code = f"error.{refusal.code}"
    return [page.t(code) if page.t.has(code) else str(refusal)]


@router.get("/projects/{project_id}/settings")
def settings_page(project_id: Id, page: Admin) -> Response:
    """The same form for a project that is there."""
    project = projects.project(page.store, project_id)
    return _settings_page(page, project, settings_fields(project.settings))


@router.post("/projects/{project_id}/settings")
def change_settings(project_id: Id, page: Admin, form: Form) -> Response:
    """Change a project."""
    project = projects.project(page.store, project_id)
    if form.line("action") == "preview":
        return _settings_page(page, project, form.values(), preview=True)
    settings, problems = read_settings(page, form, project)
    if settings is not None:
        try:
            projects.update_project(page.store, project_id, settings, by=page.me)
            return page.go(f"/admin/projects/{project_id}/settings", saved="1")
        except (Invalid, Conflict) as refusal:
            problems = _problems(page, refusal)
    return _settings_page(page, project, form.values(), problems, 422)


@router.post("/projects/{project_id}/status")
def change_status(project_id: Id, page: Admin, form: Form) -> Response:
    """Open, pause or close a project."""
    status = form.line("status")
    if status in STATUSES:
        projects.set_status(page.store, project_id, status, by=page.me)  # type: ignore[arg-type]
    return page.go(f"/admin/projects/{project_id}/settings", saved="1")


def _settings_page(
    page: Page,
    project: Project | None,
    values: dict[str, list[str]],
    problems: list[str] | None = None,
    status: int = 200,
    *,
    preview: bool = False,
) -> Response:
    return page.render(
        "admin/settings.html",
        status,
        project=project,
        values=values,
        kinds=forms.KINDS,
        statuses=STATUSES,
        problems=problems or [],
        preview=preview,
        saved="saved" in page.request.query_params,
    )


def settings_fields(settings: ProjectSettings) -> dict[str, list[str]]:
    """The fields of the settings form that mean these settings."""
    found: dict[str, list[str]] = {}
    for name in ("name", "kind", "instructions", "lease_minutes", *_WHOLE, *_SHARES):
        value = getattr(settings, name)
        found[name] = ["" if value is None else f"{value:g}" if isinstance(value, float) else str(value)]
    found["everyone"] = ["1"] if settings.everyone else []
    return found


def read_settings(
    page: Page, form: Posted, project: Project | None
) -> tuple[ProjectSettings | None, list[str]]:
    """The settings that the form means, or what is wrong with it in the reader's language."""
    problems: list[str] = []
    values: dict[str, Any] = {
        "name": form.line("name"),
        "instructions": form.text("instructions"),
        "everyone": form.on("everyone"),
    }
    wanted = form.line("kind") or (project.settings.kind if project else "")
    kind = next((name for name in forms.KINDS if name == wanted), None)
    if kind is None:
        problems.append(page.t("problem.kind"))
    if not values["name"] or len(values["name"]) > 200:
        problems.append(page.t("problem.project-name"))
    for name, default in (*_WHOLE.items(), *_SHARES.items(), ("lease_minutes", 60.0)):
        text = form.line(name)
        number = _number(text, whole=name in _WHOLE)
        if text and number is None:
            problems.append(page.t("problem.number", field=page.t(f"settings.{name}")))
        values[name] = number if text else default
    if kind == "compare":
        values["replies"] = 2
    if kind is None or problems:
        return None, problems
    base = project.settings if project else ProjectSettings(name=values["name"], kind=kind)
    return replace(base, kind=kind, **values), []


def _number(text: str, *, whole: bool) -> int | float | None:
    try:
        number = float(text) if len(text) < 20 else math.nan
    except ValueError:
        return None
    if not math.isfinite(number) or abs(number) > 1e9 or (whole and number != int(number)):
        return None
    return int(number) if whole else number


@router.get("/projects/{project_id}")
def dashboard(project_id: Id, page: Reviewer) -> Response:
    """Progress, throughput, time per task."""
    store, me = page.store, page.me
    seconds = progress.seconds_per_task(store, project_id, by=me)
    since = store.clock() - _DAYS * 86400
    buckets = progress.throughput(store, project_id, by=me, bucket="day", since=since)
    names = {person.id: person.name for person in people.people(store, by=me)} if page.may_administer else {}
    labelers = progress.labeler_progress(store, project_id, by=me)
    names |= {row.person.id: row.person.name for row in labelers}
    return page.render(
        "admin/dashboard.html",
        project=projects.project(store, project_id),
        progress=progress.progress(store, project_id, by=me),
        labelers=labelers,
        per_day=plots.labels_per_day(
            [(b.start, names.get(b.person_id, ""), b.labels) for b in buckets], page.t
        ),
        per_task=plots.time_per_task(seconds, page.t),
        median=sorted(seconds)[len(seconds) // 2] if seconds else None,
        skips=progress.skip_reasons(store, project_id, by=me),
    )


@router.get("/projects/{project_id}/agreement")
def agreement(project_id: Id, page: Reviewer) -> Response:
    """How far labelers agree, and who labels unlike the others."""
    project = projects.project(page.store, project_id)
    return page.render("admin/agreement.html", project=project, **agreement_sections(page, project))
