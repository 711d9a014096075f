"""The settings of the model server."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from storage.keys import TrustStore
from storage.memory import MEMORY

# TensorFlow Serving's own.
GRPC_PORT = 8500
REST_PORT = 8501
METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a model server.

    Attributes:
      serving_dir: The Serving directory.
      models: Names of the models to serve; none named means all in the directory.
      prefer_tflite: Whether to serve `model.tflite` where a version has one.
      trust: Keys that versions are verified with; None serves them unverified. Its `reload` reads
        them again.
      encryption_keys: File of the keys that versions are decrypted and the request log is encrypted
        with; "" for the environment, which may have none.
      decrypt_to: Folder in memory for what is decrypted.
      decrypt_to_disk: Whether that folder may be on a disk.
      host: Address to listen on.
      grpc_port: Port for gRPC; 0 for any that is free.
      rest_port: Port for REST; 0 for any that is free.
      poll_seconds: Seconds between two looks at the Serving directory.
      workers: Requests that are computed at a time.
      max_queue: Requests that may wait for a worker; one more is refused with UNAVAILABLE (503).
      max_request_bytes: Largest request, also when it is decompressed and its tensors unfolded.
      max_rows: Most rows of a request.
      request_memory: Memory for all requests that arrive, wait or are being computed, with all
        that they are unfolded to; that of the models' own computations comes on top.
      max_connections: Most connections at a time to each port.
      deadline_seconds: Longest time from a request to its response.
      token_file: File of a bearer token that allows everything; empty for none.
      tokens_file: TOML file of tokens' SHA-256, each with what it allows; empty for none.
      tls_certificate: File of the server's certificate chain (PEM); empty for no TLS.
      tls_key: File of its private key.
      tls_client_ca: File of the certificates (PEM) that sign those of clients; empty lets clients
        connect without one.
      cors_origins: Origins whose pages may send requests from a browser; "*" for any.
      allowed_hosts: Names by which browsers may call a server without tokens and TLS, besides its
        addresses, localhost and `host`; "*" for any.
      ui: Whether there is a page at `/` on which people try the models.
      challenger_seconds: Longest time for a challenger's prediction before the champion predicts.
      challenger_failures: A challenger is taken out after so many failures within its last hundred
        predictions.
      challenger_queue: Requests that may wait for a challenger; for one more the champion predicts,
        or it has no shadow.
      request_log: Folder for the log of requests and predictions; empty for none.
      request_log_sampling: Share of the requests that are logged.
      access_log: Whether each request is a line on the standard output.
    """

    serving_dir: str
    models: tuple[str, ...] = ()
    prefer_tflite: bool = False
    trust: TrustStore | None = None
    encryption_keys: str = ""
    decrypt_to: str = MEMORY
    decrypt_to_disk: bool = False
    host: str = "127.0.0.1"
    grpc_port: int = GRPC_PORT
    rest_port: int = REST_PORT
    poll_seconds: float = 1.0
    workers: int = 2
    max_queue: int = 2048
    max_request_bytes: int = 16 << 20
    max_rows: int = 10_000
    request_memory: int = 512 << 20
    max_connections: int = 1000
    deadline_seconds: float = 30.0
    token_file: str = ""
    tokens_file: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    ui: bool = True
    challenger_seconds: float = 1.0
    challenger_failures: int = 5
    challenger_queue: int = 100
    request_log: str = ""
    request_log_sampling: float = 0.01
    access_log: bool = True

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return _is_loopback(self.host)

    @property
    def weakness(self) -> str:
        """What lets others use the server or read along who should not; empty if nothing does."""
        if self.is_loopback:
            return ""
        missing = []
        if not (self.token_file or self.tokens_file or self.tls_client_ca):
            missing.append("no token or client certificate is required")
        if not self.tls_certificate:
            missing.append("nothing is encrypted")
        if not missing:
            return ""
        return (
            f"other machines can reach {self.host or 'all addresses'}, and {' and '.join(missing)}"
        )


def _is_loopback(host: str) -> bool:
    if not host:  # All addresses.
        return False
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)
