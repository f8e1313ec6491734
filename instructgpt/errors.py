"""The exception tree. Every message says what is wrong, where, and the cure, in one paragraph.

InstructGPTError          exit code 2: the user can mend it
|- ConfigError            a flag, a TOML key or a value (also a ValueError)
|- DataError              a record, a line or a file of the user's data (also a ValueError)
|- CheckpointError        a model folder that is missing, foreign or damaged
|- StorageError           the disk: full, read-only, not permitted (also an OSError)
|- CheckError             a self-check refuses to go on, with its cause
|- ServiceError           a service that a run needs is down, slow or answers nonsense
`- Interrupted            Ctrl-C, after everything was saved; exit code 130
"""

from __future__ import annotations

from typing import Any


class InstructGPTError(Exception):
    """Base of all errors that a user can mend.

    Args:
        what: what is wrong, a clause without a full stop.
        where: file:line, flag or record; empty if `what` already says it.
        cure: what to do about it, an imperative clause.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", cure: str = "") -> None:
        self.what, self.where, self.cure = what, where, cure
        message = what + (f" ({where})" if where else "") + "."
        if cure:
            message += f" To mend it: {cure}" + ("" if cure.endswith("?") else ".")
        super().__init__(message)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is to another process; `Exception` would make a new one out of the whole message."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[InstructGPTError], args: tuple[Any, ...], state: dict[str, Any]) -> InstructGPTError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(InstructGPTError, ValueError):
    """A flag, a key of a configuration file, or a value that can't be used."""


class DataError(InstructGPTError, ValueError):
    """A record, a line or a file of data that can't be read as what it should be."""


class CheckpointError(InstructGPTError):
    """A model folder that is missing, of another architecture, incomplete or damaged."""


class StorageError(InstructGPTError, OSError):
    """Writing failed: disk full, file-size limit, read-only or forbidden folder."""


class CheckError(InstructGPTError):
    """A self-check found that training would be wrong, and refuses to go on."""


class ServiceError(InstructGPTError):
    """A service that a run needs is down, too slow, or gives answers that can't be used."""


class Interrupted(InstructGPTError):
    """The user stopped a job; what it had is saved and the message says how to resume."""

    exit_code = 130
