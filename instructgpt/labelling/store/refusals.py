"""Why the store says no: what is wrong, a code that pages translate by, and the HTTP status that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instructgpt.errors import DataError, InstructGPTError


class Refusal(InstructGPTError):
    """Base of the store's refusals.

    Args:
        code: stable name of the reason, for translation.
        what, where, cure: as in `InstructGPTError`.
    """

    status = 400

    def __init__(self, code: str, what: str, where: str = "", cure: str = "") -> None:
        self.code = code
        super().__init__(what, where, cure)


class NotFound(Refusal):
    """There is no such thing, or it is somebody else's: the two look the same from outside."""

    status = 404

    def __init__(self, what: str) -> None:
        super().__init__("not-found", what)


class Forbidden(Refusal):
    """The person is known and may not do this."""

    status = 403


class Conflict(Refusal):
    """It was possible, and is no longer."""

    status = 409


class QuotaReached(Refusal):
    """The labeler has done as much as the project asks for, in all or today."""

    status = 409


class LoginRefused(Refusal):
    """Unknown name, wrong password or a deactivated account: which one is not told."""

    status = 401

    def __init__(self) -> None:
        super().__init__("login", "the name or the password is wrong", cure="look at both and try again")


class TooManyAttempts(Refusal):
    """Too many log-ins failed for this account or from this address.

    Attributes:
        retry_after: seconds until the next try is let through.
    """

    status = 429

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        minutes = max(1, round(retry_after / 60))
        super().__init__(
            "login-limit",
            "too many log-ins have failed",
            cure=f"wait {minutes} minute{'s' if minutes > 1 else ''} and try again",
        )


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of a form, such as "judgements[2].rating"."""

    field: str
    what: str


class Invalid(Refusal, DataError):
    """A form or a value that can't be taken.

    Attributes:
        problems: each fault with its field.
    """

    status = 422

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        told = "; ".join(
            f"{problem.field}: {problem.what}" if problem.field else problem.what for problem in problems
        )
        super().__init__("invalid", told)
