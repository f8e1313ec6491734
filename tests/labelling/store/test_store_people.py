"""Accounts, invitations, sessions, and how many wrong passwords are let through."""

import threading
from typing import Any

import pytest
from sqlalchemy import text

from instructgpt.labelling.store import audit, invitations, people, sessions
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.refusals import (
    Conflict,
    Forbidden,
    Invalid,
    LoginRefused,
    NotFound,
    TooManyAttempts,
)
from instructgpt.labelling.store.sessions import LoginLimits

GOOD = "correct horse battery"


@pytest.fixture
def admin(store: Store) -> Person:
    return people.create_person(store, "Root", GOOD, "admin", by=None)


def everything_stored(store: Store) -> str:
    """All that is in the database, as text."""
    found = []
    with store.engine.connect() as connection:
        for table in ("people", "invitations", "sessions", "login_attempts", "audit"):
            found += [str(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]
    return "\n".join(found)


def test_a_password_is_kept_as_argon2id_and_nowhere_else(store: Store, admin: Person) -> None:
    sessions.log_in(store, "Root", GOOD, "::1")
    kept = everything_stored(store)
    assert "$argon2id$" in kept and GOOD not in kept


@pytest.mark.parametrize("name", ["ROOT", " root ", "Ｒoot", "rOoT"])
def test_names_that_look_alike_are_one_name(store: Store, admin: Person, name: str) -> None:
    with pytest.raises(Conflict) as caught:
        people.create_person(store, name, GOOD, "labeler", by=admin.id)
    assert caught.value.code == "name-taken"
    assert sessions.log_in(store, name, GOOD, "::1")[1].person == admin


@pytest.mark.parametrize(
    ("name", "password", "role", "field"),
    [
        ("", GOOD, "labeler", "name"),
        ("x" * 65, GOOD, "labeler", "name"),
        ("a\x00b", GOOD, "labeler", "name"),
        ("a\u202eb", GOOD, "labeler", "name"),
        ("half \ud800", GOOD, "labeler", "name"),
        ("Ann", "short", "labeler", "password"),
        ("Ann", "x" * 2000, "labeler", "password"),
        ("Ann", GOOD, "king", "role"),
    ],
)
def test_wrong_values_are_refused_by_field(
    store: Store, admin: Person, name: str, password: str, role: Any, field: str
) -> None:
    with pytest.raises(Invalid) as caught:
        people.create_person(store, name, password, role, by=admin.id)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_only_admins_change_accounts(store: Store, admin: Person) -> None:
    ann = people.create_person(store, "Ann", GOOD, "labeler", by=admin.id)
    rob = people.create_person(store, "Rob", GOOD, "reviewer", by=admin.id)
    for who in (ann, rob):
        for act in (
            lambda by=who.id: people.create_person(store, "New", GOOD, "admin", by=by),
            lambda by=who.id: people.set_role(store, by, "admin", by=by),
            lambda by=who.id: people.set_active(store, admin.id, False, by=by),
            lambda by=who.id: people.set_excluded(store, admin.id, True, by=by),
            lambda by=who.id: people.set_password(store, admin.id, GOOD, by=by),
            lambda by=who.id: people.set_group(store, by, "g", by=by),
            lambda by=who.id: invitations.invite(store, "admin", by=by),
            lambda by=who.id: invitations.invitations(store, by=by),
            lambda by=who.id: sessions.create_api_token(store, by, "t", by=by),
            lambda by=who.id: sessions.api_tokens(store, by=by),
            lambda by=who.id: audit.audit_log(store, by=by),
        ):
            with pytest.raises(Forbidden):
                act()
    with pytest.raises(Forbidden):
        people.people(store, by=ann.id)
    assert [person.name for person in people.people(store, by=rob.id)] == ["Ann", "Rob", "Root"]


def test_an_admin_cannot_lock_themselves_out(store: Store, admin: Person) -> None:
    with pytest.raises(Conflict):
        people.set_active(store, admin.id, False, by=admin.id)
    with pytest.raises(Conflict):
        people.set_role(store, admin.id, "labeler", by=admin.id)
    people.set_active(store, admin.id, False, by=None)  # the operator can
    assert not people.person(store, admin.id).active


@pytest.mark.parametrize("number", [0, -1, 99, 2**31, 2**70])
def test_numbers_of_nobody(store: Store, number: int) -> None:
    with pytest.raises(NotFound):
        people.person(store, number)


def test_ensure_person_makes_one_and_keeps_its_role(store: Store, admin: Person) -> None:
    made = people.ensure_person(store, "Zoe", "labeler")
    assert people.ensure_person(store, "zoe", "admin") == made
    assert people.ensure_person(store, "root", "labeler").role == "admin"
    with pytest.raises(LoginRefused):
        sessions.log_in(store, "Zoe", "", "::1")


# -- invitations


def test_an_invitation_makes_one_account_once(store: Store, admin: Person) -> None:
    token, invited = invitations.invite(store, "reviewer", by=admin.id, group="vendor")
    assert token not in everything_stored(store)
    assert invitations.invitation(store, token) == invited
    made = invitations.accept_invitation(store, token, "Ann", GOOD)
    assert (made.role, made.group) == ("reviewer", "vendor")
    with pytest.raises(Conflict) as caught:
        invitations.accept_invitation(store, token, "Eve", GOOD)
    assert caught.value.code == "token-used"
    assert invitations.invitations(store, by=admin.id)[0].person_id == made.id


def test_an_invitation_is_not_used_up_by_a_taken_name(store: Store, admin: Person) -> None:
    token, _ = invitations.invite(store, "labeler", by=admin.id)
    with pytest.raises(Conflict):
        invitations.accept_invitation(store, token, "root", GOOD)
    assert invitations.accept_invitation(store, token, "Ann", GOOD).name == "Ann"


def test_an_invitation_expires_and_can_be_revoked(store: Store, admin: Person, clock: Any) -> None:
    late, _ = invitations.invite(store, "labeler", by=admin.id, days=1)
    revoked, kept = invitations.invite(store, "labeler", by=admin.id)
    invitations.revoke_invitation(store, kept.id, by=admin.id)
    clock.pass_minutes(24 * 60)
    with pytest.raises(Conflict) as caught:
        invitations.accept_invitation(store, late, "Ann", GOOD)
    assert caught.value.code == "token-expired"
    for token in (revoked, "guess", "", "\x00", "half \ud800"):
        with pytest.raises(NotFound):
            invitations.accept_invitation(store, token, "Ann", GOOD)


def test_two_at_once_make_one_account_of_an_invitation(store: Store, admin: Person) -> None:
    token, _ = invitations.invite(store, "labeler", by=admin.id)
    outcomes: list[str] = []

    def accept(name: str) -> None:
        try:
            invitations.accept_invitation(store, token, name, GOOD)
            outcomes.append("made")
        except Conflict as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=accept, args=(f"Ann {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["token-used"] * 7
    assert len(people.people(store, by=None)) == 2


def test_an_invitation_for_somebody_sets_their_password_and_ends_their_sessions(
    store: Store, admin: Person
) -> None:
    ann = people.create_person(store, "Ann", GOOD, "labeler", by=admin.id)
    cookie, _ = sessions.log_in(store, "Ann", GOOD, "::1")
    token, _ = invitations.invite(store, "admin", by=admin.id, person_id=ann.id)
    assert invitations.accept_invitation(store, token, "ignored", "another password") == ann
    assert sessions.session_of(store, cookie) is None
    with pytest.raises(LoginRefused):
        sessions.log_in(store, "Ann", GOOD, "::1")
    assert sessions.log_in(store, "Ann", "another password", "::1")[1].person == ann


# -- sessions


def test_a_session_lasts_until_it_ends(store: Store, admin: Person, clock: Any) -> None:
    cookie, opened = sessions.log_in(store, "Root", GOOD, "::1", days=1)
    assert cookie not in everything_stored(store)
    assert sessions.session_of(store, cookie) == opened
    other, another = sessions.open_session(store, admin.id)
    assert another.csrf != opened.csrf
    sessions.log_out(store, other)
    assert sessions.session_of(store, other) is None
    clock.pass_minutes(24 * 60)
    assert sessions.session_of(store, cookie) is None
    for nonsense in ("", "x", "\x00", "half \ud800", cookie + "x"):
        assert sessions.session_of(store, nonsense) is None


def test_deactivating_ends_sessions_and_tokens_for_good(store: Store, admin: Person) -> None:
    ann = people.create_person(store, "Ann", GOOD, "labeler", by=admin.id)
    cookie, _ = sessions.log_in(store, "Ann", GOOD, "::1")
    token = sessions.create_api_token(store, ann.id, "script", by=admin.id)
    people.set_active(store, ann.id, False, by=admin.id)
    for secret in (cookie, token):
        assert sessions.session_of(store, secret) is None
    with pytest.raises(LoginRefused):
        sessions.log_in(store, "Ann", GOOD, "::1")
    with pytest.raises(Forbidden):
        sessions.open_session(store, ann.id)
    people.set_active(store, ann.id, True, by=admin.id)
    assert sessions.session_of(store, cookie) is None
    assert sessions.log_in(store, "Ann", GOOD, "::1")[1].person == ann


def test_a_new_password_ends_the_old_sessions(store: Store, admin: Person) -> None:
    cookie, _ = sessions.log_in(store, "Root", GOOD, "::1")
    with pytest.raises(LoginRefused):
        people.change_password(store, admin.id, "wrong password", "a new password")
    with pytest.raises(Invalid):
        people.change_password(store, admin.id, GOOD, "short")
    assert sessions.session_of(store, cookie) is not None
    people.change_password(store, admin.id, GOOD, "a new password")
    assert sessions.session_of(store, cookie) is None
    sessions.log_in(store, "Root", "a new password", "::1")


def test_api_tokens_are_listed_without_their_secret_and_revoked(store: Store, admin: Person) -> None:
    token = sessions.create_api_token(store, admin.id, "loader", by=admin.id)
    found = sessions.session_of(store, token)
    assert found is not None and found.person == admin
    (listed,) = sessions.api_tokens(store, by=admin.id)
    assert listed.name == "loader" and token not in str(listed) and token not in everything_stored(store)
    sessions.revoke_api_token(store, listed.id, by=admin.id)
    assert sessions.session_of(store, token) is None


# -- wrong passwords


def test_the_eleventh_wrong_password_is_not_looked_at_nor_is_the_right_one(
    store: Store, admin: Person, clock: Any
) -> None:
    for _ in range(10):
        with pytest.raises(LoginRefused):
            sessions.log_in(store, "Root", "wrong password", "::1")
        clock.pass_minutes(1)
    with pytest.raises(TooManyAttempts) as caught:
        sessions.log_in(store, "Root", GOOD, "10.0.0.9")
    # The first of the ten was 10 minutes ago and is forgotten after 15.
    assert caught.value.retry_after == pytest.approx(300.0)
    clock.pass_minutes(5)
    assert sessions.log_in(store, "Root", GOOD, "::1")[1].person == admin


def test_the_limit_survives_a_restart(store: Store, store_url: str, admin: Person, clock: Any) -> None:
    from instructgpt.labelling.store.database import open_store

    for _ in range(10):
        with pytest.raises(LoginRefused):
            sessions.log_in(store, "Root", "wrong password", "::1")
    again = open_store(store_url, clock=clock, hasher=store.hasher)
    with pytest.raises(TooManyAttempts):
        sessions.log_in(again, "Root", GOOD, "::1")
    again.close()


def test_an_address_is_limited_over_all_names(store: Store, admin: Person) -> None:
    limits = LoginLimits(per_account=10, per_address=3)
    for number in range(3):
        with pytest.raises(LoginRefused):
            sessions.log_in(store, f"guess {number}", "x", "10.0.0.1", limits=limits)
    with pytest.raises(TooManyAttempts):
        sessions.log_in(store, "Root", GOOD, "10.0.0.1", limits=limits)
    assert sessions.log_in(store, "Root", GOOD, "10.0.0.2", limits=limits)[1].person == admin


def test_a_right_password_clears_the_account_and_costs_the_address_nothing(
    store: Store, admin: Person
) -> None:
    limits = LoginLimits(per_account=3, per_address=4)
    for _ in range(5):
        with pytest.raises(LoginRefused):
            sessions.log_in(store, "Root", "wrong password", f"10.0.0.{_}", limits=limits)
        sessions.log_in(store, "Root", GOOD, "10.0.0.200", limits=limits)


def test_many_at_once_do_not_slip_through(store: Store, admin: Person) -> None:
    outcomes: list[type] = []

    def guess() -> None:
        try:
            sessions.log_in(store, "Root", "wrong password", "::1", limits=LoginLimits(per_account=4))
        except (LoginRefused, TooManyAttempts) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(LoginRefused) == 4 and outcomes.count(TooManyAttempts) == 8


@pytest.mark.parametrize("name", ["", "\x00", "half \ud800", "' OR 1=1 --", "x" * 100_000])
def test_strange_names_are_just_wrong(store: Store, admin: Person, name: str) -> None:
    with pytest.raises(LoginRefused):
        sessions.log_in(store, name, GOOD, "\x00 \ud800")


def test_the_audit_tells_who_did_what(store: Store, admin: Person) -> None:
    ann = people.create_person(store, "Ann", GOOD, "labeler", by=admin.id)
    people.set_excluded(store, ann.id, True, by=admin.id)
    people.set_excluded(store, ann.id, False, by=admin.id)
    entries = audit.audit_log(store, by=admin.id, limit=3)
    assert [(entry.person_id, entry.action, entry.subject, entry.detail) for entry in entries] == [
        (admin.id, "set-excluded", f"person {ann.id}", {"excluded": False}),
        (admin.id, "set-excluded", f"person {ann.id}", {"excluded": True}),
        (admin.id, "create-person", f"person {ann.id}", {"role": "labeler"}),
    ]
    assert audit.audit_log(store, by=admin.id, before_id=entries[-1].id)[0].action == "create-person"
