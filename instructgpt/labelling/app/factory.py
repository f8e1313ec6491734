"""The app: routes, middleware, and what becomes of errors."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jinja2
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from instructgpt import __version__
from instructgpt.errors import InstructGPTError
from instructgpt.labelling.app.ask import Jobs
from instructgpt.labelling.app.guard import Guard
from instructgpt.labelling.app.page import FOLDER, LoginNeeded, Page, Site, StaleForm, stranger
from instructgpt.labelling.app.routes import account, api, data, people, projects, review, work
from instructgpt.labelling.app.settings import AppSettings
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.people import ensure_person
from instructgpt.labelling.store.refusals import Invalid, Refusal

THREADS = 4
"""Requests worked on at a time; the rest wait in turn. More threads only take Python's lock from one another:
each wait for the database ends with a wait for the lock, and everybody's page comes late. Fifty labelers on
PostgreSQL, 2 cores: 99 % of pages within 109 ms with 4 threads, 254 ms with 8 (`benchmarks.label_load`)."""
SINGLE_USER = "me"
"""The name of whoever uses the app in single-user mode."""


def create_app(store: Store, settings: AppSettings | None = None) -> FastAPI:
    """The labelling app over a store, which stays the caller's to close."""
    settings = settings or AppSettings()
    static = FOLDER / "static"
    site = Site(
        store=store,
        settings=settings,
        templates=_templates(FOLDER / "templates"),
        static_version=_version(static),
        jobs=Jobs(),
        single=ensure_person(store, SINGLE_USER, "admin") if settings.single_user else None,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        yield
        await run_in_threadpool(site.jobs.close)

    # The library's own documentation pages load scripts from another server, which our policy forbids.
    app = FastAPI(
        title="instructgpt label",
        version=__version__,
        description="Progress, export and feedback of the labelling app, for programs with an API token.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.site = site
    app.add_middleware(Guard, settings=settings)
    for router in (work, account, projects, data, people, review, api):
        app.include_router(router.router)
    app.mount("/static", CachedFiles(directory=static), name="static")
    app.add_exception_handler(LoginNeeded, _login_needed)
    app.add_exception_handler(StaleForm, _stale_form)
    app.add_exception_handler(InstructGPTError, _mistake)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _http_error)
    return app


class CachedFiles(StaticFiles):
    """Style sheets and scripts: their addresses carry their version, so that they may be kept for ever."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (200, 304):
                headers = MutableHeaders(scope=message)
                headers["Cache-Control"] = "public, max-age=31536000, immutable"
            await send(message)

        await super().__call__(scope, receive, answer)


def _templates(folder: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _version(static: Path) -> str:
    """A hash of all static files."""
    digest = hashlib.blake2b(digest_size=6)
    for file in sorted(static.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


# -- errors as pages, or as JSON for scripts and programs


def _page(request: Request) -> Page:
    found = getattr(request.state, "page", None)
    return found if isinstance(found, Page) else stranger(request)


def _is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _answer(
    request: Request, status: int, code: str, what: str, problems: list[str] | None = None
) -> Response:
    page = _page(request)
    text = page.t(f"error.{code}") if page.t.has(f"error.{code}") else what
    if _is_api(request) or page.wants_json:
        detail = what if _is_api(request) else text
        return JSONResponse({"code": code, "detail": detail, "problems": problems or [text]}, status)
    return page.render("error.html", status, code=code, what=what)


def _login_needed(request: Request, error: Exception) -> Response:
    page = _page(request)
    if page.wants_json or _is_api(request):
        return JSONResponse({"code": "login-needed", "problems": [page.t("error.login-needed")]}, 401)
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return page.go("/login", next=target if request.method == "GET" else "/")


def _stale_form(request: Request, error: Exception) -> Response:
    page = _page(request)
    if page.wants_json:
        status = 401 if page.person is None else 403
        body = {"code": "stale-form", "stale": True, "problems": [page.t("error.stale-form")]}
        return page.finish(JSONResponse(body, status))
    return page.render("error.html", 403, code="stale-form", what="")


def _mistake(request: Request, error: Exception) -> Response:
    """What the store refuses, and other mistakes that the user can mend."""
    if isinstance(error, Invalid):
        told = [f"{p.field}: {p.what}" if p.field else p.what for p in error.problems]
        return _answer(request, error.status, error.code, str(error), told)
    if isinstance(error, Refusal):
        return _answer(request, error.status, error.code, str(error))
    return _answer(request, 422, "mistake", str(error))


def _not_valid(request: Request, error: Exception) -> Response:
    """A number in an address that is none, or JSON of another shape."""
    assert isinstance(error, RequestValidationError)
    if _is_api(request):
        return JSONResponse({"code": "invalid", "detail": _shown(error)}, 422)
    return _answer(request, 404, "not-found", "")


def _shown(error: RequestValidationError) -> list[dict[str, object]]:
    """Place, kind and message of each fault; not the input, which may be long or unprintable."""
    return [
        {"loc": [str(part) for part in fault["loc"]], "msg": str(fault["msg"]), "type": fault["type"]}
        for fault in error.errors()
    ]


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {
        403: "forbidden",
        404: "not-found",
        405: "method",
        413: "too-long",
        415: "upload",
        401: "login-needed",
    }
    code = codes.get(error.status_code, "mistake")
    response = _answer(request, error.status_code, code, str(error.detail))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
