"""Around every request: a limit on its body, and what the metrics count."""

from __future__ import annotations

import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instructgpt.runtime.refused_body import drain
from instructgpt.serving.metrics import Metrics
from instructgpt.serving.problems import Problem


class BodyLimit:
    """Refuses a body that is longer than `limit` bytes, by its header or while it comes in."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced[:20]) > self._limit:
            await drain(receive, scope["headers"])
            await self._refuse(scope, receive, send)
            return
        read, over, more = 0, False, True

        async def counted() -> Message:
            nonlocal read, over, more
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                more = message.get("more_body", False)
                over = over or read > self._limit
            if over:
                raise self._problem()
            return message

        async def unless_over(message: Message) -> None:
            # What the app makes of the exception above is not what the client should read.
            if not over:
                await send(message)

        try:
            await self._app(scope, counted, unless_over)
        except Problem:
            if not over:
                raise
        if over:
            if more:
                await drain(receive, scope["headers"])
            await self._refuse(scope, receive, send)

    def _problem(self) -> Problem:
        return Problem(
            f"the body is longer than {self._limit} bytes",
            "send less at a time, or start the server with a larger --max-body-kib",
            status=413,
            code="body_too_large",
            headers={"Connection": "close"},
        )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._problem().response()(scope, receive, send)


class Measured:
    """Counts requests by path and status; paths that are not of the API count as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, whole = time.monotonic(), 499, False

        async def noted(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False):
                whole = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.request(path, status if whole else 499, time.monotonic() - began)
