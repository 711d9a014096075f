"""Stands in for Vertex AI's REST API, and refuses what it refuses.

Bodies are read as the protocol buffers that Google's discovery document is made of, so that a field
which the API does not know is an error, as there. Storage is `gcp-storage-emulator`, behind the
same address, so that a test can take a right or the network away. Tokens are had as Google's are:
an assertion that a service account's key has signed is exchanged for one.
"""

from __future__ import annotations

import dataclasses
import functools
import http.client
import http.server
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server
from google.cloud.aiplatform_v1 import types
from google.protobuf import json_format

PROJECT, LOCATION, BUCKET = "my-project", "europe-west4", "my-bucket"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
ACCOUNT = f"deployer@{PROJECT}.iam.gserviceaccount.com"
DROP, DROP_AFTER = "drop", "drop after"
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class Refused(Exception):
    """An error response of the API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclasses.dataclass
class Operation:
    """A long-running operation: after some looks it has its effect, or its error."""

    name: str
    effect: Callable[[], dict[str, Any]]
    looks: int
    done: bool = False
    outcome: dict[str, Any] = dataclasses.field(default_factory=dict)

    def look(self) -> dict[str, Any]:
        if not self.done:
            self.looks -= 1
            if self.looks < 0:
                self.done = True
                try:
                    self.outcome = {"response": self.effect()}
                except Refused as error:
                    self.outcome = {"error": {"code": 9, "message": error.message}}
        # The API says "done" only when it is true.
        return {"name": self.name, **({"done": True, **self.outcome} if self.done else {})}


class VertexStub:
    """The API in one region.

    Attributes:
      faults: By the name of a method, what happens to its next calls: a status, `DROP` (the
        connection ends before anything is done) or `DROP_AFTER` (it is done, and nobody hears).
      calls: Names of the methods that were called.
      looks: How often one has to look before an operation is done.
      expired: Whether Google takes the credentials for expired.
      allowed: Projects in which the account may do something.
      read_only: Whether the account may only read the bucket.
      uploads_left: How many files can still be written before the network goes; None for any.
    """

    def __init__(self) -> None:
        self.faults: dict[str, list[int | str]] = {}
        self.calls: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.looks = 1
        self.expired = False
        self.allowed = {PROJECT}
        self.read_only = False
        self.uploads_left: int | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, Operation] = {}
        self._numbers = 0
        self._token = "token"

    def __enter__(self) -> VertexStub:
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                stub._answer(self)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = answer

            def log_message(self, *_: object) -> None:
                pass

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            storage_port = free.getsockname()[1]
        self._storage = create_server(
            "127.0.0.1", storage_port, in_memory=True, default_bucket=BUCKET
        )
        self._storage.start()
        self._storage_address = ("127.0.0.1", storage_port)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._storage.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def write_credentials(self, path: Path, project: str = PROJECT) -> Path:
        """Writes the key file of a service account, whose tokens this server gives."""
        account = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": _private_key(),
            "client_email": f"deployer@{project}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def objects(self) -> dict[str, bytes]:
        """The content of the bucket, by name."""
        connection = http.client.HTTPConnection(*self._storage_address)
        connection.request("GET", f"/storage/v1/b/{BUCKET}/o")
        items = json.loads(connection.getresponse().read()).get("items", [])
        found = {}
        for item in items:
            quoted = urllib.parse.quote(item["name"], safe="")
            connection.request("GET", f"/storage/v1/b/{BUCKET}/o/{quoted}?alt=media")
            found[item["name"]] = connection.getresponse().read()
        return found

    # HTTP

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        url = urllib.parse.urlsplit(handler.path)
        query = {name: values[-1] for name, values in urllib.parse.parse_qs(url.query).items()}
        try:
            if url.path == "/token":
                answer = self._give_token()
            elif url.path.startswith("/v1/"):
                answer = self._api(handler, url.path.removeprefix("/v1/"), query, body)
            else:
                self._store(handler, body)
                return
        except Refused as error:
            if error.message == DROP:
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            status = error.status
            answer = {"error": {"code": status, "message": error.message, "status": _CODES[status]}}
            if url.path == "/token":
                answer = {"error": "invalid_grant", "error_description": error.message}
        else:
            status = 200
        _send(handler, status, json.dumps(answer).encode())

    def _give_token(self) -> dict[str, Any]:
        if self.expired:
            raise Refused(400, "Invalid JWT Signature.")
        return {"access_token": self._token, "expires_in": 3600, "token_type": "Bearer"}

    def _store(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        writes = handler.command in ("POST", "PUT", "DELETE")
        if writes and self.read_only:
            message = f"{ACCOUNT} does not have storage.objects.create access to the object."
            answer = {"error": {"code": 403, "message": message}}
            _send(handler, 403, json.dumps(answer).encode())
            return
        if handler.command == "POST" and self.uploads_left is not None:
            self.uploads_left -= 1
            if self.uploads_left < 0:
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
        connection = http.client.HTTPConnection(*self._storage_address)
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() not in ("host", "accept-encoding", "connection")
        }
        connection.request(handler.command, handler.path, body, headers)
        response = connection.getresponse()
        _send(handler, response.status, response.read())

    def _api(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        path: str,
        query: Mapping[str, str],
        body: bytes,
    ) -> dict[str, Any]:
        if handler.headers.get("Authorization") != f"Bearer {self._token}" or self.expired:
            raise Refused(401, "Request had invalid authentication credentials.")
        method, parts = _route(handler.command, path)
        project, location = parts["parent"].split("/")[1::2]
        if project not in self.allowed:
            raise Refused(
                403,
                f"Permission 'aiplatform.{method}' denied on resource "
                f"'//aiplatform.googleapis.com/{parts['parent']}' (or it may not exist).",
            )
        if location != LOCATION:
            raise Refused(400, f"The request's region {location} is not {LOCATION}.")
        self.calls.append(method)
        faults = self.faults.get(method, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, int):
            raise Refused(fault, {429: "Quota exceeded for quota metric."}.get(fault, "Fault."))
        if fault == DROP:
            raise Refused(503, DROP)
        given = json.loads(body) if body else {}
        self.bodies.append((method, given))
        answer: dict[str, Any] = getattr(self, f"_{method}")(parts["name"], query, given)
        if fault == DROP_AFTER:
            raise Refused(503, DROP)
        return answer

    def _number(self) -> str:
        self._numbers += 1
        return str(1000 + self._numbers)

    def _start(self, resource: str, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        operation = Operation(f"{resource}/operations/{self._number()}", effect, self.looks)
        self.operations[operation.name] = operation
        return {"name": operation.name}

    # Operations

    def _get_operation(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        if name not in self.operations:
            raise Refused(404, f"Operation {name} not found.")
        return self.operations[name].look()

    def _list_operations(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        found = [one for key, one in self.operations.items() if key.startswith(f"{name}/")]
        if query.get("filter") == "done=false":
            found = [one for one in found if not one.done]
        return {"operations": [{"name": one.name} for one in found]}

    # Models

    def _upload_model(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        request = _parse(types.UploadModelRequest, {**given, "parent": PARENT})
        resource = request.parent_model or f"{PARENT}/models/{request.model_id}"
        if request.parent_model and request.parent_model not in self.models:
            raise Refused(404, f"Model {resource} does not exist.")
        if request.model_id:
            _check(r"[a-z_][a-z0-9_-]{0,62}", request.model_id, "model_id")
            if request.model_id and resource in self.models:
                raise Refused(409, f"Model {resource} already exists.")
        for one in request.model.version_aliases:
            _check(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]", one, "version_aliases")
        _check_labels(request.model.labels)
        if not request.model.container_spec.image_uri:
            raise Refused(400, "container_spec.image_uri is missing.")
        prefix = request.model.artifact_uri.removeprefix(f"gs://{BUCKET}/")
        model = _dump(request.model)

        def effect() -> dict[str, Any]:
            if not any(one.startswith(f"{prefix}/") for one in self.objects()):
                raise Refused(412, f"There are no files in {request.model.artifact_uri}.")
            versions = self.models.setdefault(resource, {})
            number = str(len(versions) + 1)
            aliases = model.get("versionAliases", []) + ([] if versions else ["default"])
            for other in versions.values():
                other["versionAliases"] = [
                    one for one in other["versionAliases"] if one not in aliases
                ]
            versions[number] = {
                **model,
                "name": f"{resource}@{number}",
                "versionId": number,
                "versionAliases": aliases,
            }
            return {
                "@type": "type.googleapis.com/google.cloud.aiplatform.v1.UploadModelResponse",
                "model": resource,
                "modelVersionId": number,
            }

        return self._start(resource, effect)

    def _model(self, name: str) -> dict[str, Any]:
        resource, _, version = name.partition("@")
        versions = self.models.get(resource, {})
        for number, one in versions.items():
            if (version or "default") in (number, *one["versionAliases"]):
                found: dict[str, Any] = one
                return found
        raise Refused(404, f"The Model {name} does not exist.")

    def _get_model(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        return self._model(name)

    def _list_model_versions(
        self, name: str, query: Mapping[str, str], given: Any
    ) -> dict[str, Any]:
        return {"models": list(self.models.get(name, {}).values())}

    def _merge_version_aliases(
        self, name: str, query: Mapping[str, str], given: Any
    ) -> dict[str, Any]:
        found = self._model(name)
        for other in self.models[name.partition("@")[0]].values():
            kept = [one for one in other["versionAliases"] if one not in given["versionAliases"]]
            other["versionAliases"] = kept
        found["versionAliases"] += given["versionAliases"]
        return found

    def _check_undeployed(self, names: set[str]) -> None:
        for endpoint in self.endpoints.values():
            for one in endpoint.get("deployedModels", []):
                if f"{one['model']}@{one['modelVersionId']}" in names:
                    raise Refused(400, f"The model is deployed at {endpoint['name']}.")

    def _delete_model_version(
        self, name: str, query: Mapping[str, str], given: Any
    ) -> dict[str, Any]:
        found = self._model(name)
        if "default" in found["versionAliases"]:
            raise Refused(400, "The default version cannot be deleted.")
        self._check_undeployed({found["name"]})
        resource = name.partition("@")[0]
        del self.models[resource][found["versionId"]]
        return self._start(resource, _empty)

    def _delete_model(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        self._model(name)
        self._check_undeployed({one["name"] for one in self.models[name].values()})
        del self.models[name]
        return self._start(name, _empty)

    # Endpoints

    def _create_endpoint(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        endpoint = _parse(types.Endpoint, given)
        _check(r"[a-z][a-z0-9-]{0,61}[a-z0-9]", query["endpointId"], "endpoint_id")
        _check_labels(endpoint.labels)
        resource = f"{PARENT}/endpoints/{query['endpointId']}"
        if resource in self.endpoints:
            raise Refused(409, f"Endpoint {resource} already exists.")
        document = {**_dump(endpoint), "name": resource, "etag": self._number()}

        def effect() -> dict[str, Any]:
            self.endpoints.setdefault(resource, document)
            return _message("Endpoint", name=resource)

        return self._start(resource, effect)

    def _endpoint(self, name: str) -> dict[str, Any]:
        if name not in self.endpoints:
            raise Refused(404, f"Endpoint {name} does not exist.")
        return self.endpoints[name]

    def _get_endpoint(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        return self._endpoint(name)

    def _update_endpoint(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        endpoint, wanted = self._endpoint(name), _dump(_parse(types.Endpoint, given))
        if query["updateMask"] != "trafficSplit":
            raise Refused(400, f"updateMask is {query['updateMask']}.")
        if wanted.get("etag") not in (None, endpoint["etag"]):
            raise Refused(409, "The etag does not match: the endpoint was changed.")
        endpoint["trafficSplit"] = self._split(endpoint, wanted["trafficSplit"])
        endpoint["etag"] = self._number()
        return endpoint

    def _split(self, endpoint: dict[str, Any], split: dict[str, int]) -> dict[str, int]:
        known = {one["id"] for one in endpoint.get("deployedModels", [])}
        if unknown := set(split) - known:
            raise Refused(400, f"traffic_split names {unknown}, which is not deployed.")
        if sum(split.values()) != 100:
            raise Refused(400, "The values of traffic_split do not add up to 100.")
        return split

    def _deploy_model(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        endpoint = self._endpoint(name)
        request = _parse(types.DeployModelRequest, {**given, "endpoint": name})
        deployed = _dump(request.deployed_model)
        _check(r"[0-9]{1,10}", deployed["id"], "deployed_model.id")
        model = self._model(deployed["model"])
        deployed["model"], _, deployed["modelVersionId"] = model["name"].partition("@")
        if "dedicatedResources" not in deployed:
            raise Refused(400, "'automatic_resources' is not supported for this model.")
        if any(one["id"] == deployed["id"] for one in endpoint.get("deployedModels", [])):
            raise Refused(409, f"DeployedModel {deployed['id']} already exists.")

        def effect() -> dict[str, Any]:
            endpoint.setdefault("deployedModels", []).append(deployed)
            if split := {str(k): v for k, v in request.traffic_split.items()}:
                named = {deployed["id"] if k == "0" else k: v for k, v in split.items()}
                endpoint["trafficSplit"] = self._split(endpoint, named)
            endpoint["etag"] = self._number()
            return _message("DeployModelResponse", deployedModel=deployed)

        return self._start(name, effect)

    def _undeploy_model(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        endpoint = self._endpoint(name)
        request = _parse(types.UndeployModelRequest, {**given, "endpoint": name})
        there = endpoint.get("deployedModels", [])
        gone = request.deployed_model_id
        if gone not in {one["id"] for one in there}:
            raise Refused(404, f"DeployedModel {gone} is not found.")
        if endpoint.get("trafficSplit", {}).get(gone) and len(there) > 1:
            raise Refused(400, f"DeployedModel {gone} has traffic.")

        def effect() -> dict[str, Any]:
            endpoint["deployedModels"] = [one for one in there if one["id"] != gone]
            endpoint.get("trafficSplit", {}).pop(gone, None)
            return _message("UndeployModelResponse")

        return self._start(name, effect)

    def _delete_endpoint(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        if self._endpoint(name).get("deployedModels"):
            raise Refused(400, f"The endpoint {name} has deployed models.")
        del self.endpoints[name]
        return self._start(name, _empty)

    # Pipelines

    def _create_pipeline_job(
        self, name: str, query: Mapping[str, str], given: Any
    ) -> dict[str, Any]:
        return self._create_job(given, query.get("pipelineJobId", ""))

    def _create_job(self, given: Any, job_id: str) -> dict[str, Any]:
        job = _parse(types.PipelineJob, given)
        job_id = job_id or self._number()
        _check(r"[a-z0-9][a-z0-9-]{0,126}", job_id, "pipeline_job_id")
        _check_labels(job.labels)
        resource = f"{PARENT}/pipelineJobs/{job_id}"
        if resource in self.jobs:
            raise Refused(409, f"PipelineJob {resource} already exists.")
        document = _dump(job)
        check_pipeline(document)
        now = "2026-11-27T06:00:00Z"
        self.jobs[resource] = {
            **document,
            "name": resource,
            "state": "PIPELINE_STATE_RUNNING",
            "createTime": now,
            "startTime": now,
        }
        return self.jobs[resource]

    def _job(self, name: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise Refused(404, f"The PipelineJob {name} does not exist.")
        return self.jobs[name]

    def _get_pipeline_job(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        return self._job(name)

    def _cancel_pipeline_job(
        self, name: str, query: Mapping[str, str], given: Any
    ) -> dict[str, Any]:
        job = self._job(name)
        if job["state"] not in ("PIPELINE_STATE_RUNNING", "PIPELINE_STATE_PENDING"):
            raise Refused(400, f"The PipelineJob is in state {job['state']}.")
        job["state"] = "PIPELINE_STATE_CANCELLING"
        return {}

    def _create_schedule(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        schedule = _parse(types.Schedule, given)
        if not schedule.max_concurrent_run_count:
            raise Refused(400, "max_concurrent_run_count is missing.")
        if schedule.create_pipeline_job_request.parent != PARENT:
            raise Refused(400, "create_pipeline_job_request.parent is not that of the schedule.")
        document = _dump(schedule)
        check_pipeline(document["createPipelineJobRequest"]["pipelineJob"])
        resource = f"{PARENT}/schedules/{self._number()}"
        self.schedules[resource] = {**document, "name": resource, "state": "ACTIVE"}
        return self.schedules[resource]

    def _schedule(self, name: str) -> dict[str, Any]:
        if name not in self.schedules:
            raise Refused(404, f"The Schedule {name} does not exist.")
        return self.schedules[name]

    def _list_schedules(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        found = list(self.schedules.values())
        if text := query.get("filter"):
            wanted = re.fullmatch(r'display_name="([^"]*)"', text)
            if wanted is None:
                raise Refused(400, f"The filter {text} is not understood.")
            found = [one for one in found if one["displayName"] == wanted[1]]
        # Pages of one, so that whoever reads the first alone is found out.
        start = int(query.get("pageToken") or 0)
        more = {"nextPageToken": str(start + 1)} if start + 1 < len(found) else {}
        return {"schedules": found[start : start + 1], **more}

    def _update_schedule(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        schedule, wanted = self._schedule(name), _dump(_parse(types.Schedule, given))
        for field in query["updateMask"].split(","):
            if field not in ("cron", "createPipelineJobRequest", "maxConcurrentRunCount"):
                raise Refused(400, f"updateMask names {field}.")
            schedule[field] = wanted[field]
        # As documented: an update that succeeds also sets a paused one going.
        schedule["state"] = "ACTIVE"
        return schedule

    def _pause_schedule(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        self._schedule(name)["state"] = "PAUSED"
        return {}

    def _resume_schedule(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        self._schedule(name)["state"] = "ACTIVE"
        return {}

    def _delete_schedule(self, name: str, query: Mapping[str, str], given: Any) -> dict[str, Any]:
        self._schedule(name)
        del self.schedules[name]
        return self._start(name, _empty)


_PLACE = r"projects/[^/]+/locations/[^/]+"
_ROUTES: tuple[tuple[str, str, str], ...] = (
    ("GET", rf"{_PLACE}(/\w+/[^/:]+)?/operations/[^/:]+", "get_operation"),
    ("GET", rf"{_PLACE}(/\w+/[^/:]+)?/operations", "list_operations"),
    ("POST", rf"{_PLACE}/models:upload", "upload_model"),
    ("GET", rf"{_PLACE}/models/[^/:]+", "get_model"),
    ("GET", rf"{_PLACE}/models/[^/:]+:listVersions", "list_model_versions"),
    ("POST", rf"{_PLACE}/models/[^/:]+:mergeVersionAliases", "merge_version_aliases"),
    ("DELETE", rf"{_PLACE}/models/[^/:]+:deleteVersion", "delete_model_version"),
    ("DELETE", rf"{_PLACE}/models/[^/:]+", "delete_model"),
    ("POST", rf"{_PLACE}/endpoints", "create_endpoint"),
    ("GET", rf"{_PLACE}/endpoints/[^/:]+", "get_endpoint"),
    ("PATCH", rf"{_PLACE}/endpoints/[^/:]+", "update_endpoint"),
    ("POST", rf"{_PLACE}/endpoints/[^/:]+:deployModel", "deploy_model"),
    ("POST", rf"{_PLACE}/endpoints/[^/:]+:undeployModel", "undeploy_model"),
    ("DELETE", rf"{_PLACE}/endpoints/[^/:]+", "delete_endpoint"),
    ("POST", rf"{_PLACE}/pipelineJobs", "create_pipeline_job"),
    ("GET", rf"{_PLACE}/pipelineJobs/[^/:]+", "get_pipeline_job"),
    ("POST", rf"{_PLACE}/pipelineJobs/[^/:]+:cancel", "cancel_pipeline_job"),
    ("POST", rf"{_PLACE}/schedules", "create_schedule"),
    ("GET", rf"{_PLACE}/schedules", "list_schedules"),
    ("PATCH", rf"{_PLACE}/schedules/[^/:]+", "update_schedule"),
    ("POST", rf"{_PLACE}/schedules/[^/:]+:pause", "pause_schedule"),
    ("POST", rf"{_PLACE}/schedules/[^/:]+:resume", "resume_schedule"),
    ("DELETE", rf"{_PLACE}/schedules/[^/:]+", "delete_schedule"),
)


@functools.cache
def _private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode()


def _route(verb: str, path: str) -> tuple[str, dict[str, str]]:
    path = urllib.parse.unquote(path)
    for wanted, pattern, method in _ROUTES:
        if verb == wanted and re.fullmatch(pattern, path):
            name = re.sub(r":\w+$", "", path)
            if method == "list_operations":
                name = name.removesuffix("/operations")
            return method, {"name": name, "parent": "/".join(path.split("/")[:4])}
    raise Refused(404, f"{verb} {path} is not a method of the API.")


def _send(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json; charset=UTF-8")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _parse(kind: Any, given: Any) -> Any:
    """A message of the API; a field that it does not have is refused."""
    try:
        message = kind.pb(kind())
        json_format.ParseDict(given, message)
        return kind.wrap(message)
    except json_format.ParseError as error:
        raise Refused(400, f"Invalid JSON payload received. {error}") from error


def _dump(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json_format.MessageToJson(type(message).pb(message)))
    return found


def _check(pattern: str, text: str, field: str) -> None:
    if not re.fullmatch(pattern, text):
        raise Refused(400, f"List of found errors: {field} is {text!r}.")


def _check_labels(labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        _check(r"[a-z][a-z0-9_-]{0,62}", name, "labels")
        _check(r"[a-z0-9_-]{0,63}", value, "labels")


def check_pipeline(job: Mapping[str, Any]) -> None:
    """What Vertex AI looks at before it runs a pipeline."""
    spec, config = job["pipelineSpec"], job["runtimeConfig"]
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", spec["pipelineInfo"]["name"]):
        raise Refused(400, f"The pipeline's name is {spec['pipelineInfo']['name']!r}.")
    if not config.get("gcsOutputDirectory", "").startswith("gs://"):
        raise Refused(400, "runtimeConfig.gcsOutputDirectory is required.")
    if spec["schemaVersion"] != "2.1.0" or "parameters" in config:
        raise Refused(400, "parameterValues are for schema version 2.1.0, parameters for 2.0.0.")
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    values = config.get("parameterValues", {})
    if unknown := set(values) - set(declared):
        raise Refused(400, f"The pipeline has no parameters {sorted(unknown)}.")
    for name, one in declared.items():
        if name not in values and "defaultValue" not in one and not one.get("isOptional"):
            raise Refused(400, f"The parameter {name} is missing.")


def _empty() -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.protobuf.Empty", "value": {}}


def _message(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.cloud.aiplatform.v1.{kind}", **fields}
