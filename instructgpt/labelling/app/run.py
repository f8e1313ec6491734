"""Verb `label`: serve the labelling app, export what labelers made, or tell how far they agree."""

from __future__ import annotations

import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from instructgpt.errors import ConfigError
from instructgpt.labelling.app.settings import AppSettings, is_loopback

if TYPE_CHECKING:
    from instructgpt.labelling.store.database import Store
    from instructgpt.labelling.store.projects import Project

DATABASE = "sqlite:///labelling.db"
DEMO_DATABASE = "sqlite:///labelling-demo.db"
FEEDBACK = "feedback"
"""Folder of an export with what users said of served replies."""
PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "sqlalchemy": "sqlalchemy",
    "alembic": "alembic",
    "argon2": "argon2-cffi",
    "python_multipart": "python-multipart",
    "markdown_it": "markdown-it-py",
    "nh3": "nh3",
}
"""Module -> package of the extra `label` without which nothing works here."""
SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps others waiting whose database has answered (Python: 0.005)."""
GRACE_SECONDS = 5
"""How long requests may still take when the server is asked to stop."""


@dataclass(frozen=True)
class LabelConfig:
    """Collect demonstrations, rankings and comparisons in the browser."""

    host: str = "127.0.0.1"
    """Address to bind; 0.0.0.0 lets other machines in."""
    port: int = 8600
    """Port to bind; 0 takes a free one."""
    database: str = ""
    """Where all is kept: sqlite:///FILE (labelling.db if empty) or postgresql://USER:PASSWORD@HOST/NAME."""
    demo: bool = False
    """A sample project made by the practice world, with replies to rank; implies --single-user."""
    single_user: bool = False
    """No log-in: whoever is at this machine does everything. Loopback only."""
    public_url: str = ""
    """The address that people type when it is another than host and port, as in https://label.example.org."""
    trusted_header: str = ""
    """Header in which a reverse proxy names the person who is logged in, as in X-Forwarded-User."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of the proxies that are believed."""
    admin: str = ""
    """With --trusted-header: the name of a person who shall be an administrator."""
    export: str = ""
    """Write what labelers made into this folder, and serve nothing."""
    quality: bool = False
    """Print agreement and quality of the labels, and serve nothing."""
    project: str = ""
    """With --export and --quality: number or name of the only project meant."""
    withdraw: str = ""
    """A user of served models who takes back their consent: what they said is exported no more. Serves
    nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}", "--port", "use 1 to 65535, or 0 for a free one")
        if self.single_user_mode and not is_loopback(self.host):
            raise ConfigError(
                f"without log-in, everybody who reaches {self.host} would be the administrator",
                "--host",
                "leave --host out to stay on this machine, or drop --single-user and invite people",
            )
        if self.admin and not self.trusted_header:
            raise ConfigError(
                "an administrator's name was given without --trusted-header",
                "--admin",
                "leave it out and use the invitation link that is printed at the first start",
            )
        if self.project and not (self.export or self.quality):
            raise ConfigError(
                "--project chooses what to export or to judge",
                "--project",
                "give --export FOLDER or --quality too",
            )
        if sum(map(bool, (self.export, self.quality, self.withdraw))) > 1:
            where = "--export, --quality, --withdraw"
            raise ConfigError("two things were asked at once", where, "run them one by one")
        self.settings()

    @property
    def single_user_mode(self) -> bool:
        """Whether nobody logs in."""
        return self.single_user or self.demo

    def settings(self) -> AppSettings:
        """What the app must know of this."""
        return AppSettings(
            single_user=self.single_user_mode,
            public_url=self.public_url,
            trusted_header=self.trusted_header,
            trusted_proxies=self.trusted_proxies,
        )


def run(config: LabelConfig) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM, export, or judge quality; returns the summary.

    Summary of a server: `address`, `database`, `labels` stored in all. Of an export: `folder`, `files`
    (name -> lines), `left_out` (reason -> labels). Of the quality: `projects` (name -> report). Of a
    withdrawn consent: `withdrawn`, how many rows it concerned.

    Raises:
        ConfigError: flags that contradict, a port that is taken, packages that are missing.
        StorageError: the database can't be reached, or the folder can't be written.
    """
    _check_packages()
    from instructgpt.labelling.store.database import open_store

    reads = bool(config.quality or config.export or config.withdraw)
    store = open_store(config.database or (DEMO_DATABASE if config.demo else DATABASE), make=not reads)
    try:
        if config.withdraw:
            return _withdraw(store, config.withdraw)
        if config.quality:
            return _quality(store, config)
        return _export(store, config) if config.export else _serve(store, config)
    finally:
        store.close()


def _check_packages() -> None:
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"labelling needs packages that are not installed: {', '.join(missing)}",
            cure='run: pip install "instructgpt[label]"',
        )


# -- serving


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the port is taken, or the address isn't ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"can't use the address {host!r}: {error.strerror}", "--host", "check it"
        ) from error
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"can't listen at {host}:{port}: {error.strerror}",
            "--port",
            "stop the other program, or choose another port: --port 0 takes a free one",
        ) from error
    return bound


def _serve(store: Store, config: LabelConfig) -> dict[str, Any]:
    import uvicorn

    from instructgpt.labelling.app.factory import create_app
    from instructgpt.labelling.store import people, progress, projects

    sys.setswitchinterval(SWITCH_SECONDS)
    start = _start_page(store, config)
    app = create_app(store, config.settings())
    if config.admin:
        person = people.ensure_person(store, config.admin, "admin")
        if person.role != "admin":
            people.set_role(store, person.id, "admin", by=None)
    bound = _bind(config.host, config.port)
    address = config.public_url.rstrip("/") or _address(config.host, bound.getsockname()[1])

    class Server(uvicorn.Server):
        """Says when it is up, and ends on a signal without raising it once more."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                _announce(store, config, address, start)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    # Who speaks for whom behind a proxy is settled by --trusted-proxies alone.
    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        Server(settings).run(sockets=[bound])
    finally:
        bound.close()
    labels = sum(progress.progress(store, p.id, by=None).labels for p in projects.projects(store))
    return {"verb": "label", "address": address, "database": store.url, "labels": labels}


def _address(host: str, port: int) -> str:
    """The URL under which this machine reaches the server."""
    if host in ("", "0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _start_page(store: Store, config: LabelConfig) -> str:
    """The path to open first; makes the sample project where asked."""
    if not config.demo:
        return "/"
    from instructgpt.labelling.demo import make_demo

    return f"/projects/{make_demo(store)}/work"


def _announce(store: Store, config: LabelConfig, address: str, start: str) -> None:
    from instructgpt.labelling.store import invitations, people

    lines = [f"labelling at {address}{start}"]
    if not (config.single_user_mode or config.trusted_header or people.any_person(store)):
        token, _ = invitations.invite(store, "admin", by=None, note="first administrator")
        lines.append(f"first administrator: {address}/invitation/{token}")
    if not is_loopback(config.host) and urlsplit(config.public_url).scheme != "https":
        lines.append(
            "passwords travel unencrypted: put a proxy with TLS in front and name its address by --public-url"
        )
    lines.append("Ctrl-C stops it; everything that was submitted is stored")
    print("\n".join(lines), flush=True)


# -- exporting


def _export(store: Store, config: LabelConfig) -> dict[str, Any]:
    from instructgpt.labelling.store import export, feedback, projects

    folder, found = Path(config.export), projects.projects(store)
    said = not config.project and feedback.feedback_counts(store)["exportable"] > 0
    chosen = _chosen(found, config.project) if found or not said else []
    files: dict[str, int] = {}
    left_out: dict[str, int] = {}
    parts = [("" if len(chosen) == 1 else folder_name(project), project.id) for project in chosen]
    for part, project_id in [*parts, *([(FEEDBACK, None)] if said else [])]:
        if project_id is None:
            exported = export.export_feedback(store, folder / part, by=None)
        else:
            exported = export.export_project(store, project_id, folder / part, by=None)
        files |= {f"{part}/{name}" if part else name: lines for name, lines in exported.files.items()}
        for reason, labels in exported.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + labels
    table = "\n".join(f"{lines:>8,}  {folder / name}" for name, lines in sorted(files.items()))
    return {
        "verb": "label",
        "folder": config.export,
        "files": files,
        "left_out": left_out,
        "table": table or "there are no labels yet",
    }


def _withdraw(store: Store, user: str) -> dict[str, Any]:
    from instructgpt.labelling.store.feedback import withdraw_consent

    return {"verb": "label", "user": user, "withdrawn": withdraw_consent(store, user)}


def _quality(store: Store, config: LabelConfig) -> dict[str, Any]:
    from instructgpt.labelling.quality import project_quality, report_text
    from instructgpt.labelling.store import projects

    chosen = _chosen(projects.projects(store), config.project)
    reports = {p.settings.name: project_quality(store, p.id, by=None) for p in chosen}
    table = "\n\n".join(f"{name}\n\n{report_text(report)}" for name, report in reports.items())
    rows = {name: report.row() for name, report in reports.items()}
    return {"verb": "label", "projects": rows, "table": table}


def folder_name(project: Project) -> str:
    """The folder of a project among others: number and name."""
    slug = re.sub(r"[^\w]+", "-", project.settings.name.lower()).strip("-")
    return f"{project.id}-{slug}"[:60].rstrip("-")


def _chosen(found: list[Project], wanted: str) -> list[Project]:
    if not found:
        raise ConfigError("this database has no project yet", cure="make one in the browser first")
    if not wanted:
        return found
    chosen = [p for p in found if wanted in (str(p.id), p.settings.name)]
    if not chosen:
        names = ", ".join(f"{p.id} ({p.settings.name})" for p in found)
        raise ConfigError(f"there is no project {wanted!r}", "--project", f"choose one of {names}")
    return chosen[:1]
