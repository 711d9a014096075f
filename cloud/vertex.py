"""The connection to Vertex AI: address, credentials, one try with a timeout, readable errors.

The REST transport of Google's own client (`google-cloud-aiplatform`), an optional dependency that
is imported when a connection is made.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloud.errors import CloudError, missing_library
from cloud.names import check_all
from storage.errors import one_line

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
HOW_TO_LOG_IN = (
    "run `gcloud auth application-default login`, or name the file of a service account by "
    "GOOGLE_APPLICATION_CREDENTIALS"
)
_TRIES = 4  # of a request that changes nothing, while the error is one that passes
_PATIENCE = 10  # polls in a row that may fail before waiting is given up


@dataclass(frozen=True)
class Place:
    """A project and a region of Google Cloud.

    Attributes:
      project: ID of the project.
      location: Region.
      api_endpoint: Address of the API; "" for the region's own.

    Raises:
      ValueError: If one is missing, or is no such name.
    """

    project: str
    location: str
    api_endpoint: str = ""

    def __post_init__(self) -> None:
        if missing := [name for name in ("project", "location") if not getattr(self, name)]:
            raise ValueError(f"Vertex AI needs the {' and the '.join(missing)}")
        check_all(project=self.project, location=self.location, endpoint=self.api_endpoint)

    @property
    def parent(self) -> str:
        """The resource that holds the region's resources of the project."""
        return f"projects/{self.project}/locations/{self.location}"

    @property
    def address(self) -> str:
        """Address of the API."""
        return self.api_endpoint or f"https://{self.location}-aiplatform.googleapis.com"


class Vertex:
    """Vertex AI in a place.

    Args:
      place: Project and region.
      timeout: Longest time for a response, in seconds.

    Raises:
      CloudError: If the library is not installed, or there are no credentials.
    """

    def __init__(self, place: Place, timeout: float = 60.0) -> None:
        self.place = place
        self._timeout = timeout
        self.credentials, project = find_credentials()
        # The environment may name another project than the credentials are of.
        self._own_project = getattr(self.credentials, "project_id", None) or project
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Google's client of a service, by the name of its module such as `model_service`."""
        if service not in self._clients:
            name = "".join(part.capitalize() for part in service.split("_"))
            scheme, _, host = self.place.address.partition("://")
            module = _import(f"google.cloud.aiplatform_v1.services.{service}")
            rest = _import(f"google.cloud.aiplatform_v1.services.{service}.transports.rest")
            transport = getattr(rest, f"{name}RestTransport")(
                credentials=self.credentials, host=host, url_scheme=scheme
            )
            self._clients[service] = getattr(module, f"{name}Client")(transport=transport)
        return self._clients[service]

    def get(self, what: str, service: str, method: str, /, **request: Any) -> Any:
        """Calls a method that changes nothing, again where an error may pass.

        Args:
          what: What it is for, after "Cannot".
          service: Name of the service, as in `client`.
          method: Name of the method.
          **request: Fields of the request.

        Raises:
          CloudError: If it fails.
        """
        for attempt in range(_TRIES):
            try:
                return self._call(what, service, method, request, changes=False)
            except CloudError as error:
                if not error.passing or attempt == _TRIES - 1:
                    raise
                time.sleep(0.1 * 3**attempt)
        raise AssertionError("not reached")

    def find(self, what: str, service: str, method: str, /, **request: Any) -> Any:
        """As `get`; None if there is no such resource."""
        try:
            return self.get(what, service, method, **request)
        except CloudError as error:
            if error.status == 404:
                return None
            raise

    def pages(
        self, what: str, service: str, method: str, items: str, /, **request: Any
    ) -> Iterator[Any]:
        """All items of a list, page by page."""
        token = ""
        while True:
            page = self.get(what, service, method, **request, page_token=token, page_size=100)
            yield from getattr(page, items)  # Iterating over it would get more without our errors.
            token = page.next_page_token
            if not token:
                return

    def change(self, what: str, service: str, method: str, /, **request: Any) -> Any:
        """Calls a method once.

        Raises:
          CloudError: If it fails; `unsure` if it may have been carried out nevertheless.
        """
        return self._call(what, service, method, request, changes=True)

    def begin(self, what: str, service: str, method: str, /, **request: Any) -> str:
        """As `change`, for a method that takes its time; returns the name of the operation."""
        return str(self.change(what, service, method, **request).operation.name)

    def finish(self, what: str, operation: str, poll_seconds: float = 5.0) -> None:
        """Waits for the end of an operation.

        Args:
          what: What it does, after "Cannot".
          operation: Name of the operation.
          poll_seconds: Longest time between two looks.

        Raises:
          CloudError: If it fails, or several looks in a row do.
        """
        failures, pause = 0, min(0.2, poll_seconds)
        while True:
            try:
                found = self._read(what, operation)
                failures = 0
            except CloudError as error:
                failures += 1
                if not error.passing or failures >= _PATIENCE:
                    raise
            else:
                if found.get("done"):
                    break
            time.sleep(pause)
            pause = min(pause * 1.5, poll_seconds)
        if failed := found.get("error"):
            reason = one_line(str(failed.get("message")))
            raise CloudError(f"Cannot {what}: {reason} (code {failed.get('code')}).")

    def run(
        self, what: str, service: str, method: str, poll_seconds: float, /, **request: Any
    ) -> None:
        """Begins an operation, and waits for its end; see `begin` and `finish`."""
        self.finish(what, self.begin(what, service, method, **request), poll_seconds)

    def finish_begun(self, what: str, resource: str, poll_seconds: float) -> bool:
        """Waits for operations on a resource that an earlier call began, however they end.

        Returns:
          Whether there were any.
        """
        try:
            listed = self._read(what, f"{resource}/operations", filter="done=false")
        except CloudError as error:
            if error.status == 404:  # There is no such resource yet.
                return False
            raise
        begun = [one["name"] for one in listed.get("operations", []) if not one.get("done")]
        for name in begun:
            # What it did, or did not, the next look tells.
            with contextlib.suppress(CloudError):
                self.finish(what, name, poll_seconds)
        return bool(begun)

    def _read(self, what: str, path: str, **query: str) -> dict[str, Any]:
        """A resource as JSON. The library's own clients look for operations below /ui."""
        from google.api_core.exceptions import from_http_response
        from google.auth.transport.requests import AuthorizedSession

        with self._errors(what, changes=False), AuthorizedSession(self.credentials) as session:
            response = session.get(
                f"{self.place.address}/v1/{path}", params=query, timeout=self._timeout
            )
            if response.status_code >= 400:
                raise from_http_response(response)
            try:
                found = response.json()
            except ValueError:
                found = None
        if not isinstance(found, dict):
            raise CloudError(f"Cannot {what}: {self.place.address} does not speak JSON.")
        return found

    def _call(
        self, what: str, service: str, method: str, request: dict[str, Any], *, changes: bool
    ) -> Any:
        call = getattr(self.client(service), method)
        with self._errors(what, changes=changes):
            return call(request=request, retry=None, timeout=self._timeout)

    @contextlib.contextmanager
    def _errors(self, what: str, *, changes: bool) -> Iterator[None]:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import ConnectionError, RequestException

        try:
            yield
        except GoogleAuthError as error:
            raise _unauthenticated(error, what) from error
        except exceptions.GoogleAPICallError as error:
            raise self._refusal(error, what, changes=changes) from error
        except RequestException as error:
            # Whether the request had arrived is known only where no connection came about.
            never = isinstance(error, ConnectionError) and "NewConnection" in str(error)
            host = urllib.parse.urlsplit(self.place.address).netloc
            raise CloudError(
                f"Cannot {what}: {host} gave no answer ({one_line(error)[:160]}): run the "
                "command again when the network is back; it goes on where it stopped.",
                unsure=changes and not never,
                passing=True,
            ) from error

    def _refusal(self, error: Any, what: str, *, changes: bool) -> CloudError:
        status = int(error.code or 0)
        detail = one_line(str(error.message or error))
        account = getattr(self.credentials, "service_account_email", "") or "this account"
        other = ""
        if self._own_project not in (None, self.place.project):
            other = f" (the credentials are of the project {self._own_project})"
        advice = {
            401: f": {HOW_TO_LOG_IN}",
            403: f": is the project {self.place.project} right{other}, and may {account} do this "
            "there (docs/cloud.md lists the roles)?",
            404: "",
            409: "",
            429: ": a quota is used up; wait, or ask for a higher one under IAM & Admin > Quotas; "
            "what is done stays, and the command goes on when it is run again",
        }.get(status, ": run the command again later" if status >= 500 else "")
        return CloudError(
            f"Cannot {what}: {detail} (HTTP {status}){advice}.",
            status=status,
            unsure=changes and status >= 500,
            passing=status >= 500 or status == 429,
        )


def find_credentials() -> tuple[Credentials, str | None]:
    """Google's application default credentials, and the project that they are of.

    Raises:
      CloudError: If there are none, they cannot be read, or the library is missing.
    """
    auth = _import("google.auth")
    from google.auth.exceptions import GoogleAuthError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of users' own credentials without a project.
            found: tuple[Credentials, str | None] = auth.default(scopes=[_SCOPE])
    except (GoogleAuthError, OSError, ValueError) as error:
        raise CloudError(
            f"There are no credentials for Google Cloud ({one_line(error)[:160]}): {HOW_TO_LOG_IN}."
        ) from error
    return found


def _unauthenticated(error: Exception, what: str) -> CloudError:
    from google.auth.exceptions import TransportError

    detail = one_line(str(error.args[0] if error.args else error))[:160]
    if isinstance(error, TransportError):
        return CloudError(
            f"Cannot {what}: no token could be had ({detail}): is the network there?", passing=True
        )
    return CloudError(
        f"Cannot {what}: the credentials are expired, or were withdrawn ({detail}): "
        f"{HOW_TO_LOG_IN}.",
        status=401,
    )


def _import(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise missing_library(error) from error
