"""Routes of the chat page: the page, its files, Markdown to HTML, task templates.

Talking and feedback go through the server's own API (`/v1/chat/completions`, `/v1/feedback`), as those of any
program: the page has no way around keys, limits or consent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from instructgpt.serving.chat.markdown import to_html
from instructgpt.serving.chat.page import HEADERS, choose_language, page, static_files
from instructgpt.serving.state import ServerState
from instructgpt.text.tasks import catalog, render

LONGEST_TEXT = 100_000
MOST_TEXTS = 64


class Texts(BaseModel):
    """Replies to show."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Annotated[str, Field(max_length=LONGEST_TEXT)]] = Field(max_length=MOST_TEXTS)


class FilledTask(BaseModel):
    """The fields of a task template, as the form has them."""

    model_config = ConfigDict(extra="forbid")
    language: Literal["en", "zh"] = "en"
    fields: dict[str, Annotated[str, Field(max_length=LONGEST_TEXT)]]


def router(state: ServerState) -> APIRouter:
    """The routes; those that work for the caller ask for a key where the server has keys."""
    routes = APIRouter(include_in_schema=False)
    # A reply is rendered many times while it is written: that must not use up the caller's rate.
    allowed = Depends(state.access.reader)

    @routes.get("/")
    def show_page(request: Request) -> HTMLResponse:
        cookies, header = request.cookies, request.headers.get("accept-language", "")
        config = state.config
        settings = {"prompt_log": bool(config.prompt_log), "profiles": bool(config.profiles)}
        language = choose_language(cookies.get("language"), header)
        html = page(language, cookies.get("theme", ""), settings)
        headers = {**HEADERS, "Cache-Control": "no-store", "Vary": "Cookie, Accept-Language"}
        return HTMLResponse(html, headers=headers)

    @routes.get("/chat/static/{name}")
    def show_file(name: str, request: Request) -> Response:
        file = static_files().get(name)
        if file is None:
            raise HTTPException(404, f"the page has no file {name!r}")
        headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": file.tag}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    # Not async: rendering a long reply must not hold up the streams of others.
    @routes.post("/chat/markdown", dependencies=[allowed])
    def show_markdown(body: Texts) -> dict[str, list[str]]:
        return {"html": [to_html(text) for text in body.texts]}

    @routes.get("/chat/tasks")
    def list_tasks(language: Literal["en", "zh"] = "en") -> dict[str, Any]:
        return {"tasks": catalog(language)}

    @routes.post("/chat/tasks/{name}", dependencies=[allowed])
    def fill_task(name: str, body: FilledTask) -> dict[str, Any]:
        messages = render(name, body.language, **body.fields)
        return {"messages": [{"role": m.role, "content": m.content} for m in messages]}

    return routes
