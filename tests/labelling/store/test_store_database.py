"""Opening, upgrading, and what the databases themselves refuse."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DatabaseError

from instructgpt.errors import ConfigError, StorageError
from instructgpt.labelling.store import audit, database, people
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.tables import Base


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/new.db"
    make: Callable[[bool], str] = request.getfixturevalue("new_postgres")
    return make(False)


def raw_engine(url: str) -> Engine:
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def test_an_empty_database_gets_exactly_the_tables_of_the_code(empty_url: str) -> None:
    store = open_store(empty_url)
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert people.any_person(store) is False
    store.close()


def test_an_older_database_is_upgraded_and_keeps_its_rows(empty_url: str) -> None:
    if empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).parent.mkdir()
    engine = raw_engine(empty_url)
    database.upgrade(engine, "0001")
    assert database.current_revision(engine) == "0001"
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO people (id, name, name_key, role, active, excluded, created_at)"
                " VALUES (7, 'Ann', 'ann', 'admin', true, false, 5.5)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO audit (id, at, action, subject, detail) VALUES (1, 5.5, 'old', 'person 7', '{}')"
            )
        )
    engine.dispose()
    store = open_store(empty_url)
    assert people.person(store, 7) == people.Person(7, "Ann", "admin", None, True, False, 5.5, None)
    assert [entry.action for entry in audit.audit_log(store, by=7)] == ["old"]
    assert database.current_revision(store.engine) == "0002"
    store.close()


def test_a_newer_database_is_refused_and_untouched(empty_url: str) -> None:
    store = open_store(empty_url)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer version"):
        open_store(empty_url)
    assert database.current_revision(store.engine) == "9999"
    store.close()


def test_many_may_start_at_once_on_an_empty_database(empty_url: str) -> None:
    stores: list[Store] = []
    threads = [threading.Thread(target=lambda: stores.append(open_store(empty_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4
    secrets = {database.store_secret(store, "x") for store in stores}
    assert len(secrets) == 1 and len(secrets.pop()) == 32
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET action = 'never'",
        "DELETE FROM audit",
        "DELETE FROM labels",
        "UPDATE labels SET answer = '{}'",
        "UPDATE labels SET person_id = 2",
    ],
)
def test_the_database_refuses_to_change_what_was_written(store: Store, statement: str) -> None:
    ann = people.create_person(store, "Ann", None, "admin", by=None)
    insert_a_label(store, ann.id)
    with pytest.raises(DatabaseError, match="never changed"), store.write() as session:
        session.execute(text(statement))
    assert len(audit.audit_log(store, by=ann.id)) == 1


def test_postgresql_refuses_to_empty_the_tables(store: Store) -> None:
    if store.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(DatabaseError, match="never changed"), store.write() as session:
        session.execute(text("TRUNCATE audit"))


def insert_a_label(store: Store, person_id: int) -> None:
    rows = {
        "projects": "id, name, kind, instructions, replies, overlap, lease_minutes, pass_mark, everyone,"
        " seed, valid, test, status, created_at, tasks, screening_tasks, examples"
        " VALUES (1, 'P', 'rank', '', 2, 1, 60, 1, true, 0, 0, 0, 'open', 0, 1, 0, 0",
        "tasks": "id, project_id, purpose, position, lane, key, state, withdrawn, wanted, taken, labels,"
        " skips, reply_count, prompt_hash, style, brief, explanation"
        " VALUES (1, 1, 'work', 1, 1, 'k', 'full', false, 1, 1, 1, 0, 2, '', 'plain', '', ''",
        "assignments": "id, task_id, project_id, person_id, purpose, round, state, token, shown, leased_at"
        f" VALUES (1, 1, 1, {person_id}, 'work', 0, 'submitted', 't', '[]', 0",
        "labels": "id, assignment_id, revision, latest, project_id, task_id, person_id, purpose, token,"
        " answer, digest, submitted_at, seconds"
        f" VALUES (1, 1, 0, true, 1, 1, {person_id}, 'work', 't', '{{}}', '', 0, 0",
    }
    with store.write() as session:
        for table, values in rows.items():
            session.connection().exec_driver_sql(
                f"INSERT INTO {table} ({values.replace(' VALUES', ') VALUES')})"
            )


def test_sqlite_is_set_up_so_that_a_commit_survives_a_power_cut(sqlite_store: Store) -> None:
    with sqlite_store.engine.connect() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    # synchronous 2 is FULL in SQLite's documentation.
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "no such://thing"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url)


def test_a_place_that_cannot_be_written_is_told_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be opened"):
        open_store(tmp_path / "file" / "x.db")


def test_a_file_that_is_no_database_is_told_in_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, and long enough to be looked at\n" * 100)
    with pytest.raises(StorageError, match="can't be opened"):
        open_store(tmp_path / "x.db")


def test_a_password_in_the_url_is_never_shown() -> None:
    with pytest.raises(StorageError) as caught:
        open_store("postgresql://ann:hunter22@127.0.0.1:1/x")
    assert "hunter22" not in str(caught.value) and "ann" in str(caught.value)


def test_health_says_when_the_database_is_gone(store: Store, tmp_path: Path) -> None:
    database.health(store)
    gone = open_store(tmp_path / "folder" / "x.db")
    database.health(gone)
    gone.close()
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="doesn't answer"):
        database.health(gone)
