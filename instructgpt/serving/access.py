"""Who may ask, and how often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from instructgpt.serving.keys import KeyRing
from instructgpt.serving.problems import Problem, stopping


@dataclass(frozen=True)
class Caller:
    """Who sent a request.

    Attributes:
        key: id of the key; empty where the server has no keys.
        name: the key's name; empty likewise.
        address: IP address.
    """

    key: str
    name: str
    address: str

    @property
    def share(self) -> str:
        """By what the caller is told apart in the queue."""
        return self.key or self.address


class Bucket:
    """A token bucket: `rate` requests a minute, as many at once as fit a minute's tenth (at least one)."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate, self._full = rate, max(1.0, rate / 10)
        self._left, self._at = self._full, now

    def wait(self, now: float) -> float:
        """Take one; 0, or the seconds until there is one to take."""
        self._left = min(self._full, self._left + (now - self._at) * self.rate / 60)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) * 60 / self.rate

    def idle(self, now: float) -> bool:
        """Whether the bucket is full again, so that a fresh one would be the same."""
        return self._left + (now - self._at) * self.rate / 60 >= self._full


_MOST_BUCKETS = 10_000


class Access:
    """Checks keys and rates; the state's `draining` is asked through `closed`."""

    def __init__(
        self,
        ring: KeyRing | None,
        rate: float,
        closed: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        ring: None lets everyone in.
        rate: requests a minute of a caller; 0 = no limit. A key may have its own.
        """
        self._ring, self._rate, self._closed, self._clock = ring, rate, closed, clock
        self._buckets: dict[str, Bucket] = {}

    @property
    def needs_key(self) -> bool:
        """Whether callers must show a key."""
        return self._ring is not None

    async def caller(self, request: Request) -> Caller:
        """FastAPI dependency: who this is, with its rate charged.

        Raises:
            Problem: no good key (401), too many requests (429), or the server is shutting down (503).
        """
        found, rate = self._identify(request)
        if self._closed():
            raise stopping()
        self._charge(found.share, rate)
        return found

    async def reader(self, request: Request) -> Caller:
        """The same for requests that cost nothing: no rate, and also while the server drains."""
        return self._identify(request)[0]

    def _identify(self, request: Request) -> tuple[Caller, float]:
        address = request.client.host if request.client else ""
        if self._ring is None:
            return Caller("", "", address), self._rate
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        key = self._ring.find(text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise Problem(
                "the API key is missing, unknown or revoked",
                "send the header Authorization: Bearer KEY with a key of this server",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return Caller(key.id, key.name, address), self._rate if key.rate is None else key.rate

    def _charge(self, who: str, rate: float) -> None:
        if not rate:
            return
        now = self._clock()
        bucket = self._buckets.get(who)
        if bucket is None or bucket.rate != rate:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets = {name: b for name, b in self._buckets.items() if not b.idle(now)}
            bucket = self._buckets[who] = Bucket(rate, now)
        wait = bucket.wait(now)
        if wait:
            seconds = math.ceil(wait)
            raise Problem(
                f"more than {rate:g} requests a minute",
                f"send the request again in {seconds} s",
                status=429,
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )
