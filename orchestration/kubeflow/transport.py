"""Requests to Kubeflow Pipelines: one try with a timeout, and readable errors."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import urllib3

from orchestration.kubeflow.errors import KubeflowError
from storage.errors import one_line

TOKEN_ENV = "KF_PIPELINES_TOKEN"
PORT_FORWARD = "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"
_LARGEST_RESPONSE = 256 * 2**20  # bytes; a page of runs may hold 100 of them with all their tasks
_LOG = "its log says more (kubectl logs -n kubeflow deploy/ml-pipeline)"
# What the server says to people where only the words for its log say what is wrong.
_NOTHING_SAID = ("", "Internal Server Error", "Internal error")
_HOW_TO_GIVE_A_TOKEN = f"give one that is valid with --token-file or {TOKEN_ENV}"


class Transport:
    """Stands before the connection pool of the generated client.

    Gives every request a timeout and one try, and turns whatever is not a JSON answer with a
    status of success into a `KubeflowError`.
    """

    def __init__(self, pool: urllib3.PoolManager, host: str, timeout: float) -> None:
        self._pool = pool
        self._host = host
        self._timeout = timeout

    def request(self, method: str, url: str, **options: Any) -> Any:
        """As `urllib3.PoolManager.request`, once.

        Raises:
          KubeflowError: If there is no response, or it is not the expected one.
        """
        changes = method != "GET"
        options |= {"timeout": self._timeout, "retries": False, "redirect": False}
        options |= {"preload_content": False, "decode_content": False}
        try:
            stream = self._pool.request(method, url, **options)
            data = stream.read(_LARGEST_RESPONSE + 1)
        except urllib3.exceptions.HTTPError as error:
            raise self._no_answer(error, changes=changes) from error
        if len(data) > _LARGEST_RESPONSE:
            stream.close()
            raise KubeflowError(
                f"the response of {self._host} is larger than {_LARGEST_RESPONSE >> 20} MiB.",
                unsure=changes,
            )
        if not 200 <= stream.status < 300 or _json(data) is None:
            raise self._refusal(stream, data, changes=changes)
        return urllib3.HTTPResponse(data, stream.headers, stream.status, reason=stream.reason)

    def _no_answer(self, error: Exception, *, changes: bool) -> KubeflowError:
        host = self._host
        if isinstance(error, urllib3.exceptions.SSLError):
            reason = one_line(error)
            if "WRONG_VERSION_NUMBER" in reason:
                return KubeflowError(f"{host} does not speak TLS: is it meant to be http://?")
            return KubeflowError(
                f"the certificate of {host} is not trusted ({reason}): name the certificates to "
                "trust with --ca-file."
            )
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            return KubeflowError(
                f"no address is known for {host}: is it spelled right?", passing=True
            )
        if isinstance(error, urllib3.exceptions.NewConnectionError):
            return KubeflowError(
                f"nothing answers at {host}: is the address right, and if it is a port-forward, "
                f"does it run ({PORT_FORWARD})?",
                passing=True,
            )
        if isinstance(error, urllib3.exceptions.LocationValueError):
            return KubeflowError(f"{host} is not an address: http://localhost:8080 would be one.")
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            return KubeflowError(
                f"{host} did not answer within {self._timeout:g} s: is the address right?",
                passing=True,
            )
        if isinstance(error, urllib3.exceptions.TimeoutError):
            message = f"{host} did not answer within {self._timeout:g} s: try again later."
        else:
            message = f"{host} closed the connection without an answer: try again later."
        return KubeflowError(message, unsure=changes, passing=True)

    def _refusal(self, response: Any, data: bytes, *, changes: bool) -> KubeflowError:
        status = response.status
        detail = _detail(data)
        reason = f": {detail}" if detail else ""
        if status < 300 or (_looks_like_html(response) and status in (400, 401, 403)):
            return KubeflowError(
                f"{self._host} answered with a web page instead of data (HTTP {status}), most "
                f"likely to log in: the token is missing or expired; {_HOW_TO_GIVE_A_TOKEN}.",
                status=status,
            )
        messages = {
            401: f"the token is missing or expired (HTTP 401{reason}): {_HOW_TO_GIVE_A_TOKEN}.",
            403: f"this is not allowed (HTTP 403{reason}): is the namespace right, and may the "
            f"account of the token use it? Otherwise {_HOW_TO_GIVE_A_TOKEN}.",
            404: f"{detail} (HTTP 404)."
            if _json(data)
            else f"there is no API of Kubeflow Pipelines at {self._host} (HTTP 404): is the "
            "address right?",
            409: f"it exists already (HTTP 409{reason}): someone else may have made it just now, "
            "so try again, or choose another name.",
        }
        if status in messages:
            return KubeflowError(messages[status], status=status)
        if 300 <= status < 400:
            location = urllib.parse.urljoin(self._host, response.headers.get("Location", ""))
            target = urllib.parse.urlsplit(location)._replace(query="", fragment="").geturl()
            return KubeflowError(
                f"{self._host} redirects to {target} (HTTP {status}): if that is a login, "
                f"{_HOW_TO_GIVE_A_TOKEN}; otherwise use that address.",
                status=status,
            )
        if status >= 500 or status == 429:
            return KubeflowError(
                f"the server failed (HTTP {status}{reason}): try again later; {_LOG}.",
                status=status,
                unsure=changes,
                passing=True,
            )
        # All that the server says when it takes an upload for wrong in some other way.
        more = f"; {_LOG}" if detail.startswith("Failed to create a pipeline") else ""
        return KubeflowError(f"{detail or 'refused'} (HTTP {status}){more}.", status=status)


def _json(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None if it is something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _looks_like_html(response: Any) -> bool:
    return "html" in response.headers.get("Content-Type", "").lower()


def _detail(data: bytes) -> str:
    """The server's message about an error, if possible the one for people."""
    body = _json(data)
    if body is None:
        text = data.decode(errors="replace")
        return "" if "<" in text else one_line(text)
    details = body.get("details")
    found = [d.get("message") for d in _list(details) if isinstance(d, dict)]
    found += [body.get(key) for key in ("error_message", "message", "error_details", "error")]
    texts = [text.strip() for text in found if isinstance(text, str)]
    return next((one_line(text) for text in texts if text not in _NOTHING_SAID), "")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
