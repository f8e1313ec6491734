"""Opening the database: SQLite in WAL mode or PostgreSQL, its tables brought up to date, one transaction at a
time."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import argon2
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DisconnectionError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from instructgpt.errors import ConfigError, StorageError
from instructgpt.labelling.store.refusals import NotFound
from instructgpt.labelling.store.tables import Base, SecretRow

DEFAULT_URL = "sqlite:///labelling.db"
BUSY_MILLISECONDS = 30_000
IDLE_SECONDS = 5.0
WAL_TRIES = 100
SECRETS = "secrets"
"""Where a session finds the secrets that this process has read before; they never change."""
MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE_LOCK = 7_203_715_502
"""PostgreSQL's advisory lock under which one process at a time upgrades; any number that is ours."""


@dataclass(frozen=True)
class Store:
    """An open database; made by `open_store`, shared by all threads of a process.

    Attributes:
        engine: SQLAlchemy's engine.
        clock: seconds since the epoch.
        url: where it is, without a password.
        hasher: argon2id, for passwords.
        swept: when this process last tidied up what, by `clock`.
    """

    engine: Engine
    clock: Callable[[], float]
    url: str
    hasher: argon2.PasswordHasher
    _one_writer: contextlib.AbstractContextManager[object] = field(repr=False)
    _secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    swept: dict[str, float] = field(default_factory=dict, repr=False)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one moment and changes nothing."""
        with Session(self.engine, info={SECRETS: self._secrets}) as session:
            yield session
            session.rollback()

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is whole on disk when this ends, or has not been if an error leaves it.

        SQLite has one writer at a time. Threads of this process queue for it here, in turn, since SQLite's
        own way is to sleep and try again, which starves some of many.
        """
        engine = self.engine.execution_options(begin="IMMEDIATE")
        with self._one_writer, Session(engine, info={SECRETS: self._secrets}) as session:
            yield session
            session.commit()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_store(
    url: str | Path = DEFAULT_URL,
    *,
    clock: Callable[[], float] = time.time,
    hasher: argon2.PasswordHasher | None = None,
    make: bool = True,
) -> Store:
    """Open a database, and make or upgrade its tables.

    Args:
        url: an SQLAlchemy URL of SQLite or PostgreSQL, or the path of an SQLite file.
        clock: seconds since the epoch.
        hasher: of passwords; argon2id with the library's defaults if not given.
        make: whether an SQLite file that is not there is made.

    Raises:
        ConfigError: it is not a URL of a database that we know, or there is no file and none is to be made.
        StorageError: it can't be opened, or was written by a newer version of this program.
    """
    parsed = _parse(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    shown = parsed.render_as_string(hide_password=True)
    if sqlite and not make and not Path(parsed.database or "").is_file():
        raise ConfigError("there is no such database", shown, "look at the file's name")
    try:
        engine = _sqlite(parsed) if sqlite else _postgresql(parsed)
        try:
            if sqlite:
                _write_ahead(engine)
            upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        cure = (
            "look at the file's folder and permissions"
            if sqlite
            else "look at the URL, and whether PostgreSQL runs there"
        )
        raise StorageError(f"the labelling database can't be opened: {cause}", shown, cure) from error
    one_writer = threading.Lock() if sqlite else contextlib.nullcontext()
    return Store(engine, clock, shown, hasher or argon2.PasswordHasher(), one_writer)


def _parse(url: str | Path) -> URL:
    given = str(url)
    if "://" not in given:
        given = f"sqlite:///{given}"
    try:
        parsed = make_url(given)
        backend = parsed.get_backend_name()
    except ArgumentError as error:
        raise ConfigError(
            f"not a database URL: {error}", "--database", f"give one like {DEFAULT_URL}"
        ) from error
    if backend in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(
            f"there is no support for {backend!r}", "--database", "use sqlite:///FILE or postgresql://..."
        )
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError("a database in memory would forget everything", "--database", "name a file")
    return parsed


def _sqlite(url: URL) -> Engine:
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=16,
        max_overflow=112,
        connect_args={"timeout": BUSY_MILLISECONDS / 1000, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: object, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # we say BEGIN ourselves
        cursor = connection.cursor()  # type: ignore[attr-defined]
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        cursor.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer fails at once if another wrote in between; so writers say it first.
        connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")

    return engine


def _postgresql(url: URL) -> Engine:
    """Connections that have been idle are asked for a sign of life before they are used: the server may have
    been started anew. One that was used just now is not, which saves a question in each transaction."""
    engine = create_engine(url, pool_size=10, max_overflow=54)

    @event.listens_for(engine, "checkin")
    def checkin(_: object, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < IDLE_SECONDS:
            return
        try:
            connection.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError from error  # the pool makes a new one and tries again

    return engine


def _write_ahead(engine: Engine) -> None:
    """Put the file into WAL mode, in which it stays. Of several that want to at once SQLite refuses all but
    one, without waiting."""
    for left in range(WAL_TRIES, -1, -1):
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not left:
                raise
        finally:
            connection.close()
        time.sleep(0.1)


# -- migrations


def _script() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables up to `revision`, in one transaction; nothing happens if they are.

    Raises:
        StorageError: the database was written by a newer version of this program.
    """
    config = _script()
    if (
        revision == "head"
        and current_revision(engine) == ScriptDirectory.from_config(config).get_current_head()
    ):
        return
    with engine.execution_options(begin="IMMEDIATE").begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, revision)
        except CommandError as error:
            if "Can't locate revision" not in str(error):
                raise
            shown = engine.url.render_as_string(hide_password=True)
            cure = "install the newer version of instructgpt, or give another database"
            raise StorageError(
                "the labelling database was written by a newer version", shown, cure
            ) from error


def current_revision(engine: Engine) -> str | None:
    """Name of the last migration that was applied; None for an empty database."""
    with engine.connect() as connection:
        if not engine.dialect.has_table(connection, "alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


# -- small things that every part needs


def health(store: Store) -> None:
    """
    Raises:
        StorageError: the database doesn't answer.
    """
    try:
        with store.read() as session:
            session.execute(text("SELECT 1"))
    except DatabaseError as error:
        raise StorageError(f"the labelling database doesn't answer: {error.orig}", store.url) from error


def store_secret(store: Store, name: str) -> bytes:
    """32 random bytes under this name, made at first use and the same ever after."""
    with store.read() as session:
        found = _known_secret(session, name)
    if found is not None:
        return found
    with store.write() as session:
        return secret(session, name)


def _known_secret(session: Session, name: str) -> bytes | None:
    seen: dict[str, bytes] = session.info[SECRETS]
    if name not in seen:
        found = session.scalars(select(SecretRow.value).where(SecretRow.name == name)).first()
        if found is None:
            return None
        seen[name] = found
    return seen[name]


def secret(session: Session, name: str) -> bytes:
    """As `store_secret`, within a transaction; a writing one if it may be the first use."""
    found = _known_secret(session, name)
    if found is None:
        serialise(session, f"secret:{name}")  # two that both find nothing must not both make one
        found = _known_secret(session, name)
    if found is None:
        found = secrets.token_bytes(32)
        session.add(SecretRow(name=name, value=found))
        session.flush()
    return found


def serialise(session: Session, name: str) -> None:
    """Let one writing transaction at a time past this point, for each name, until it ends. SQLite's writers
    are alone anyway."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": number})


Row = TypeVar("Row", bound=Base)


def bounded(number: int) -> int:
    """A number from outside, cut to what every database can hold: for limits, and for ids to begin behind."""
    return min(max(number, 0), 2**31 - 1)


def get(session: Session, table: type[Row], number: int, what: str) -> Row:
    """The row with this id.

    Raises:
        NotFound: there is none; ids that no database could hold are among them.
    """
    row = session.get(table, number) if 0 < number < 2**31 else None
    if row is None:
        raise NotFound(f"there is no such {what}")
    return row
