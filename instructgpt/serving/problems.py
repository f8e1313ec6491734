"""Refusals in OpenAI's error shape: {"error": {"message", "type", "param", "code"}}.

Every message says what is wrong and what mends it.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from instructgpt.errors import InstructGPTError

_log = logging.getLogger("instructgpt.serving")

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CLOSED = 499
"""nginx's status for a client that went away before it had its answer; nobody reads it."""


_TEXT_ONLY = "leave it out: the models here read and write text"
UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("audio", "modalities", "prediction", "web_search_options"), _TEXT_ONLY),
    **dict.fromkeys(
        ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        "leave it out and describe in the messages what the model may do; it calls no tools",
    ),
    "suffix": "leave it out: the models here write on, they don't fill gaps",
    **dict.fromkeys(
        ("store", "metadata"),
        "leave it out: nothing is stored but by consent (header Instructgpt-Consent: log)",
    ),
    **dict.fromkeys(
        ("reasoning_effort", "verbosity", "service_tier", "prompt_cache_key", "safety_identifier"),
        "leave it out: it is for OpenAI's own service",
    ),
}
"""Fields of OpenAI's API that mean something there and nothing here, with what to do instead. None is ignored
in silence: who sends one relies on it."""


class Problem(Exception):
    """A request that is refused or could not be finished."""

    def __init__(
        self,
        what: str,
        cure: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Args:
        what: what is wrong, a clause without a full stop.
        cure: what to do about it.
        param: the field that is wrong.
        code: a short name of the problem, for programs.
        """
        end = "" if cure.endswith("?") else "."
        super().__init__(f"{what}. To mend it: {cure}{end}")
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that is sent."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": {key: _sendable(value) for key, value in error.items()}}

    def response(self) -> Response:
        """The answer to the request."""
        return JSONResponse(self.body, self.status, self.headers)


class ClientGone(Exception):
    """The client went away; nobody is there to be told."""


def busy(seconds: int) -> Problem:
    """The queue is full: try again after `seconds`."""
    return Problem(
        "the server's queue is full",
        f"send the request again in {seconds} s",
        status=429,
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def stopping() -> Problem:
    """The server is about to end."""
    return Problem(
        "the server is shutting down",
        "send the request again when it is back",
        status=503,
        code="shutting_down",
        headers={"Retry-After": "5"},
    )


def late(seconds: float) -> Problem:
    """The deadline has passed."""
    return Problem(
        f"the reply was not done within {seconds:g} s",
        "ask for fewer tokens, or start the server with a longer --deadline",
        status=504,
        code="deadline_exceeded",
    )


def failed() -> Problem:
    """The engine stopped in the middle of a reply."""
    return Problem(
        "the server could not finish the reply",
        "send the request again; the server's log says why",
        status=500,
        code="engine_failed",
    )


def of_error(error: InstructGPTError, param: str | None = None) -> Problem:
    """A mistake of the user, as the engine says it."""
    what = error.what + (f" ({error.where})" if error.where else "")
    return Problem(what, error.cure or "change the request", param=param)


def _sendable(value: str | None) -> str | None:
    """Text that UTF-8 can carry: half surrogates from a request come back as escapes."""
    return None if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")


def _of_validation(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> Problem:
    """The first thing that pydantic found, in our words."""
    error = errors[0]
    kind, place = str(error["type"]), [part for part in error["loc"] if part != "body"]
    if kind == "json_invalid":
        return Problem(
            f"the body is not JSON: {error.get('ctx', {}).get('error', 'it does not parse')}",
            "send one JSON object",
            code="invalid_json",
        )
    if not place:
        return Problem(
            "the body is not a JSON object",
            "send one with the header Content-Type: application/json",
            code="invalid_body",
        )
    # Behind the field's own name come names of the types that pydantic tried: of no use to the reader.
    field = str(place[0])
    if kind == "extra_forbidden":
        return _unknown(".".join(str(part) for part in place)[:200], known if len(place) == 1 else ())
    if kind == "missing":
        name = ".".join(str(part) for part in place)
        return Problem(f"the field {name!r} is missing", f"give {name}", param=name, code="missing_field")
    position = "".join(f"[{part}]" for part in place[1:] if isinstance(part, int))
    message = str(error["msg"]).removeprefix("Value error, ")
    return Problem(
        f"{field}{position} can't be used: {message[:1].lower() + message[1:]}",
        f"see /docs for what {field} may be",
        param=field,
        code="invalid_value",
    )


def _unknown(name: str, known: Sequence[str]) -> Problem:
    cure = UNSUPPORTED.get(name.split(".")[0])
    if cure is None:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        cure = f"did you mean {' or '.join(close)}?" if close else "leave it out"
    what = "unsupported" if name.split(".")[0] in UNSUPPORTED else "unknown"
    return Problem(f"{what} field {name!r}", cure, param=name, code=f"{what}_field")


def install(app: FastAPI, known_fields: Mapping[str, Sequence[str]]) -> None:
    """Answer every refusal in this shape; `known_fields` are those of each path, for near misses."""

    async def problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return error.response()

    async def user_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, InstructGPTError)
        return of_error(error).response()

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _of_validation(error.errors(), known_fields.get(request.url.path, ())).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        cure = {
            404: "see /docs for what there is",
            405: "see /docs for the method of this path",
            400: "send one JSON object of less depth, in UTF-8",
        }.get(error.status_code, "see /docs")
        path = f"{request.method} {request.url.path}"
        found = Problem(
            f"{path}: {error.detail}",
            cure,
            status=error.status_code,
            code="http_error",
            headers=error.headers,
        )
        return found.response()

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_CLOSED)

    async def unexpected(request: Request, error: Exception) -> Response:
        _log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
        return failed().response()

    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(InstructGPTError, user_error)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientGone, gone)
    app.add_exception_handler(Exception, unexpected)
