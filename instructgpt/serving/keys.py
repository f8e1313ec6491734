"""API keys: random, shown once, kept as hashes; and the verb `keys` that makes and revokes them.

A key is `ig-ID-SECRET`. SECRET has 256 random bits, so a plain SHA-256 of the key can't be reversed by
guessing and needs no slow password hash.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.runtime.files import write_json

_SHAPE = re.compile(r"ig-([0-9a-f]{8})-[\w-]{43}", re.ASCII)


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept.

    Attributes:
        rate: requests a minute; None = the server's --rate.
        revoked: when, empty while the key is good.
    """

    id: str
    name: str
    hash: str
    created: str
    rate: float | None = None
    revoked: str = ""


def read_keys(path: str | Path) -> list[ApiKey]:
    """The keys of a file; none where there is no file yet.

    Raises:
        ConfigError: it is not a file of keys.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        return [ApiKey(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["keys"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        cure = "give a file that `instructgpt keys --file FILE --create NAME` has made"
        raise ConfigError(f"this is no file of keys: {error!r}", str(path), cure) from error


class KeyRing:
    """The keys of a file, read again when it changes: a key revoked is refused from the next request on."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            ConfigError: there is no such file, or it holds something else.
        """
        self._path = Path(path)
        if not self._path.exists():
            cure = f"make one: instructgpt keys --file {path} --create NAME"
            raise ConfigError("there is no file of keys", str(path), cure)
        self._keys: dict[str, ApiKey] = {}
        self._state: tuple[int, int] | None = None
        self._refresh()

    def _refresh(self) -> None:
        found = self._path.stat()
        state = (found.st_mtime_ns, found.st_ino)
        if state != self._state:
            self._keys = {key.id: key for key in read_keys(self._path)}
            self._state = state

    def find(self, text: str) -> ApiKey | None:
        """The good key that `text` is, if it is one."""
        self._refresh()
        shape = _SHAPE.fullmatch(text)
        key = self._keys.get(shape[1]) if shape else None
        if key is None or key.revoked or not hmac.compare_digest(_hash(text), key.hash):
            return None
        return key


def create_key(path: str | Path, name: str, rate: float | None = None) -> tuple[ApiKey, str]:
    """Add a key to a file and return it with its text, which is stored nowhere."""
    keys = read_keys(path)
    taken = {key.id for key in keys}
    identity = next(found for found in iter(lambda: secrets.token_hex(4), "") if found not in taken)
    text = f"ig-{identity}-{secrets.token_urlsafe(32)}"
    key = ApiKey(identity, name, _hash(text), _now(), rate)
    _write(path, [*keys, key])
    return key, text


def revoke_key(path: str | Path, identity: str) -> ApiKey:
    """Mark a key as revoked, by its id or its whole text.

    Raises:
        ConfigError: there is none of that id.
    """
    keys = read_keys(path)
    shape = _SHAPE.fullmatch(identity)
    wanted = shape[1] if shape else identity
    found = next((key for key in keys if key.id == wanted), None)
    if found is None:
        cure = f"see the ids: instructgpt keys --file {path}"
        raise ConfigError(f"there is no key with the id {wanted!r}", str(path), cure)
    gone = ApiKey(**{**asdict(found), "revoked": found.revoked or _now()})
    _write(path, [gone if key is found else key for key in keys])
    return gone


def _write(path: str | Path, keys: list[ApiKey]) -> None:
    write_json(Path(path), {"keys": [asdict(key) for key in keys]})
    os.chmod(path, 0o600)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class KeysConfig:
    """Make, list and revoke the API keys of `instructgpt serve --keys FILE`."""

    file: str = ""
    """File of keys; made with the first key."""
    create: str = ""
    """Make a key of this name; it is printed once and kept as a hash."""
    rate: float = 0.0
    """With --create: requests a minute that the key may send; 0 = the server's --rate."""
    revoke: str = ""
    """Revoke the key of this id; a running server refuses it at once."""


def run(config: KeysConfig) -> dict[str, Any]:
    """Create, revoke, or list; returns what was done.

    Raises:
        ConfigError: no file was named, both were asked for, or there is no such key.
    """
    if not config.file:
        raise ConfigError("no file was named", "--file", "give one: instructgpt keys --file keys.json")
    if config.create and config.revoke:
        raise ConfigError("one key to make and one to revoke", "--create", "do one after the other")
    summary: dict[str, Any] = {"verb": "keys", "file": config.file}
    if config.create:
        key, text = create_key(config.file, config.create, config.rate or None)
        return summary | {"id": key.id, "name": key.name, "key": text}
    if config.revoke:
        gone = revoke_key(config.file, config.revoke)
        return summary | {"id": gone.id, "name": gone.name, "revoked": gone.revoked}
    keys = read_keys(config.file)
    shown = [
        f"{key.id}  {key.created}  {'revoked ' + key.revoked if key.revoked else 'good':<33}  {key.name}"
        for key in keys
    ]
    rows = [{name: value for name, value in asdict(key).items() if name != "hash"} for key in keys]
    return summary | {"keys": rows, "table": "\n".join(shown) or "no keys"}
