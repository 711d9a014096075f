"""Address, credentials and namespace: from options, the environment, or where kfp keeps them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import kfp_server_api

from orchestration.kubeflow.errors import KubeflowError
from orchestration.kubeflow.transport import PORT_FORWARD, TOKEN_ENV

HOST_ENV = "KF_PIPELINES_ENDPOINT"
NAMESPACE_ENV = "KF_PIPELINES_NAMESPACE"
# Where Kubernetes projects a token for Kubeflow Pipelines into a pod, unless the variable says.
_PROJECTED_TOKEN_ENV = "KF_PIPELINES_SA_TOKEN_PATH"
_PROJECTED_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Where kfp finds more credentials: its own context, and Google's proxies.
_CONTEXT = "~/.config/kfp/context.json"
_PROXY_ENV = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"
_PROXY_HOST = ".googleusercontent.com"


def make_api_client(
    host: str | None, token_file: str | None, ca_file: str | None
) -> kfp_server_api.ApiClient:
    """A client of the API, which has sent nothing yet.

    Raises:
      KubeflowError: If no address is known, or a file cannot be read.
    """
    for file in filter(None, (token_file, ca_file)):
        _check_file(file)
    token = None if token_file else os.environ.get(TOKEN_ENV, "").strip()
    projected = os.environ.get(_PROJECTED_TOKEN_ENV) or _PROJECTED_TOKEN
    if not token and not token_file and os.path.isfile(projected):
        token_file = projected
    host = host or os.environ.get(HOST_ENV)
    if not host or _has_more_credentials(host):
        return _as_kfp_finds_it(host, token, token_file, ca_file)
    address = host if host.startswith("http") else f"https://{host}"
    configuration = kfp_server_api.Configuration(host=address.rstrip("/"))
    configuration.ssl_ca_cert = ca_file
    if token or token_file:
        configuration.api_key["authorization"] = token or ""
        configuration.api_key_prefix["authorization"] = "Bearer"
    if token_file:
        configuration.refresh_api_key_hook = _reader(token_file)
    return kfp_server_api.ApiClient(configuration)


def find_namespace(configuration: kfp_server_api.Configuration) -> str | None:
    """The namespace in kfp's context, of the token's service account, or of this pod."""
    for found in _namespaces(configuration):
        if found.strip():
            return found.strip()
    return None


def _namespaces(configuration: kfp_server_api.Configuration) -> Iterator[str]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        context = Path(_CONTEXT).expanduser().read_text(encoding="utf-8")
        yield str(json.loads(context)["namespace"])
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        # A JSON Web Token: header, claims and signature, which the server verifies.
        token = configuration.get_api_key_with_prefix("authorization") or ""
        claims = token.split(".")[1]
        padded = claims + "=" * (-len(claims) % 4)
        yield str(json.loads(base64.urlsafe_b64decode(padded))["kubernetes.io"]["namespace"])
    with contextlib.suppress(OSError):
        yield _POD_NAMESPACE.read_text(encoding="utf-8")


def _check_file(file: str) -> None:
    try:
        if not Path(file).read_text(encoding="utf-8").strip():
            raise KubeflowError(f"{file} is empty.")
    except (OSError, UnicodeDecodeError) as error:
        raise KubeflowError(f"Cannot read {file}: {error}.") from error


def _reader(token_file: str) -> Callable[[kfp_server_api.Configuration], None]:
    """Reads a token that may be renewed, before each request."""

    def read(configuration: kfp_server_api.Configuration) -> None:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise KubeflowError(f"Cannot read {token_file}: {error}.") from error
        configuration.api_key["authorization"] = token

    return read


def _has_more_credentials(host: str) -> bool:
    return bool(
        os.environ.get(_PROXY_ENV)
        or host.rstrip("/").endswith(_PROXY_HOST)
        or os.path.exists(os.path.expanduser(_CONTEXT))
    )


def _as_kfp_finds_it(
    host: str | None, token: str | None, token_file: str | None, ca_file: str | None
) -> kfp_server_api.ApiClient:
    """The client that `kfp.Client` makes: of its context, this cluster, or the kubeconfig.

    Raises:
      KubeflowError: If it finds no address.
    """
    import kfp  # It takes seconds, and is needed here alone.
    from kfp.client import ServiceAccountTokenVolumeCredentials

    class Client(kfp.Client):
        """Asks the server nothing at first, and writes nothing into the home directory."""

        def get_kfp_healthz(
            self, sleep_duration: int = 5
        ) -> kfp_server_api.V2beta1GetHealthzResponse:
            return kfp_server_api.V2beta1GetHealthzResponse()

    credentials = ServiceAccountTokenVolumeCredentials(token_file) if token_file else None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            client = Client(
                host=host, existing_token=token, ssl_ca_cert=ca_file, credentials=credentials
            )
    except (OSError, ValueError, KeyError) as error:
        raise KubeflowError(f"Cannot set up kfp's client: {error!r}.") from error
    found = client.runs.api_client
    if found.configuration.host == kfp_server_api.Configuration().host:
        raise KubeflowError(
            f"There is no address of Kubeflow Pipelines: give --host or set {HOST_ENV}, such as "
            f"http://localhost:8080 while this runs: {PORT_FORWARD}"
        )
    return found
