"""The rest of a request's body that is not wanted. Imports nothing heavy: both web servers use it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any


async def drain(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    headers: Iterable[tuple[bytes, bytes]],
    most: int = 1 << 20,
    seconds: float = 1.0,
) -> None:
    """Read on before an ASGI request is refused, and forget what comes.

    A connection that is closed with unread bytes is reset, and the client may never see the answer. Not done
    for a client that waits for a word before it sends (`Expect`).

    Args:
        receive: of the request, whose body has not come in whole.
        headers: of the request.
        most: bytes after which it ends, wherever the body is.
        seconds: likewise.
    """
    if any(name == b"expect" for name, _ in headers):
        return
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while read <= most:
                message = await receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
