"""What the app must know about where it runs: its name, who may speak to it, how it knows people."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from instructgpt.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "ip6-localhost")
MEBIBYTE = 2**20


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; an empty host means every address."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class AppSettings:
    """How the app is reached and how it knows who is there.

    Attributes:
        single_user: no log-in; whoever reaches the app is its administrator. Loopback only.
        public_url: the address that people type, when it is not the one bound: behind a proxy, or a name.
        trusted_header: a request header in which a reverse proxy names the person who is logged in.
        trusted_proxies: addresses or networks of proxies; the trusted header, and X-Forwarded-For, are
            believed from them alone.
        form_bytes: largest body of a form.
        upload_bytes: largest body of an administrator's upload.

    Raises:
        ConfigError: a setting that contradicts another or can't be read.
    """

    single_user: bool = False
    public_url: str = ""
    trusted_header: str = ""
    trusted_proxies: tuple[str, ...] = ()
    form_bytes: int = 2 * MEBIBYTE
    upload_bytes: int = 64 * MEBIBYTE

    def __post_init__(self) -> None:
        self._check_header()
        self._check_url()

    def _check_header(self) -> None:
        if self.trusted_header and not self.trusted_proxies:
            raise ConfigError(
                "a trusted header was named, but no proxy that may send it",
                "--trusted-proxies",
                "give both: --trusted-header X-Forwarded-User --trusted-proxies 127.0.0.1",
            )
        if self.trusted_header and not re.fullmatch(r"[A-Za-z0-9-]{1,64}", self.trusted_header):
            raise ConfigError(
                f"{self.trusted_header!r} is no header's name", "--trusted-header", "use letters and dashes"
            )
        if self.trusted_header and self.single_user:
            raise ConfigError(
                "both a single user and a proxy's header were asked for",
                "--single-user",
                "choose one: a single user needs no log-in, a proxy does it for many",
            )
        for proxy in self.trusted_proxies:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError as error:
                cure = "give addresses or networks, as in 127.0.0.1 or 10.0.0.0/24"
                raise ConfigError(f"{proxy!r} is no address", "--trusted-proxies", cure) from error

    def _check_url(self) -> None:
        if not self.public_url:
            return
        try:
            parts = urlsplit(self.public_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable or parts.path.strip("/") or parts.query or parts.fragment or parts.username:
            raise ConfigError(
                f"{self.public_url!r} is not an address that the app could have",
                "--public-url",
                "give one like https://label.example.org, without a path",
            )

    @property
    def secure_cookies(self) -> bool:
        """Whether cookies may only travel over TLS."""
        return self.public_url.lower().startswith("https://")

    def knows_host(self, host: str) -> bool:
        """Whether a request's Host header names this app.

        A page of another site can reach a loopback server through a name that it has pointed at 127.0.0.1
        (DNS rebinding). So a name must be known; an address that is a number can't be pointed anywhere.
        """
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?", host)
        if not match:
            return False
        name = match[1].lower().rstrip(".")
        known = {*LOOPBACK_NAMES, socket.gethostname().lower(), (urlsplit(self.public_url).hostname or "")}
        if name in known:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def trusts(self, peer: str) -> bool:
        """Whether the peer of a connection is a proxy whose header is believed."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in ipaddress.ip_network(proxy, strict=False) for proxy in self.trusted_proxies)
