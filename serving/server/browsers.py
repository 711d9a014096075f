"""Refuses what pages of other sites make a browser send to this server.

Whoever has no token to bring is known by nothing but the network that he is in, and so is each page
that he looks at. Such a page can send requests, though not read the responses (cross-site request
forgery); if it gives its own name the address of this server, the browser even takes the server for
the page's site (DNS rebinding). Where a token is required neither is of use: a page does not have
it, and a browser does not add it by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
from starlette.requests import Request

from serving.server.errors import ServingError
from serving.server.settings import ServerSettings

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class BrowserRules:
    """Which requests of browsers are refused.

    Attributes:
      hosts: Names by which requests may call the server, in lower case, besides IP addresses, which
        cannot be rebound; None for any.
      api_takes_any_host: Whether `hosts` are those of the page alone.
      check_origins: Whether requests of other sites' pages are refused.
      origins: Origins whose pages may send requests all the same; "*" for any.
    """

    hosts: frozenset[str] | None = None
    api_takes_any_host: bool = False
    check_origins: bool = False
    origins: Sequence[str] = ()

    @classmethod
    def of(cls, settings: ServerSettings) -> BrowserRules:
        """The rules of a server."""
        with_token = bool(settings.token_file or settings.tokens_file)
        # With TLS, a browser notices that the certificate is not that of the rebound name.
        checks_hosts = not with_token and not settings.tls_certificate
        names = ("localhost", settings.host, *settings.allowed_hosts)
        any_host = not checks_hosts or "*" in settings.allowed_hosts
        return cls(
            hosts=None if any_host else frozenset(name.lower() for name in names),
            api_takes_any_host=not settings.is_loopback,
            check_origins=not with_token,
            origins=settings.cors_origins,
        )

    def check_api(self, request: Request) -> None:
        """Refuses a request for what programs use, if a page of another site sends it.

        As Go's `http.CrossOriginProtection`: methods that change nothing are not checked, because
        a browser gives such a page no response to read.

        Raises:
          ServingError: PERMISSION_DENIED.
        """
        if not self.api_takes_any_host:
            self.check_host(request)
        if self.check_origins and request.method not in _SAFE_METHODS:
            origin = request.headers.get("origin", "")
            if "*" not in self.origins and origin not in self.origins:
                _check_same_site(request)

    def check_page(self, request: Request) -> None:
        """Refuses a request for what only the server's own page uses, if another one sends it.

        Raises:
          ServingError: PERMISSION_DENIED.
        """
        self.check_host(request)
        _check_same_site(request)

    def check_host(self, request: Request) -> None:
        """Refuses a request that calls the server by a name that may be another site's.

        Raises:
          ServingError: PERMISSION_DENIED.
        """
        if self.hosts is None:
            return
        for header in request.headers.getlist("host"):
            name = _host_name(header)
            if name not in self.hosts and not _is_address(name):
                raise _refusal(
                    f"the server has no name {name[:100]!r}: use its address or "
                    f"{', '.join(sorted(self.hosts))}, or allow the name with --allowed-host"
                )


def _check_same_site(request: Request) -> None:
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        allowed = site in ("same-origin", "none")
    else:
        # Browsers leave it out for addresses without TLS; programs send neither.
        allowed = origin is None or _netloc(origin) == request.headers.get("host", "")
    if not allowed:
        raise _refusal(
            f"a page of {(origin or 'another site')[:200]} may not send this request; "
            "--cors-origin allows pages of an origin to use /v1"
        )


def _netloc(origin: str) -> str:
    """Host and port of an origin; empty if it has none, as `null`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_name(header: str) -> str:
    """The name or address in a Host header, without its port and brackets."""
    name, _, port = header.strip().lower().rpartition(":")
    if not name or not port.isdigit():
        name = header.strip().lower()
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.PERMISSION_DENIED, message, quotes=True)
