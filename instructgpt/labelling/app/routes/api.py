"""The JSON interface: drafts of the task form; for programs with a token progress, export and feedback."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from instructgpt.labelling.app.guard import same_token
from instructgpt.labelling.app.page import Id, Page, Site, open_page, stranger
from instructgpt.labelling.store import export, feedback, progress, queue, sessions
from instructgpt.labelling.store.people import Person

router = APIRouter(prefix="/api")

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not JSON."},
    401: {"description": "No token, or not a valid one."},
    403: {"description": "The token's person may not do this."},
    404: {"description": "There is no such thing, or it is somebody else's."},
    409: {"description": "It was possible and is no longer."},
    413: {"description": "Too long."},
}


def bearer(
    request: Request, credentials: Annotated[Any, Depends(HTTPBearer(auto_error=False))] = None
) -> Person:
    """The person of an API token, from `Authorization: Bearer TOKEN`."""
    site: Site = request.app.state.site
    request.state.page = stranger(request)
    token = credentials.credentials if credentials else ""
    opened = sessions.session_of(site.store, token) if 0 < len(token) <= 512 and token.isascii() else None
    if opened is None:
        raise HTTPException(401, "this needs an API token", {"WWW-Authenticate": "Bearer"})
    return opened.person


Caller = Annotated[Person, Depends(bearer)]


class Draft(BaseModel):
    """What a task's form holds before it is submitted."""

    token: str = Field(max_length=200, description="The lease's token, as in the form.")
    at: float = Field(ge=0, le=1e15, description="When it was typed, in milliseconds since the epoch.")
    entries: list[tuple[str, str]] = Field(max_length=2000, description="Names and values of the fields.")


class Renewed(BaseModel):
    """Until when the task stays with its labeler."""

    expires_at: float | None


@router.put("/draft", include_in_schema=False)
def draft(
    page: Annotated[Page, Depends(open_page)], body: Draft, x_csrf: Annotated[str, Header()] = ""
) -> Renewed:
    """Keep a draft on the server, so that the work can go on in another browser; renews the lease."""
    if page.person is None:
        raise HTTPException(401)
    if not same_token(x_csrf, page.csrf):
        raise HTTPException(403)
    value = {"at": body.at, "entries": [[name, text.replace("\x00", "")] for name, text in body.entries]}
    queue.save_draft(page.store, page.person.id, body.token, value)
    return Renewed(expires_at=queue.renew(page.store, page.person.id, body.token))


@router.get("/projects/{project_id}/progress", responses=_ERRORS)
def project_progress(project_id: Id, caller: Caller, request: Request) -> dict[str, Any]:
    """Counts of tasks and labels of a project."""
    store = request.app.state.site.store
    return asdict(progress.progress(store, project_id, by=caller.id))


@router.get(
    "/projects/{project_id}/export",
    responses={**_ERRORS, 200: {"content": {"application/zip": {}}, "description": "A ZIP of JSONL files."}},
    response_class=Response,
)
def project_export(project_id: Id, caller: Caller, request: Request) -> Response:
    """Everything that the project's labelers made, as `instructgpt sft`, `reward` and `eval` read it."""
    data = export.export_zip(request.app.state.site.store, project_id, by=caller.id)
    return Response(data, media_type="application/zip")


class Stored(BaseModel):
    """What was stored: the same number when it is sent again."""

    id: int


@router.post("/feedback", responses=_ERRORS, status_code=201)
def post_feedback(
    caller: Caller, request: Request, body: Annotated[dict[str, Any], Body(description="See the docs.")]
) -> Stored:
    """Take what a user of a served model said: a comparison, a thumb or an edited reply."""
    if caller.role not in ("admin", "reviewer"):
        raise HTTPException(403, "a labeler's token can't store feedback")
    number = feedback.store_feedback(request.app.state.site.store, feedback.feedback_from_json(body))
    return Stored(id=number)
