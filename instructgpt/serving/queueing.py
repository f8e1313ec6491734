"""Who is next: fair shares between callers, and between the requests of one caller.

Start-time fair queueing (Goyal, Vin and Cheng 1996) on two levels. Everybody's service is counted in tokens;
the one with the least goes first, and who comes anew starts level with the least served of those present, so
that neither an idle past nor a busy one counts. A long job therefore shares the slots with a short one that
comes after it, whether or not both are of one caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(eq=False)
class Share:
    """One request's place in the queue; its rows all count on it."""

    caller: str
    served: float = 0.0
    """Tokens of service, from the level at which it came."""
    present: int = 0
    """Rows waiting or active."""


@dataclass
class _Caller:
    served: float
    shares: list[Share] = field(default_factory=list)


class FairQueue(Generic[Item]):
    """Waiting items of shares, and the service that waiting and active ones have had."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._waiting: dict[int, tuple[Share, deque[Item]]] = {}  # by id(share), in order of arrival
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def enter(self, caller: str) -> Share:
        """A new request of `caller`; its items are pushed with the share returned."""
        if caller not in self._callers:
            self._callers[caller] = _Caller(min((c.served for c in self._callers.values()), default=0.0))
        present = self._callers[caller]
        share = Share(caller, min((s.served for s in present.shares), default=0.0))
        present.shares.append(share)
        return share

    def push(self, share: Share, item: Item, *, front: bool = False) -> None:
        """Queue an item; at the front of its share's where it has been in a slot already (`again`)."""
        share.present += not front
        _, items = self._waiting.setdefault(id(share), (share, deque()))
        items.appendleft(item) if front else items.append(item)
        self._size += 1

    def rank(self, share: Share) -> tuple[float, float]:
        """Service of its caller and its own: the smaller, the sooner."""
        return self._callers[share.caller].served, share.served

    def peek(self) -> Share | None:
        """The share that is next."""
        if not self._waiting:
            return None
        return min((share for share, _ in self._waiting.values()), key=self.rank)

    def pop(self) -> tuple[Share, Item]:
        """Take the next item out; its share stays present until `leave`."""
        share = self.peek()
        assert share is not None, "nothing waits"
        items = self._waiting[id(share)][1]
        item = items.popleft()
        if not items:
            del self._waiting[id(share)]
        self._size -= 1
        return share, item

    def drop(self, unwanted: Callable[[Item], bool]) -> list[tuple[Share, Item]]:
        """Take items out that nobody waits for any more; they have left."""
        found = [(share, item) for share, items in self._waiting.values() for item in items if unwanted(item)]
        for share, item in found:
            self._waiting[id(share)][1].remove(item)
            if not self._waiting[id(share)][1]:
                del self._waiting[id(share)]
            self._size -= 1
            self.leave(share)
        return found

    def charge(self, share: Share, tokens: float) -> None:
        """Count service."""
        share.served += tokens
        self._callers[share.caller].served += tokens

    def leave(self, share: Share) -> None:
        """One row of the share is done."""
        share.present -= 1
        if share.present <= 0:
            caller = self._callers[share.caller]
            caller.shares.remove(share)
            if not caller.shares:
                del self._callers[share.caller]

    def __iter__(self) -> Iterator[tuple[Share, Item]]:
        for share, items in self._waiting.values():
            for item in items:
                yield share, item
