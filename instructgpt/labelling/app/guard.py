"""What holds for every request, before any page: host, origin, size of the body, headers of the answer."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instructgpt.labelling.app.settings import AppSettings
from instructgpt.runtime.refused_body import drain

LOG = logging.getLogger("instructgpt.labelling")
_DRAINED_BYTES, _DRAINED_SECONDS = 256 << 20, 5.0  # a file chosen by mistake may be large
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: AppSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
                found.setdefault("Cache-Control", "no-store")
                if self.settings.secure_cookies:
                    found.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if scope["method"] not in SAFE_METHODS:
                await drain(receive, headers.raw, _DRAINED_BYTES, _DRAINED_SECONDS)
            await refusal(scope, receive, answer)
            return
        try:
            await self.app(scope, self._bounded(headers, receive), answer)
        except Exception:
            # Answered here and not by the outermost layer, which knows nothing of the headers above.
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            text = "Something went wrong on our side. Nothing that was stored is lost. Please try again."
            await PlainTextResponse(text, 500)(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.settings.knows_host(hosts[0]):
            text = "This server does not answer to that name. Start it with --public-url to give it one."
            return PlainTextResponse(text, 400)
        if scope["method"] not in SAFE_METHODS and not same_origin(headers, self.settings):
            return PlainTextResponse("This form was sent from another site, so nothing was done.", 403)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self._limit(headers):
            return PlainTextResponse(f"This is more than {self._limit(headers)} bytes.", 413)
        return None

    def _limit(self, headers: Headers) -> int:
        upload = headers.get("content-type", "").startswith("multipart/")
        return self.settings.upload_bytes if upload else self.settings.form_bytes

    def _bounded(self, headers: Headers, receive: Receive) -> Receive:
        limit, seen = self._limit(headers), 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                if message.get("more_body", False):
                    await drain(receive, headers.raw, _DRAINED_BYTES, _DRAINED_SECONDS)
                raise HTTPException(413, f"This is more than {limit} bytes.")
            return message

        return bounded


def same_origin(headers: Headers, settings: AppSettings) -> bool:
    """Whether a browser sent this from one of our own pages; programs that send neither header pass."""
    site = headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        ours = {headers["host"].lower(), urlsplit(settings.public_url).netloc.lower()}
        return urlsplit(origin).netloc.lower() in ours - {""}
    except ValueError:
        return False


def new_secret() -> str:
    """A secret of 256 bits for a cookie."""
    return secrets.token_urlsafe(32)


def csrf_token(seed: str, session: str) -> str:
    """The token that a form of this browser and this session carries.

    It is made of cookies that no script and no other site can read, so it needs no storage and stays valid
    when the server is restarted between the page and its answer.
    """
    return hmac.new(seed.encode(), b"form of " + session.encode(), hashlib.sha256).hexdigest()


def same_token(given: str, expected: str) -> bool:
    """Comparison in a time that says nothing about where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())
