"""One POST of JSON over HTTP(S), bounded in time and in size whatever the other side does.

The standard library alone. A socket's timeout bounds a single read only, so a second clock cuts the
connection when the whole exchange has taken too long. Redirects are not followed: with them a token could go
to a host that nobody named. Proxies of the environment are not used.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TypeVar
from urllib.parse import urlsplit

from instructgpt.errors import ConfigError

PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that another try may change."""

Given = TypeVar("Given")


@dataclass(frozen=True)
class Address:
    """Where a service is. `shown` is for logs: without the query, which may hold a key."""

    secure: bool
    host: str
    port: int
    target: str
    shown: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """
        Raises:
            ConfigError: it is not a plain http or https URL; one with a password in it is refused.
        """
        example = "give one like http://localhost:8000/score"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"not a URL: {error}", "--reward", example) from error
        if parts.scheme not in ("http", "https"):
            raise ConfigError(f"a reward can't be asked by {parts.scheme}://", "--reward", example)
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                "the reward's URL holds a user name or a password, which every log would show",
                "--reward",
                "leave it out, and put a token into the environment variable INSTRUCTGPT_REWARD_TOKEN",
            )
        if not parts.hostname or parts.fragment or not all("!" <= c <= "~" for c in url):
            shown = url.split("?")[0].split("#")[0]
            what = f"the reward's URL has no host, a '#', a space or a letter beyond ASCII: {shown!r}"
            raise ConfigError(what, "--reward", f"{example}, other characters as %XX")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        shown = f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?..." if parts.query else "")
        secure = parts.scheme == "https"
        return cls(secure, parts.hostname, port or (443 if secure else 80), target, shown)


class Failure(Exception):
    """An exchange that gave nothing; `again` says whether another try may help."""

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.again = reason, again


class Line:
    """One exchange, which another thread may cut."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self._late = self._cut = False
        # HTTPConnection forgets its socket while an answer without a length is still read from it.
        self._socket: socket.socket | None = None
        self._response: HTTPResponse | None = None
        kind = HTTPSConnection if address.secure else HTTPConnection
        self._connection: HTTPConnection = kind(address.host, address.port)

    def connect(self) -> None:
        """Connect and hang up.

        Raises:
            Failure: nobody answers there.
        """
        self._guarded(self._connect)

    def post(self, body: bytes, token: str, limit: int) -> bytes:
        """Send `body` and return what comes back, at most `limit` bytes.

        Raises:
            Failure: it did not come whole, in time and with a status of success.
        """
        return self._guarded(lambda: self._exchange(body, token, limit))

    def cut(self) -> None:
        """Break the exchange off, from any thread."""
        self._cut = True
        # The plain socket's method: the one of a TLS socket is not made for another thread.
        if self._socket is not None:
            try:
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                return  # closed already

    def _guarded(self, act: Callable[[], Given]) -> Given:
        clock = threading.Timer(self.timeout, self._expire)
        clock.daemon = True
        clock.start()
        try:
            result = act()
            if self._late:  # what was cut may look like an answer that ended
                raise TimeoutError
            return result
        except (OSError, HTTPException, ValueError) as error:
            if self._late or isinstance(error, TimeoutError):
                raise Failure(f"no whole answer within {self.timeout:g} s") from error
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Failure(f"the connection failed: {reason}") from error
        finally:
            clock.cancel()
            if self._response is not None:
                self._response.close()
            self._connection.close()

    def _expire(self) -> None:
        self._late = True
        self.cut()

    def _connect(self) -> None:
        found = socket.create_connection((self.address.host, self.address.port), self.timeout)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = self._connection.sock = found
        if self.address.secure:  # in two steps, so that a handshake can be cut too
            context = ssl.create_default_context()
            tls = context.wrap_socket(found, server_hostname=self.address.host, do_handshake_on_connect=False)
            self._socket = self._connection.sock = tls
        if self._cut:  # before there was a socket to cut
            raise TimeoutError
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()

    def _exchange(self, body: bytes, token: str, limit: int) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._connect()
        self._connection.request("POST", self.address.target, body, headers)
        response = self._response = self._connection.getresponse()
        if not 200 <= response.status < 300:
            raise _refusal(response, token)
        data = response.read(limit + 1)
        if len(data) > limit:
            raise Failure(f"its answer is longer than {limit} bytes")
        if response.length:
            raise Failure(f"its answer ended {response.length} bytes early")
        return data


def _refusal(response: HTTPResponse, token: str) -> Failure:
    status = response.status
    reason = f"HTTP status {status}"
    if 300 <= status < 400:
        # With a token nothing that the service wrote is shown: it might repeat the token.
        place = (response.getheader("Location") or "").split("?")[0][:200]
        return Failure(
            f"{reason}: it redirects" + (f" to {place!r}" if place and not token else ""), again=False
        )
    said = "" if token else response.read(200).decode("utf-8", "replace")
    again = status >= 500 or status in PASSING
    return Failure(f"{reason}" + (f", saying {said!r}" if said.strip() else ""), again)
