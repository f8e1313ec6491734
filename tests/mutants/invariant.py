"""Where the invariants are listed, and how near is equal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mutant_world import World

INVARIANTS: dict[str, Callable[[World], None]] = {}


def invariant(function: Callable[[World], None]) -> Callable[[World], None]:
    """List the function under its name."""
    INVARIANTS[function.__name__] = function
    return function


def close(found, expected, atol: float = 1e-4, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
