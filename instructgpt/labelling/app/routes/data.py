"""Administrators bring prompts and replies, ask servers for replies, and take the results out."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from instructgpt.errors import InstructGPTError
from instructgpt.labelling.app.page import Admin, Form, Id, Page, Posted, Reviewer
from instructgpt.labelling.store import export, fetch, imports, projects, tasks
from instructgpt.labelling.store import form as forms
from instructgpt.labelling.store.new_tasks import Purpose

router = APIRouter(include_in_schema=False, prefix="/admin")

PURPOSES: tuple[Purpose, ...] = ("work", "screening", "onboarding")
STATES = ("waiting", "open", "full", "withdrawn")
PAGE_TASKS = 25
MAX_REQUESTS = 10_000


@router.get("/projects/{project_id}/tasks")
def task_list(project_id: Id, page: Reviewer, after: int = 0, state: str = "", purpose: str = "") -> Response:
    """What is asked, and the forms that bring more."""
    return _tasks_page(page, project_id, after=after, state=state, purpose=purpose)


def _tasks_page(page: Page, project_id: int, status: int = 200, **values: Any) -> Response:
    after, state, purpose = (values.pop(name, "") for name in ("after", "state", "purpose"))
    found = tasks.tasks(
        page.store,
        project_id,
        by=page.me,
        after_id=after if isinstance(after, int) and 0 <= after < 2**31 else 0,
        limit=PAGE_TASKS + 1,
        state=state if state in STATES else None,
        purpose=purpose if purpose in PURPOSES else None,
    )
    return page.render(
        "admin/tasks.html",
        status,
        project=projects.project(page.store, project_id),
        tasks=found[:PAGE_TASKS],
        more=len(found) > PAGE_TASKS,
        states=STATES,
        purposes=PURPOSES,
        styles=forms.STYLES,
        state=state,
        purpose=purpose,
        job=page.site.jobs.state(project_id),
        upload_mebibytes=page.site.settings.upload_bytes // 2**20,
        **values,
    )


def _upload(page: Page, form: Posted) -> tuple[str, bytes]:
    """Name and content of the uploaded file; the name is only for messages."""
    file = form.files.get("file")
    data = file.file.read(page.site.settings.upload_bytes + 1) if file else b""
    if file is None or not data:
        raise InstructGPTError(page.t("problem.file"))
    name = re.sub(r"[^\w. -]", "_", (file.filename or "upload").rsplit("/")[-1])[-80:]
    return name or "upload", data


@router.post("/projects/{project_id}/import")
def import_tasks(project_id: Id, page: Admin, form: Form) -> Response:
    """Prompts, with or without replies, from JSONL."""
    purpose = next((name for name in PURPOSES if name == form.line("purpose")), PURPOSES[0])
    try:
        added = imports.import_tasks(page.store, project_id, _upload(page, form), by=page.me, purpose=purpose)
    except InstructGPTError as error:
        if getattr(error, "status", 422) in (403, 404):
            raise
        return _tasks_page(page, project_id, 422, problem=str(error))
    return _tasks_page(page, project_id, added=added)


@router.post("/projects/{project_id}/replies")
def import_replies(project_id: Id, page: Admin, form: Form) -> Response:
    """Replies for prompts that are there."""
    try:
        added = imports.import_replies(page.store, project_id, _upload(page, form), by=page.me)
    except InstructGPTError as error:
        if getattr(error, "status", 422) in (403, 404):
            raise
        return _tasks_page(page, project_id, 422, problem=str(error))
    return _tasks_page(page, project_id, added=added)


@router.post("/projects/{project_id}/requests")
def add_requests(project_id: Id, page: Admin, form: Form) -> Response:
    """Requests to write prompts."""
    count = form.line("count")
    style = next((name for name in forms.STYLES if name == form.line("style")), None)
    if not (count.isascii() and count.isdecimal() and 0 < int(count[:7]) <= MAX_REQUESTS and len(count) < 7):
        return _tasks_page(page, project_id, 422, problem=page.t("problem.count", n=f"{MAX_REQUESTS:,}"))
    if style is None:
        return _tasks_page(page, project_id, 422, problem=page.t("problem.style"))
    brief = form.text("brief")[: forms.MAX_NOTE]
    try:
        added = tasks.add_prompt_tasks(
            page.store,
            project_id,
            int(count),
            style=style,
            brief=brief,
            by=page.me,
        )
    except InstructGPTError as error:
        if getattr(error, "status", 422) in (403, 404):
            raise
        return _tasks_page(page, project_id, 422, problem=str(error))
    return _tasks_page(page, project_id, added=added)


@router.post("/tasks/{task_id}/withdraw")
def withdraw(task_id: Id, page: Admin, form: Form) -> Response:
    """Give a task to nobody any more, or to labelers again."""
    task = tasks.task(page.store, task_id, by=page.me)
    tasks.withdraw_task(page.store, task_id, form.line("withdrawn") == "1", by=page.me)
    return page.go(
        f"/admin/tasks/{task_id}"
        if form.line("from") == "task"
        else f"/admin/projects/{task.project_id}/tasks"
    )


@router.get("/tasks/{task_id}")
def task_page(task_id: Id, page: Reviewer) -> Response:
    """One task with its replies and their models."""
    task = tasks.task(page.store, task_id, by=page.me)
    return page.render("admin/task.html", project=projects.project(page.store, task.project_id), task=task)


# -- replies from a server


@router.post("/projects/{project_id}/ask")
def ask(project_id: Id, page: Admin, form: Form) -> Response:
    """Begin to ask an OpenAI-compatible server for the replies that are missing."""
    projects.project(page.store, project_id)
    server, problem = _server(page, form)
    if server is None:
        return _tasks_page(page, project_id, 422, problem=problem, typed=form.values())
    page.site.jobs.start(page.store, project_id, server, by=page.me)
    return page.go(f"/admin/projects/{project_id}/tasks#ask")


def _server(page: Page, form: Posted) -> tuple[fetch.ReplyServer | None, str]:
    url, model = form.line("url"), form.line("model")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or len(url) > 500 or not url.isascii() or any(c <= " " for c in url):
        return None, page.t("problem.url")
    if not 1 <= len(model) <= 200:
        return None, page.t("problem.model")
    try:
        temperature, max_tokens = float(form.line("temperature", "1")), int(form.line("max_tokens", "512"))
        if not (0 <= temperature <= 2 and 1 <= max_tokens <= 32_768):
            raise ValueError
    except ValueError:
        return None, page.t("problem.sampling")
    key = form.line("key")
    if not (key.isascii() and len(key) < 500 and all(c > " " for c in key)):
        return None, page.t("problem.key")
    return (
        fetch.ReplyServer(
            url=url, model=model, token=key or None, temperature=temperature, max_tokens=max_tokens
        ),
        "",
    )


@router.post("/projects/{project_id}/ask/stop")
def stop_asking(project_id: Id, page: Admin, form: Form) -> Response:
    """Stop; what came is kept."""
    page.site.jobs.stop(project_id)
    return page.go(f"/admin/projects/{project_id}/tasks#ask")


@router.get("/projects/{project_id}/ask.json")
def asking(project_id: Id, page: Admin) -> Response:
    """How far the asking is, for the page that shows it."""
    job = page.site.jobs.state(project_id)
    return JSONResponse({"running": bool(job and job.running), "done": job.done if job else 0})


# -- results


@router.get("/projects/{project_id}/export")
def export_page(project_id: Id, page: Admin) -> Response:
    """What an export would hold."""
    project = projects.project(page.store, project_id)
    rows, left_out = export.export_rows(page.store, project_id, by=page.me)
    files = {name: len(lines) for name, lines in rows.items()}
    return page.render("admin/export.html", project=project, files=files, left_out=left_out)


@router.post("/projects/{project_id}/export.zip")
def export_zip(project_id: Id, page: Admin, form: Form) -> Response:
    """The export as one file."""
    project = projects.project(page.store, project_id)
    data = export.export_zip(
        page.store, project_id, by=page.me, include_all_bad=not form.on("without_all_bad")
    )
    name = re.sub(r"[^A-Za-z0-9]+", "-", project.settings.name).strip("-").lower() or f"project-{project_id}"
    headers = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
    return Response(data, media_type="application/zip", headers=headers)
