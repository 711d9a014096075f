"""TLS for both protocols: certificate, key and who may connect, read again without a restart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import grpc

from storage.memory import in_memory
from storage.protected import read_protected


@dataclass(frozen=True)
class _Files:
    """What both protocols need for a handshake, of the same content."""

    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration


class Tls:
    """The certificate of a server, and the authority that its clients' certificates are from.

    Connections keep what they began with; each new one is made with what was read last.

    Args:
      certificate: File of the certificate chain (PEM).
      key: File of its private key.
      client_ca: File of the certificates (PEM) that clients' certificates have to be signed with;
        empty lets clients connect without one.

    Raises:
      OSError: If a file cannot be read, does not hold what it should, or others can change it or,
        the key, read it.
    """

    def __init__(self, certificate: str, key: str, client_ca: str):
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._files = self._read()

    def reload(self) -> None:
        """Reads the files again; what was read before stays if that fails.

        Raises:
          OSError: As the constructor.
        """
        self._files = self._read()

    def make_context(self) -> ssl.SSLContext:
        """The context of a web server, which takes for each connection what was read last."""

        def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            connection.context = self._files.context

        context = self._read().context
        context.sni_callback = choose
        return context

    def make_credentials(self) -> grpc.ServerCredentials:
        """The credentials of a gRPC server."""
        return grpc.dynamic_ssl_server_credentials(
            self._files.configuration,
            lambda: self._files.configuration,
            require_client_authentication=bool(self._client_ca),
        )

    def _read(self) -> _Files:
        certificate = read_protected(self._certificate, secret=False)
        key = read_protected(self._key, secret=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # It reads files alone; that it reads these very bytes is what memory is for.
            with in_memory(certificate) as chain_path, in_memory(key) as key_path:
                context.load_cert_chain(chain_path, key_path, password="")
        except OSError as error:
            raise OSError(
                f"{self._certificate} and {self._key} are no certificate with its key: {error}"
            ) from error
        if not self._client_ca:
            return _Files(context, grpc.ssl_server_certificate_configuration([(key, certificate)]))
        authority = read_protected(self._client_ca, secret=False)
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
        except (OSError, ValueError) as error:
            raise OSError(f"{self._client_ca} holds no certificates: {error}") from error
        context.verify_mode = ssl.CERT_REQUIRED
        # Nobody resumes a session that an authority allowed which is no longer trusted.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        return _Files(
            context,
            grpc.ssl_server_certificate_configuration([(key, certificate)], authority),
        )
