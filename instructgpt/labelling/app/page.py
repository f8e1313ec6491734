"""One request as the pages see it: who asks, in which language, how to answer. Every route depends on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Depends, Path, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from instructgpt.labelling.app.guard import csrf_token, new_secret, same_token
from instructgpt.labelling.app.markdown import render_markdown
from instructgpt.labelling.app.settings import AppSettings
from instructgpt.labelling.app.texts import LANGUAGES, Translator, best_language, translator
from instructgpt.labelling.app.wording import ago, clock, duration
from instructgpt.labelling.store import people, sessions
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.people import Person

FOLDER = FilePath(__file__).parent
THEMES = ("system", "light", "dark")
SESSION, SEED, LANGUAGE, THEME = "label_session", "label_seed", "label_language", "label_theme"
YEAR, SESSION_DAYS = 365 * 86400, 14

Id = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A number in a path; others are answered as a page that isn't there."""


class LoginNeeded(Exception):
    """Nobody is logged in, and the page is not for everybody."""


class StaleForm(Exception):
    """A form without the token of this browser and session."""


@dataclass
class Site:
    """What all requests share: `app.state.site`."""

    store: Store
    settings: AppSettings
    templates: jinja2.Environment
    static_version: str
    jobs: Any
    """The running requests for replies, by project: `ask.Jobs`."""
    single: Person | None = None
    """Whoever is there in single-user mode."""


@dataclass(frozen=True)
class Page:
    """A request with its visitor. `person` is None on the few pages that need no log-in."""

    request: Request
    site: Site
    person: Person | None
    session: str
    seed: str
    t: Translator
    theme: str
    is_new_browser: bool = field(default=False)

    @property
    def store(self) -> Store:
        """The store."""
        return self.site.store

    @property
    def me(self) -> int:
        """Id of the person who asks.

        Raises:
            LoginNeeded: nobody is logged in.
        """
        if self.person is None:
            raise LoginNeeded
        return self.person.id

    @property
    def csrf(self) -> str:
        """The token that this visitor's forms carry."""
        return csrf_token(self.seed, self.session)

    @property
    def wants_json(self) -> bool:
        """Whether a script asks: it gets JSON instead of a page."""
        return self.request.headers.get("accept", "").startswith("application/json")

    @property
    def may_review(self) -> bool:
        """Whether labels of others may be seen."""
        return self.person is not None and self.person.role in ("admin", "reviewer")

    @property
    def may_administer(self) -> bool:
        """Whether everything may be changed."""
        return self.person is not None and self.person.role == "admin"

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """The page of a template."""
        html = self.site.templates.get_template(template).render(
            page=self,
            t=self.t,
            path=self.request.url.path,
            languages=LANGUAGES,
            themes=THEMES,
            markdown=render_markdown,
            ago=lambda at: ago(self.t, at, self.store.clock()),
            duration=lambda seconds: duration(self.t, seconds),
            clock=clock,
            **values,
        )
        return self.finish(HTMLResponse(html, status))

    def go(self, path: str, **query: str) -> Response:
        """Answer to a form: see that page next."""
        target = quote(path, safe="/?=&#%") + (f"?{urlencode(query)}" if query else "")
        if self.wants_json:
            return self.finish(JSONResponse({"next": target}))
        return self.finish(RedirectResponse(target, 303))

    def finish(self, response: Response) -> Response:
        """Give a new browser the secret that its forms are checked by."""
        response.headers["Vary"] = "Accept-Language, Cookie"
        if self.is_new_browser:
            self.keep(response, SEED, self.seed, YEAR)
        return response

    def keep(self, response: Response, name: str, value: str, seconds: int) -> None:
        """Set a cookie that scripts and other sites can't use."""
        response.set_cookie(
            self.cookie(name),
            value,
            max_age=seconds,
            secure=self.site.settings.secure_cookies,
            httponly=True,
            samesite="lax",
        )

    def drop(self, response: Response, name: str) -> None:
        """Remove a cookie."""
        response.delete_cookie(
            self.cookie(name), secure=self.site.settings.secure_cookies, httponly=True, samesite="lax"
        )

    def cookie(self, name: str) -> str:
        """A cookie's name: over TLS with the prefix that keeps neighbouring hosts from setting it."""
        return cookie_name(self.site.settings, name)

    @property
    def address(self) -> str:
        """Where the visitor is, for the limit on log-ins; a proxy's word is taken if it is a trusted one."""
        peer = self.request.client.host if self.request.client else ""
        if self.site.settings.trusts(peer):
            forwarded = self.request.headers.get("x-forwarded-for", "").split(",")[-1].strip()
            return forwarded[:64] or peer
        return peer

    @property
    def base_url(self) -> str:
        """The address under which this visitor's links work; the host was checked."""
        return self.site.settings.public_url.rstrip("/") or str(self.request.base_url).rstrip("/")


def cookie_name(settings: AppSettings, name: str) -> str:
    """See `Page.cookie`."""
    return f"__Host-{name}" if settings.secure_cookies else name


def _person(request: Request, site: Site, session: str) -> Person | None:
    if site.single is not None:
        return site.single
    header = site.settings.trusted_header
    if header:
        peer = request.client.host if request.client else ""
        names = request.headers.getlist(header)
        if not site.settings.trusts(peer) or len(names) != 1 or not names[0].strip():
            return None
        name = names[0].strip().encode("latin-1", "replace").decode("utf-8", "replace")
        found = people.ensure_person(site.store, name, "labeler")
        return found if found.active else None
    if not session or len(session) > 512:
        return None
    opened = sessions.session_of(site.store, session)
    return opened.person if opened else None


def open_page(request: Request) -> Page:
    """The visitor of any page, logged in or not."""
    site: Site = request.app.state.site
    cookies = request.cookies
    session = cookies.get(cookie_name(site.settings, SESSION), "")
    seed = cookies.get(cookie_name(site.settings, SEED), "")
    is_new = not 20 <= len(seed) <= 100
    person = _person(request, site, session)
    theme = cookies.get(cookie_name(site.settings, THEME), "")
    page = Page(
        request=request,
        site=site,
        person=person,
        session=session,
        seed=new_secret() if is_new else seed,
        t=translator(_language(request, site)),
        theme=theme if theme in THEMES else THEMES[0],
        is_new_browser=is_new,
    )
    request.state.page = page
    return page


def _language(request: Request, site: Site) -> str:
    chosen = request.cookies.get(cookie_name(site.settings, LANGUAGE), "")
    return chosen if chosen in LANGUAGES else best_language(request.headers.get("accept-language", ""))


def stranger(request: Request) -> Page:
    """The page of a request that failed before its visitor was known: for error pages, asks no database."""
    site: Site = request.app.state.site
    language = translator(_language(request, site))
    return Page(request, site, None, "", "", language, THEMES[0])


def _needs(allowed: Callable[[Page], bool]) -> Callable[[Page], Page]:
    def check(page: Annotated[Page, Depends(open_page)]) -> Page:
        if page.person is None:
            raise LoginNeeded
        if not allowed(page):
            raise HTTPException(403)
        return page

    return check


Anyone = Annotated[Page, Depends(open_page)]
Member = Annotated[Page, Depends(_needs(lambda page: True))]
Reviewer = Annotated[Page, Depends(_needs(lambda page: page.may_review))]
Admin = Annotated[Page, Depends(_needs(lambda page: page.may_administer))]


class Posted:
    """The fields of a form whose token was right."""

    def __init__(self, items: list[tuple[str, str]], files: dict[str, UploadFile]) -> None:
        self.items, self.files = items, files

    def text(self, name: str, default: str = "") -> str:
        """The last value of a field, with newlines as the rest of the world writes them."""
        values = self.all(name)
        return values[-1] if values else default

    def line(self, name: str, default: str = "") -> str:
        """The same without the space around it."""
        return self.text(name, default).strip()

    def all(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self.items if key == name]

    def on(self, name: str) -> bool:
        """Whether a box was ticked."""
        return bool(self.text(name))

    def values(self) -> dict[str, list[str]]:
        """Everything, to fill the form again."""
        found: dict[str, list[str]] = {}
        for key, value in self.items:
            found.setdefault(key, []).append(value)
        return found


async def _posted(request: Request, page: Anyone) -> AsyncIterator[Posted]:
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/") and not page.may_administer:
        raise HTTPException(415)
    form = await request.form(
        max_files=4, max_fields=2000, max_part_size=request.app.state.site.settings.form_bytes
    )
    items: list[tuple[str, str]] = []
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files[name] = value
        else:
            # Databases can't hold NUL, and browsers never send it.
            items.append((name, value.replace("\r\n", "\n").replace("\x00", "")))
    posted = Posted(items, files)
    try:
        if not same_token(posted.text("csrf"), page.csrf) or page.is_new_browser:
            raise StaleForm
        yield posted
    finally:
        await form.close()


Form = Annotated[Posted, Depends(_posted)]
