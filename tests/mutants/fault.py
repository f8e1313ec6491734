"""What a fault is, and how it is listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest import MonkeyPatch


@dataclass(frozen=True)
class Fault:
    """`plant` changes the code until the MonkeyPatch is undone; each of `caught_by` must then fail."""

    name: str
    plant: Callable[[MonkeyPatch], None]
    caught_by: tuple[str, ...]


FAULTS: list[Fault] = []


def fault(*caught_by: str) -> Callable[[Callable[[MonkeyPatch], None]], None]:
    """List a planting function under its name; its docstring says what goes wrong in the world outside."""

    def add(plant: Callable[[MonkeyPatch], None]) -> None:
        FAULTS.append(Fault(plant.__name__.replace("_", " "), plant, caught_by))

    return add
