"""Strict and loose verdicts on a reply (arXiv:2311.07911, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instructgpt.evaluation.ifeval.instructions import Instruction


@dataclass(frozen=True)
class Verdicts:
    """One verdict an instruction, in the prompt's order."""

    strict: tuple[bool, ...]
    """On the reply as it is."""
    loose: tuple[bool, ...]
    """On the reply or any of its eight forms: an introduction or a closing line must not fail it."""


def forms(reply: str) -> list[str]:
    """The reply as it is, without its first line, without its last, without both; each with and without
    stars."""
    lines = reply.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [form for text in (reply, *cut) for form in (text, text.replace("*", ""))]


def judge(reply: str, instructions: Sequence[Instruction]) -> Verdicts:
    """Whether the reply follows each of a prompt's instructions."""
    strict = tuple(one.followed(reply) for one in instructions)
    loose = tuple(
        exact or any(one.followed(form) for form in forms(reply))
        for exact, one in zip(strict, instructions, strict=True)
    )
    return Verdicts(strict, loose)
