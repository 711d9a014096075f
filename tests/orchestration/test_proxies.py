"""Tests that this machine is reached without a proxy, whatever the environment says of proxies."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from concurrent import futures

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.local.proxies import spare_loopback
from tests.conftest import PROJECT

LOOPBACK = ["localhost", "127.0.0.1", "::1"]
_HOSTS = st.lists(st.sampled_from(["a.example", ".b.example", "10.0.0.0/8", "localhost"]))


@given(lower=_HOSTS, upper=_HOSTS)
def test_spare_loopback_keeps_all_hosts_that_were_there(lower: list[str], upper: list[str]) -> None:
    environment = {"no_proxy": ", ".join(lower), "NO_PROXY": ",".join(upper), "other": "1"}
    spare_loopback(environment)
    hosts = environment["no_proxy"].split(",")
    assert set(hosts) == {*lower, *upper, *LOOPBACK}
    assert len(set(hosts)) == len(hosts)
    assert environment["NO_PROXY"] == environment["no_proxy"]
    again = dict(environment)
    spare_loopback(again)
    assert again == environment
    assert environment.keys() == {"no_proxy", "NO_PROXY", "other"}


def test_spare_loopback_keeps_a_star_that_stands_for_all_hosts() -> None:
    environment = {"no_proxy": "*", "http_proxy": "http://proxy.invalid:1"}
    spare_loopback(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"
    assert environment["no_grpc_proxy"].split(",") == LOOPBACK


SCRIPT = """
import os, sys, grpc
from orchestration.local.proxies import spare_loopback
spare_loopback(os.environ)
with grpc.insecure_channel(sys.argv[1]) as channel:
    grpc.channel_ready_future(channel).result(timeout=30)
"""


@pytest.mark.parametrize("proxy", ["http_proxy", "https_proxy", "grpc_proxy"])
@pytest.mark.parametrize("before", [{}, {"no_proxy": "*"}, {"no_grpc_proxy": "a.example"}])
def test_spare_loopback_lets_grpc_reach_a_local_server(proxy: str, before: dict[str, str]) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        subprocess.run(
            [sys.executable, "-c", SCRIPT, f"localhost:{port}"],
            cwd=PROJECT,
            env={"PATH": "", proxy: "http://127.0.0.1:9", **before},
            check=True,
            timeout=60,
        )
    finally:
        server.stop(None)


def test_spare_loopback_is_understood_by_urllib(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"NO_PROXY": "a.example"}
    spare_loopback(environment)
    monkeypatch.setenv("no_proxy", environment["no_proxy"])
    for host in ("localhost:80", "127.0.0.1:80", "a.example"):
        assert urllib.request.proxy_bypass(host)
