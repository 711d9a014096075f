"""Keeps what talks to this very machine from asking a proxy."""

from __future__ import annotations

from collections.abc import MutableMapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Adds this machine to the hosts that are reached without a proxy; those there are stay.

    Beam's workers and job servers are called over `localhost`. A proxy knows another machine by
    that name, so that they would wait for ever.

    Args:
      environment: Environment variables, as of a process that is to obey them.
    """
    hosts: dict[str, None] = {}  # Ordered, each once.
    for name in ("no_proxy", "NO_PROXY"):
        hosts |= dict.fromkeys(_hosts(environment.get(name, "")))
    everything = "*" in hosts
    hosts |= dict.fromkeys(_LOOPBACK)
    # "*" counts only where it stands alone. gRPC does not know it, and looks here first.
    environment["no_proxy"] = environment["NO_PROXY"] = "*" if everything else ",".join(hosts)
    if everything or "no_grpc_proxy" in environment:
        hosts |= dict.fromkeys(_hosts(environment.get("no_grpc_proxy", "")))
        hosts.pop("*", None)
        environment["no_grpc_proxy"] = ",".join(hosts)


def _hosts(text: str) -> list[str]:
    return [host.strip() for host in text.split(",") if host.strip()]
