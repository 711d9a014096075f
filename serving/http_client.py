"""Sends requests to the REST interface of a server, through the proxy that is meant for it."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

_SECONDS = 60.0


class ClientError(Exception):
    """The rows of a file do not fit the model, or the server does not respond."""


class Client(httpx.Client):
    """Sends requests to a server through the proxy that the environment names for it.

    Raises:
      ClientError: If the proxy cannot be used.
    """

    def __init__(self, server: str, headers: Mapping[str, str], trusted: ssl.SSLContext):
        proxy = _find_proxy(server)
        self.through = _through(proxy)
        try:
            # Given the environment, it fails over proxies that it does not need.
            super().__init__(
                headers=headers, timeout=_SECONDS, verify=trusted, proxy=proxy, trust_env=False
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ClientError(f"{server} cannot be reached{self.through}: {error}") from error


def _find_proxy(server: str) -> str | None:
    """The proxy through which a server is reached; none for one on this machine."""
    try:
        address = urlsplit(server)
        host, port = address.hostname or "", address.port
    except ValueError:
        return None  # It is no address, which the request will say.
    if _is_loopback(host) or proxy_bypass(f"{host}:{port}" if port else host):
        return None
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _through(proxy: str | None) -> str:
    """Names the proxy in use, without its password."""
    if proxy is None:
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]} (no_proxy exempts servers)"


def request(client: Client, method: str, url: str, body: str | None = None) -> dict[str, Any]:
    """Sends a request, and returns the JSON object of the response.

    Raises:
      ClientError: If the server does not respond, or refuses it.
    """
    try:
        response = client.request(method, url, content=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ClientError(f"{url} does not respond{client.through}: {reason}") from error
    try:
        content: dict[str, Any] = response.json()
    except ValueError:
        content = {"error": response.text[:200]}
    if response.status_code != 200:
        reason = content.get("error", content)
        raise ClientError(f"{url}: {response.status_code}{client.through}: {reason}")
    return content
