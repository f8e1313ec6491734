"""Profiles: what model and system text a caller gets, by the key or by the field `user`.

[[profile]]
name = "support"
keys = ["1a2b3c4d"]          # ids of keys
users = ["anna", "ben"]      # values of the field `user`
model = "support-lora"       # a name that is served
system = "You answer questions about orders."
consent = true               # prompts may be logged
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """What holds for some callers.

    Attributes:
        model: for requests that name none or "default"; empty = the server's first.
        system: put before conversations without a system message.
        consent: whether they agreed to have their prompts logged.
    """

    name: str
    keys: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    model: str = ""
    system: str = ""
    consent: bool = False


class Profiles:
    """Profiles by key and by user. A key's profile wins, as a user field can say anything."""

    def __init__(self, profiles: Collection[Profile] = ()) -> None:
        self._by_key = {key: profile for profile in profiles for key in profile.keys}
        self._by_user = {user: profile for profile in profiles for user in profile.users}

    @classmethod
    def read(cls, path: str | Path, models: Collection[str]) -> Profiles:
        """Read a TOML file.

        Raises:
            ConfigError: it can't be read, has unknown keys, or names a model that is not served.
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"can't read the profiles: {error}", str(path), "give a TOML file") from error
        tables = content.get("profile", [])
        if set(content) - {"profile"} or not isinstance(tables, list):
            raise ConfigError("a file of profiles holds [[profile]] tables", str(path), "write them so")
        found = [_profile(table, f"{path}: profile {number}") for number, table in enumerate(tables, 1)]
        for profile in found:
            if profile.model and profile.model not in models:
                cure = f"serve one of that name, or use one of {', '.join(models)}"
                raise ConfigError(
                    f"profile {profile.name} names the model {profile.model!r}, which is not served",
                    str(path),
                    cure,
                )
        return cls(found)

    def of(self, key: str, user: str | None) -> Profile | None:
        """The profile of a caller."""
        if key in self._by_key:
            return self._by_key[key]
        return self._by_user.get(user) if user else None


def _profile(table: Mapping[str, Any], where: str) -> Profile:
    kinds = {"name": str, "keys": list, "users": list, "model": str, "system": str, "consent": bool}
    for name, value in table.items():
        if name not in kinds:
            raise ConfigError(f"unknown key {name!r}", where, f"use {', '.join(kinds)}")
        wrong = not isinstance(value, kinds[name])
        if wrong or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{name} is {value!r}", where, f"give a {kinds[name].__name__} (of texts)")
    if not table.get("name"):
        raise ConfigError("a profile has no name", where, 'give it one: name = "support"')
    lists = {key: tuple(table.get(key, ())) for key in ("keys", "users")}
    return Profile(**{**table, **lists})
