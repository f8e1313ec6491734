"""Seeds from names: every random choice is keyed by what it is for, never by what was drawn before it."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine.

    `derive_seed(seed, "rollout", iteration)` gives streams that do not overlap in practice, so that batch
    shape, rank count and resume never change what is drawn.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
