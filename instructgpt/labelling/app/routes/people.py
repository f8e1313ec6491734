"""Administrators invite people, give roles, and switch accounts and their labels off and on."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from instructgpt.labelling.app.page import Admin, Form, Id, Page, Reviewer
from instructgpt.labelling.store import audit, invitations, members, people, projects, screening, sessions
from instructgpt.labelling.store.people import Role
from instructgpt.labelling.store.refusals import Conflict, Invalid, NotFound

router = APIRouter(include_in_schema=False, prefix="/admin")

ROLES: tuple[Role, ...] = ("labeler", "reviewer", "admin")


@router.get("/people")
def people_page(page: Admin) -> Response:
    """Everybody, and the invitations that wait."""
    return _people_page(page)


def _people_page(page: Page, status: int = 200, **values: Any) -> Response:
    waiting = [
        invitation
        for invitation in invitations.invitations(page.store, by=page.me)
        if invitation.used_at is None
        and invitation.revoked_at is None
        and invitation.expires_at > page.store.clock()
    ]
    return page.render(
        "admin/people.html",
        status,
        people=people.people(page.store, by=page.me),
        invitations=waiting,
        tokens=sessions.api_tokens(page.store, by=page.me),
        roles=ROLES,
        **values,
    )


@router.post("/people/invite")
def invite(page: Admin, form: Form) -> Response:
    """Make a link through which one person can join."""
    role, group = _role(form.line("role")), form.line("group")[:64]
    if role is None:
        return _people_page(page, 422, problem=page.t("problem.role"))
    secret, invitation = invitations.invite(
        page.store,
        role,
        by=page.me,
        group=group or None,
        note=form.line("note")[:200],
    )
    return _people_page(page, link=f"{page.base_url}/invitation/{secret}", invitation=invitation)


def _role(text: str) -> Role | None:
    return next((role for role in ROLES if role == text), None)


@router.post("/people/{person_id}/reset")
def reset_password(person_id: Id, page: Admin, form: Form) -> Response:
    """Make a link through which a person chooses a new password."""
    person = people.person(page.store, person_id)
    secret, invitation = invitations.invite(page.store, person.role, by=page.me, person_id=person_id)
    return _people_page(page, link=f"{page.base_url}/invitation/{secret}", invitation=invitation)


@router.post("/invitations/{invitation_id}/revoke")
def revoke(invitation_id: Id, page: Admin, form: Form) -> Response:
    """Make an invitation's link useless."""
    invitations.revoke_invitation(page.store, invitation_id, by=page.me)
    return page.go("/admin/people")


@router.post("/people/{person_id}")
def change_person(person_id: Id, page: Admin, form: Form) -> Response:
    """Role and group, or one of the switches."""
    store, me, action = page.store, page.me, form.line("action")
    try:
        if action == "save":
            _save(page, person_id, form.line("role"), form.line("group")[:64])
        elif action in ("activate", "deactivate"):
            people.set_active(store, person_id, action == "activate", by=me)
        elif action in ("include", "exclude"):
            people.set_excluded(store, person_id, action == "exclude", by=me)
    except (Conflict, Invalid) as refusal:
        return _people_page(page, refusal.status, problem=str(refusal))
    return page.go("/admin/people")


def _save(page: Page, person_id: int, role: str, group: str) -> None:
    person = people.person(page.store, person_id)
    wanted = _role(role)
    if wanted is not None and wanted != person.role:
        people.set_role(page.store, person_id, wanted, by=page.me)
    if group != (person.group or ""):
        people.set_group(page.store, person_id, group or None, by=page.me)


@router.post("/tokens")
def make_token(page: Admin, form: Form) -> Response:
    """A token for programs, shown once."""
    name, person = form.line("name")[:64], form.line("person")
    if not name or not (person.isascii() and person.isdecimal() and len(person) < 10):
        return _people_page(page, 422, problem=page.t("problem.token"))
    try:
        token = sessions.create_api_token(page.store, int(person), name, by=page.me)
    except (Invalid, Conflict, NotFound) as refusal:
        return _people_page(page, 422, problem=str(refusal))
    return _people_page(page, token=token)


@router.post("/tokens/{token_id}/revoke")
def revoke_token(token_id: Id, page: Admin, form: Form) -> Response:
    """End a token."""
    sessions.revoke_api_token(page.store, token_id, by=page.me)
    return page.go("/admin/people")


@router.get("/log")
def log(page: Admin, before: int | None = None) -> Response:
    """What was done by whom; nothing of it can be changed."""
    limit = 100
    before_id = before if before is not None and 0 < before < 2**31 else None
    entries = audit.audit_log(page.store, by=page.me, before_id=before_id, limit=limit)
    names = {person.id: person.name for person in people.people(page.store, by=page.me)}
    return page.render("admin/log.html", entries=entries, names=names, more=len(entries) == limit)


# -- who works on a project, and their screening tests


@router.get("/projects/{project_id}/members")
def members_page(project_id: Id, page: Reviewer) -> Response:
    """Labelers of a project and how their tests went."""
    project = projects.project(page.store, project_id)
    standings = members.members(page.store, project_id, by=page.me)
    inside = {standing.person.id for standing in standings}
    everybody = people.people(page.store, by=page.me) if page.may_administer else []
    outside = [person for person in everybody if person.id not in inside and person.active]
    return page.render("admin/members.html", project=project, standings=standings, outside=outside)


@router.post("/projects/{project_id}/members")
def change_member(project_id: Id, page: Admin, form: Form) -> Response:
    """Let a person in or out, or decide on their test."""
    person, action = form.line("person"), form.line("action")
    if not (person.isascii() and person.isdecimal() and len(person) < 10):
        raise NotFound("there is no such person")
    person_id, me = int(person), page.me
    if action == "add":
        members.add_member(page.store, project_id, person_id, by=me)
    elif action == "remove":
        members.remove_member(page.store, project_id, person_id, by=me)
    elif action in ("pending", "passed", "failed"):
        screening.set_screening(page.store, project_id, person_id, action, by=me)  # type: ignore[arg-type]
    return page.go(f"/admin/projects/{project_id}/members")
