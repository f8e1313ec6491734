"""Log-in, invitations, one's own password, language and colours."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from instructgpt.labelling.app.page import (
    LANGUAGE,
    SESSION,
    SESSION_DAYS,
    THEME,
    THEMES,
    YEAR,
    Anyone,
    Form,
    Member,
    Page,
)
from instructgpt.labelling.app.texts import LANGUAGES
from instructgpt.labelling.store import database, invitations, people, sessions
from instructgpt.labelling.store.refusals import Conflict, Invalid, LoginRefused, NotFound, TooManyAttempts

router = APIRouter(include_in_schema=False)

MAX_PASSWORD = 1000
"""Longer ones are refused before they are hashed."""


def local_path(target: str) -> str:
    """`target` if it is a path of this app, else the start page: a log-in must not lead to another site."""
    target = target.strip()
    if not target.startswith("/") or target.startswith(("//", "/\\")) or len(target) > 500:
        return "/"
    if any(ord(letter) < 33 or ord(letter) == 127 or letter == "\\" for letter in target):
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc else target


@router.get("/login")
def login_page(page: Anyone, next: str = "/") -> Response:
    """The log-in form."""
    if page.person is not None:
        return page.go(local_path(next))
    if page.site.settings.trusted_header:
        return page.render("error.html", 403, code="proxy", what="")
    return page.render("login.html", next=local_path(next), name="", first=not people.any_person(page.store))


@router.post("/login")
def login(page: Anyone, form: Form) -> Response:
    """Start a session."""
    name, password, target = form.line("name"), form.text("password"), local_path(form.text("next"))
    values = {"next": target, "name": name[:64], "first": False}
    try:
        if not name or len(name) > 200 or not 0 < len(password) <= MAX_PASSWORD:
            raise LoginRefused
        token, session = sessions.log_in(page.store, name, password, page.address, days=SESSION_DAYS)
    except LoginRefused:
        return page.render("login.html", 401, problem=page.t("login.refused"), **values)
    except TooManyAttempts as refusal:
        minutes = max(1, round(refusal.retry_after / 60))
        response = page.render("login.html", 429, problem=page.t.count("login.limit", minutes), **values)
        response.headers["Retry-After"] = str(max(1, round(refusal.retry_after)))
        return response
    return _enter(page, token, session.person, target)


def _enter(page: Page, token: str, person: people.Person, target: str) -> Response:
    response = page.go(target)
    page.keep(response, SESSION, token, SESSION_DAYS * 86400)
    if person.language in LANGUAGES:
        page.keep(response, LANGUAGE, str(person.language), YEAR)
    return response


@router.post("/logout")
def logout(page: Anyone, form: Form) -> Response:
    """End the session."""
    if page.session:
        sessions.log_out(page.store, page.session)
    response = page.go("/login")
    page.drop(response, SESSION)
    return response


@router.get("/invitation/{token}")
def invitation_page(token: str, page: Anyone) -> Response:
    """Where an invited person chooses a name and a password."""
    invitation = invitations.invitation(page.store, token[:200])
    return page.render(
        "invitation.html", token=token, invitation=invitation, name=_reset_name(page, invitation)
    )


def _reset_name(page: Page, invitation: invitations.Invitation) -> str:
    """The name of the person whose password an invitation renews; empty for a newcomer."""
    return people.person(page.store, invitation.person_id).name if invitation.person_id else ""


@router.post("/invitation/{token}")
def accept(token: str, page: Anyone, form: Form) -> Response:
    """Become a person of this server."""
    invitation = invitations.invitation(page.store, token[:200])
    renewed = _reset_name(page, invitation)
    name, password = renewed or form.line("name"), form.text("password")
    problem = _password_problem(page, password, form.text("again"))
    if not problem and not 1 <= len(name) <= 64:
        problem = page.t("problem.name")
    person = None
    if not problem:
        try:
            person = invitations.accept_invitation(page.store, token[:200], name, password)
        except Conflict as refusal:
            if refusal.code != "name-taken":
                raise
            problem = page.t("problem.name-taken")
        except Invalid as refusal:
            problem = refusal.what
    if person is None:
        return page.render(
            "invitation.html",
            422,
            token=token,
            invitation=invitation,
            name=renewed,
            problem=problem,
            typed=form.line("name")[:64],
        )
    people.set_language(page.store, person.id, page.t.language)
    secret, session = sessions.open_session(page.store, person.id, days=SESSION_DAYS)
    return _enter(page, secret, session.person, "/")


def _password_problem(page: Page, password: str, again: str) -> str:
    if len(password) < 10:
        return page.t("problem.password")
    if len(password) > MAX_PASSWORD:
        return page.t("problem.long-password", n=MAX_PASSWORD)
    return "" if password == again else page.t("problem.again")


@router.get("/account")
def account(page: Member) -> Response:
    """One's own settings."""
    return page.render("account.html")


@router.post("/account")
def change_password(page: Member, form: Form) -> Response:
    """A new password."""
    problem = _password_problem(page, form.text("password"), form.text("again"))
    if not problem:
        try:
            people.change_password(
                page.store, page.me, form.text("old")[:MAX_PASSWORD], form.text("password")
            )
        except LoginRefused:
            problem = page.t("problem.old-password")
    if problem:
        return page.render("account.html", 422, problem=problem)
    token, _ = sessions.open_session(page.store, page.me, days=SESSION_DAYS)
    response = page.render("account.html", done=True)
    if not (page.site.settings.single_user or page.site.settings.trusted_header):
        page.keep(response, SESSION, token, SESSION_DAYS * 86400)
    return response


@router.post("/preferences")
def preferences(page: Anyone, form: Form) -> Response:
    """Another language or other colours, from any page."""
    response = page.go(local_path(form.text("next")))
    language, theme = form.line("language"), form.line("theme")
    if language in LANGUAGES:
        page.keep(response, LANGUAGE, language, YEAR)
        if page.person is not None:
            people.set_language(page.store, page.me, language)
    if theme in THEMES:
        page.keep(response, THEME, theme, YEAR)
    return response


@router.get("/healthz")
def health(page: Anyone) -> Response:
    """Whether the database answers, for whatever watches the server."""
    database.health(page.store)
    return PlainTextResponse("ok")


@router.get("/api/token")
def token(page: Anyone) -> Response:
    """The token of this visitor's forms, for a form that was open while the log-in ran out.

    Only scripts of our own pages can read this answer.
    """
    if page.person is None:
        raise NotFound("nobody is logged in")
    return page.finish(JSONResponse({"csrf": page.csrf}))
