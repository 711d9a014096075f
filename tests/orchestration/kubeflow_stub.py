"""A server that speaks the v2beta1 API of Kubeflow Pipelines, and refuses what the real one does.

What it refuses, with which status and in which words, follows the back end's sources
(backend/src/apiserver: server/, resource/resource_manager.go, template/v2_template.go) and what
version 2.17.0 did. Nothing runs: the states of a run are a script that goes on by one step whenever
the run is looked at.
"""

from __future__ import annotations

import base64
import email
import email.policy
import http.server
import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.orchestration.kubeflow_checks import check_cron, check_parameters
from tests.orchestration.kubeflow_workflow import task_details, workflow

Json = dict[str, Any]

# A small pipeline as kfp's compiler writes it, whole numbers as 6.0 included.
PACKAGE = """\
components:
  comp-train:
    executorLabel: exec-train
    inputDefinitions:
      parameters:
        epochs: {parameterType: NUMBER_INTEGER}
deploymentSpec:
  executors:
    exec-train:
      container:
        args: ["{{$.inputs.parameters['epochs']}}"]
        command: [train]
        image: image
pipelineInfo: {name: toy-pipeline}
root:
  dag:
    tasks:
      train:
        cachingOptions: {enableCache: true}
        componentRef: {name: comp-train}
        inputs:
          parameters:
            epochs: {componentInputParameter: epochs}
        taskInfo: {name: train}
  inputDefinitions:
    parameters:
      epochs: {parameterType: NUMBER_INTEGER}
      rate: {defaultValue: 0.5, isOptional: true, parameterType: NUMBER_DOUBLE}
      uri: {defaultValue: gs://bucket/data, isOptional: true, parameterType: STRING}
      window: {defaultValue: 6.0, isOptional: true, parameterType: NUMBER_INTEGER}
schemaVersion: 2.1.0
sdkVersion: kfp-2.13.0
"""

# How an answer goes wrong: an HTTP status, or one of these.
HTML = "html"  # the login page of a proxy, with status 200
REDIRECT = "redirect"  # to that page
DROP = "drop"  # the connection is closed before anything is done
DROP_AFTER = "drop after"  # it is done, but the connection is closed without an answer
HANG = "hang"  # nothing is done, and no answer comes

# gRPC codes, and the HTTP status that the gateway makes of them
_INVALID_ARGUMENT, _NOT_FOUND, _ALREADY_EXISTS = (3, 400), (5, 404), (6, 409)
_PERMISSION_DENIED, _INTERNAL, _UNAUTHENTICATED = (7, 403), (13, 500), (16, 401)

_DEFAULT_PAGE, _LARGEST_PAGE = 20, 200
_NEVER = "1970-01-01T00:00:00Z"

_FIELDS = {
    "CreatePipeline": {"display_name", "name", "description", "namespace"},
    "CreateExperiment": {"display_name", "description", "namespace"},
    "CreateRun": {
        *("display_name", "description", "experiment_id", "pipeline_version_reference"),
        *("pipeline_spec", "runtime_config", "service_account"),
    },
    "CreateRecurringRun": {
        *("display_name", "description", "experiment_id", "pipeline_version_reference"),
        *("pipeline_spec", "runtime_config", "service_account", "max_concurrency", "mode"),
        *("no_catchup", "trigger", "namespace"),
    },
}


class Refused(Exception):
    """An error of the server: gRPC code and HTTP status, words for people, words of the log.

    A bare one is the gateway's own, and has no details.
    """

    def __init__(
        self, code: tuple[int, int], message: str, log: str = "", *, bare: bool = False
    ) -> None:
        super().__init__(message)
        self.code, self.status = code
        self.bare = bare
        self.message = message
        self.log = log or message


@dataclass
class Fault:
    """What is to go wrong with the `nth` call of an operation, and the `times - 1` after it."""

    operation: str
    how: int | str
    nth: int
    times: float

    def hits(self, operation: str, call: int) -> bool:
        return operation == self.operation and self.nth <= call < self.nth + self.times


@dataclass
class KubeflowStub:
    """The server. Use it in a `with` statement; set what it does before or between calls.

    Attributes:
      multi_user: Whether it has several namespaces.
      namespaces: Those that the caller may use.
      token: Bearer token that calls need, but for the question whether it is well.
      largest_page: Items on a page at most.
      tls: Files of certificate and key; plain HTTP without.
      script: Steps of a run: state, tasks by name (state, or state and error) and error.
      manifest: What is given for the workflow of any run; "" for what the script makes of it.
      planned: Tasks that the workflow of a run has, started or not.
      compressed: Whether the workflow's status has got large: its nodes are compressed, and the
        details of tasks stay as they were one step before.
      retry_policy: What the controller gives to every template that has none.
      calls: Every call: operation and what it was given.
      headers: Headers of the last call.
      before: By operation, what happens just before it is carried out.
      most_enabled: By name, how many recurring runs were ever enabled at a time.
      orphans: Workflows that run for no run.
    """

    multi_user: bool = False
    namespaces: tuple[str, ...] = ("team",)
    token: str = ""
    largest_page: int = _LARGEST_PAGE
    tls: tuple[str, str] | None = None
    script: list[Json] = field(default_factory=list)
    manifest: str = ""
    planned: tuple[str, ...] = ()
    compressed: bool = False
    retry_policy: str = "OnError"
    pipelines: dict[str, Json] = field(default_factory=dict)
    versions: dict[str, Json] = field(default_factory=dict)
    experiments: dict[str, Json] = field(default_factory=dict)
    runs: dict[str, Json] = field(default_factory=dict)
    recurring_runs: dict[str, Json] = field(default_factory=dict)
    calls: list[tuple[str, Json]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    most_enabled: Counter[str] = field(default_factory=Counter)
    before: dict[str, Callable[[], object]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    orphans: int = 0

    def __enter__(self) -> KubeflowStub:
        stub = self
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._last_call: tuple[str, int] | None = None
        self._looks: Counter[str] = Counter()

        class Handler(_Handler):
            server_stub = stub

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._server.server_port}"

    @property
    def state(self) -> dict[str, list[str]]:
        """IDs of all there is, to tell whether something has changed."""
        kinds = ("pipelines", "versions", "experiments", "runs", "recurring_runs")
        return {kind: sorted(getattr(self, kind)) for kind in kinds}

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.calls]

    def fail(self, operation: str, how: int | str, nth: int = 1, times: float = 1) -> None:
        """Lets a call go wrong, counted from now on."""
        done = self.operations.count(operation)
        self.faults.append(Fault(operation, how, done + nth, times))

    def die_after(self, operation: str, nth: int = 1) -> None:
        """Carries out and answers a call, counted from now on, and drops whatever comes then."""
        self._last_call = (operation, self.operations.count(operation) + nth)

    def revive(self) -> None:
        """Lets all go well again."""
        self._last_call = None
        self.faults.clear()

    def answer(self, operation: str, given: Json, act: Callable[[], Json]) -> Json | str | int:
        """Answers one call, or says how it goes wrong."""
        with self._lock:
            self.calls.append((operation, given))
            call = self.operations.count(operation)
            if self._last_call:
                last, number = self._last_call
                happened = self.operations.count(last)
                if happened > number or (happened == number and operation != last):
                    return DROP
            how = next((f.how for f in self.faults if f.hits(operation, call)), None)
            if how is not None and how != DROP_AFTER:
                return how
            self.before.get(operation, lambda: None)()
            found = act()
            enabled = Counter(
                one["display_name"]
                for one in self.recurring_runs.values()
                if one["status"] == "ENABLED"
            )
            self.most_enabled |= enabled
            return DROP_AFTER if how == DROP_AFTER else found

    # Pipelines

    def create_pipeline(self, body: Json) -> Json:
        name = body.get("name") or body.get("display_name") or ""
        if not name:
            raise _internal("pipeline's name cannot be empty")
        _check_length("Pipeline", name)
        namespace = self._namespace(body.get("namespace"))
        for one in self.pipelines.values():
            if _same(one["name"], name) and one.get("namespace", "") == namespace:
                raise Refused(
                    _ALREADY_EXISTS,
                    f"Failed to create a new pipeline. The name {name} already exist. Please "
                    "specify a new name",
                )
        pipeline = {
            "pipeline_id": _new_id(),
            "name": name,
            "display_name": body.get("display_name") or name,
            "created_at": _now(),
            "namespace": namespace,
        }
        self.pipelines[pipeline["pipeline_id"]] = pipeline
        return pipeline

    def delete_pipeline(self, pipeline_id: str) -> Json:
        self._get(self.pipelines, "Pipeline", pipeline_id)
        for version_id, version in self.versions.items():
            if version["pipeline_id"] == pipeline_id:
                raise Refused(
                    _INVALID_ARGUMENT,
                    f"Failed to delete pipeline with id {pipeline_id} as it has existing pipeline "
                    f"versions (e.g. {version_id}). Set cascade=true to delete all versions",
                )
        del self.pipelines[pipeline_id]
        return {}

    def upload_version(self, query: Json, filename: str, content: bytes) -> Json:
        pipeline_id = query.get("pipelineid", "")
        if not content:
            raise _internal("Failed to create a pipeline version: it is empty")
        if pipeline_id not in self.pipelines or not filename.endswith((".yaml", ".yml", ".json")):
            raise Refused(_INVALID_ARGUMENT, "Failed to create a pipeline version")
        name = query.get("name") or filename
        spec = _read_spec(content)
        for one in self.versions.values():
            if one["pipeline_id"] == pipeline_id and _same(one["name"], name):
                raise Refused(_ALREADY_EXISTS, "Failed to create a pipeline version")
        version = {
            "pipeline_id": pipeline_id,
            "pipeline_version_id": _new_id(),
            "name": name,
            "display_name": name,
            "created_at": _now(),
            "pipeline_spec": spec,
        }
        self.versions[version["pipeline_version_id"]] = version
        return version

    def versions_of(self, pipeline_id: str) -> list[Json]:
        self._get(self.pipelines, "Pipeline", pipeline_id)
        return [v for v in self.versions.values() if v["pipeline_id"] == pipeline_id]

    def delete_version(self, version_id: str) -> Json:
        self._get(self.versions, "PipelineVersion", version_id)
        del self.versions[version_id]
        return {}

    # Experiments

    def create_experiment(self, body: Json) -> Json:
        name = body.get("display_name", "")
        namespace = self._namespace(body.get("namespace"))
        if not name:
            raise _internal("Experiment name is empty. Please specify a name")
        _check_length("Experiment", name)
        for one in self.experiments.values():
            if _same(one["display_name"], name) and one["namespace"] == namespace:
                raise Refused(
                    _ALREADY_EXISTS,
                    f"Failed to create a new experiment. The name {name} already exists. Please "
                    "specify a new name",
                )
        experiment = {
            "experiment_id": _new_id(),
            "display_name": name,
            "created_at": _now(),
            "namespace": namespace,
            "storage_state": "AVAILABLE",
        }
        self.experiments[experiment["experiment_id"]] = experiment
        return experiment

    def delete_experiment(self, experiment_id: str) -> Json:
        self._get(self.experiments, "Experiment", experiment_id)
        del self.experiments[experiment_id]
        return {}

    # Runs

    def create_run(self, body: Json) -> Json:
        if not body.get("display_name"):
            raise _internal("The run name is empty. Please specify a valid name")
        if len(body["display_name"]) > 255:
            self.orphans += 1  # its workflow has started
            raise _internal("Failed to create a new run: Data too long for column 'DisplayName'")
        run = {**body, **self._checked(body, "Failed to create a new run")}
        run |= {
            "run_id": _new_id(),
            "created_at": _now(),
            "scheduled_at": _now(),
            "storage_state": "AVAILABLE",
            "finished_at": _NEVER,
            "state": "PENDING",
        }
        self.runs[run["run_id"]] = run
        return run

    def get_run(self, run_id: str) -> Json:
        run: Json = self._get(self.runs, "Run", run_id)
        if run["state"] == "CANCELING":
            run |= {"state": "FAILED", "finished_at": _now()}
        elif self.script and run["state"] != "FAILED":
            step = self._step(run_id, self._looks[run_id])
            frozen = self._step(run_id, self._looks[run_id] - 1) if self.compressed else step
            run["state"] = step["state"]
            run["run_details"] = {"task_details": task_details(run_id, frozen.get("tasks", {}))}
            if step["state"] in ("SUCCEEDED", "FAILED"):
                run["finished_at"] = _now()
            if step.get("error"):
                run["error"] = {"code": 2, "message": step["error"]}
        self._looks[run_id] += 1
        return run

    def get_workflow(self, run_id: str) -> Json:
        """The run as the API of v1beta1 has it, at the step of the last look."""
        run: Json = self._get(self.runs, "Run", run_id)
        step = self._step(run_id, self._looks[run_id] - 1)
        manifest = self.manifest or json.dumps(
            workflow(
                step.get("tasks", {}),
                planned=self.planned,
                compressed=self.compressed,
                retry_policy=self.retry_policy,
            )
        )
        found = {"id": run_id, "name": run["display_name"], "status": run["state"].capitalize()}
        return {"run": found, "pipeline_runtime": {"workflow_manifest": manifest}}

    def _step(self, run_id: str, number: int) -> Json:
        steps = self.script or [{}]
        return steps[max(0, min(number, len(steps) - 1))]

    def terminate_run(self, run_id: str) -> Json:
        run = self._get(self.runs, "Run", run_id)
        if run["state"] not in ("PENDING", "RUNNING", "PAUSED"):
            raise Refused(_INVALID_ARGUMENT, f"Failed to terminate a run {run_id}. Row not found")
        run["state"] = "CANCELING"
        return {}

    # Recurring runs

    def create_recurring_run(self, body: Json) -> Json:
        if not body.get("display_name"):
            raise _internal("Recurring run's name cannot be empty")
        concurrency = int(body.get("max_concurrency", 0))
        if not 1 <= concurrency <= 10:
            raise Refused(
                _INVALID_ARGUMENT,
                "Max concurrency of a recurring run must be at least 1 and at most 10. Received "
                f"{concurrency}",
            )
        cron = body.get("trigger", {}).get("cron_schedule", {}).get("cron")
        if cron is not None:
            try:
                check_cron(cron)
            except ValueError as error:
                raise Refused(
                    _INVALID_ARGUMENT,
                    "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/"
                    f"cron). Error: {error}",
                ) from error
        checked = self._checked(body, "Failed to create a recurring run")
        enabled = body.get("mode") == "ENABLE"
        created = {
            **body,
            **checked,
            "recurring_run_id": _new_id(),
            "created_at": _now(),
            "updated_at": _now(),
            "max_concurrency": str(concurrency),  # int64 is text in protobuf's JSON
            "service_account": body.get("service_account")
            or ("default-editor" if self.multi_user else "pipeline-runner"),
            "namespace": checked["namespace"] or "kubeflow",
            "mode": "ENABLE" if enabled else "DISABLE",
            "status": "ENABLED" if enabled else "DISABLED",
        }
        self.recurring_runs[created["recurring_run_id"]] = created
        return created

    def set_mode(self, recurring_run_id: str, *, enabled: bool) -> Json:
        found = self._get(self.recurring_runs, "Job", recurring_run_id)
        found["mode"] = "ENABLE" if enabled else "DISABLE"
        found["status"] = "ENABLED" if enabled else "DISABLED"
        return {}

    def delete_recurring_run(self, recurring_run_id: str) -> Json:
        self._get(self.recurring_runs, "Job", recurring_run_id)
        del self.recurring_runs[recurring_run_id]
        for run in self.runs.values():
            # Kubernetes deletes the workflows that the deleted schedule owns.
            if run.get("recurring_run_id") == recurring_run_id and run.get("state") == "RUNNING":
                run["state"] = "FAILED"
        return {}

    def start_scheduled_run(self, recurring_run_id: str, state: str | None = "RUNNING") -> str:
        """Does what the controller does when the time has come; returns the ID of the run.

        At first, the run has neither state nor parameters.
        """
        recurring_run = self.recurring_runs[recurring_run_id]
        run: Json = {
            "run_id": _new_id(),
            "recurring_run_id": recurring_run_id,
            "experiment_id": recurring_run["experiment_id"],
            "namespace": recurring_run["namespace"],
            "display_name": f"{recurring_run['display_name']}-run",
            "created_at": _now(),
            "finished_at": _NEVER,
            **({"state": state} if state else {}),
        }
        self.runs[run["run_id"]] = run
        return str(run["run_id"])

    # What they share

    def listed(self, kind: str, items: list[Json], query: Json) -> Json:
        """A page of a list."""
        condition, order = query.get("filter", ""), query.get("sort_by", "")
        start = 0
        if query.get("page_token"):
            try:
                token = json.loads(base64.b64decode(query["page_token"]))
            except ValueError as error:
                raise Refused(_INVALID_ARGUMENT, "Invalid page token") from error
            start = token["start"]
            given = (condition or token["filter"], order or token["order"])
            if given != (token["filter"], token["order"]):
                raise Refused(
                    _INVALID_ARGUMENT,
                    "page token does not match the supplied sort by and/or filtering criteria",
                )
            condition, order = token["filter"], token["order"]
        found = [item for item in items if _fits(item, condition)]
        if order == "created_at desc":
            found.sort(key=lambda item: str(item["created_at"]), reverse=True)
        elif order:
            raise Refused(_INVALID_ARGUMENT, f'Invalid sorting field: "{order}"')
        size = min(int(query.get("page_size") or _DEFAULT_PAGE), self.largest_page)
        page: Json = {kind: found[start : start + size], "total_size": len(found)}
        if start + size < len(found):
            token = json.dumps({"start": start + size, "filter": condition, "order": order})
            page["next_page_token"] = base64.b64encode(token.encode()).decode()
        return {name: value for name, value in page.items() if value}

    def in_namespace(self, items: Mapping[str, Json], namespace: str | None) -> list[Json]:
        wanted = self._namespace(namespace)
        inside = (wanted,) if self.multi_user else ("", "kubeflow")
        return [one for one in items.values() if one.get("namespace", "") in inside]

    def in_experiment(self, items: Mapping[str, Json], query: Json) -> list[Json]:
        """Runs of an experiment, or else of a namespace."""
        if experiment_id := query.get("experiment_id"):
            self._get(self.experiments, "Experiment", experiment_id)
            return [one for one in items.values() if one["experiment_id"] == experiment_id]
        return self.in_namespace(items, query.get("namespace"))

    def authorize(self, operation: str, authorization: str) -> None:
        if self.token and operation != "GetHealthz" and authorization != f"Bearer {self.token}":
            raise Refused(
                _UNAUTHENTICATED,
                "Failed to check authorization. User identity is empty in the request header",
            )

    def _namespace(self, namespace: str | None) -> str:
        if not self.multi_user:
            return ""
        if not namespace:
            raise Refused(_INVALID_ARGUMENT, "Namespace cannot be empty in multi-user mode")
        if namespace not in self.namespaces:
            raise Refused(
                _PERMISSION_DENIED,
                f"User 'somebody@example.com' is not authorized with reason:  (request: "
                f"Namespace:{namespace})",
            )
        return namespace

    def _get(self, items: dict[str, Json], kind: str, item_id: str) -> Json:
        if item_id not in items:
            raise Refused(_NOT_FOUND, f"{kind} {item_id} not found")
        return items[item_id]

    def _checked(self, body: Json, failed: str) -> Json:
        """What the server makes of a run's experiment, version and parameters."""
        experiment_id = body.get("experiment_id")
        if not experiment_id:
            default = [e for e in self.experiments.values() if e["display_name"] == "Default"]
            experiment_id = (default or [self.create_experiment({"display_name": "Default"})])[0][
                "experiment_id"
            ]
        experiment = self._get(self.experiments, "Experiment", experiment_id)
        reference = body.get("pipeline_version_reference", {})
        version = self.versions.get(reference.get("pipeline_version_id", ""))
        if version is None:
            # The real one wraps the 404 of the version into this.
            raise _internal(f"{failed}: version not found")
        if version["pipeline_id"] != reference.get("pipeline_id"):
            raise _internal(f"{failed}: other pipeline")
        values = body.get("runtime_config", {}).get("parameters", {})
        spec = version["pipeline_spec"].get("pipeline_spec", version["pipeline_spec"])
        try:
            check_parameters(spec, values)
        except ValueError as error:
            raise Refused(
                _INVALID_ARGUMENT, str(error), f"{failed}: invalid pipeline job inputs: {error}"
            ) from error
        return {"namespace": experiment["namespace"], "experiment_id": experiment_id}


class _Handler(http.server.BaseHTTPRequestHandler):
    """Finds the operation that a request means, and writes its answer as grpc-gateway does."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for one another
    server_stub: KubeflowStub

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        stub = self.server_stub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        stub.headers = dict(self.headers.items())
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        found = _route(self.command, url.path)
        if found is None:
            self.reply(404, b"404 page not found\n", "text/plain")
            return
        operation, arguments = found
        upload = operation.startswith("Upload")
        try:
            stub.authorize(operation, self.headers.get("Authorization", ""))
            given = query if upload else {**query, **_parsed(operation, body)}
            content_type = self.headers.get("Content-Type", "")
            answer = stub.answer(
                operation,
                {**given, **arguments},
                lambda: _act(stub, operation, arguments, given, content_type, body),
            )
        except Refused as error:
            self.reply_json(error.status, _error_body(error, upload=upload))
            return
        except (ConnectionError, BrokenPipeError):
            return
        self.write_answer(answer, upload=upload)

    def write_answer(self, answer: Json | str | int, *, upload: bool) -> None:
        if isinstance(answer, dict):
            self.reply_json(200, answer)
        elif isinstance(answer, int):
            error = Refused((13, answer), "Internal Server Error", "database is locked")
            self.reply_json(answer, _error_body(error, upload=upload))
        elif answer == HTML:
            self.reply(200, b"<!doctype html><title>Log in</title>", "text/html; charset=utf-8")
        elif answer == REDIRECT:
            self.send_response(302)
            self.send_header("Location", "/dex/auth?state=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            if answer == HANG:
                self.server_stub.stopped.wait(5)
            self.close_connection = True

    def reply_json(self, status: int, body: Json) -> None:
        self.reply(status, json.dumps(body).encode(), "application/json")

    def reply(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = handle_any


_ROUTES = [
    (method, re.compile(f"/apis/{path if path.startswith('v1') else f'v2beta1/{path}'}"), operation)
    for method, path, operation in (
        ("GET", r"healthz", "GetHealthz"),
        ("POST", r"pipelines/upload_version", "UploadPipelineVersion"),
        ("GET", r"pipelines", "ListPipelines"),
        ("POST", r"pipelines", "CreatePipeline"),
        ("DELETE", r"pipelines/(?P<pipeline_id>[^/]+)", "DeletePipeline"),
        ("GET", r"pipelines/(?P<pipeline_id>[^/]+)/versions", "ListPipelineVersions"),
        (
            "DELETE",
            r"pipelines/(?P<pipeline_id>[^/]+)/versions/(?P<version_id>[^/]+)",
            "DeletePipelineVersion",
        ),
        ("GET", r"experiments", "ListExperiments"),
        ("POST", r"experiments", "CreateExperiment"),
        ("DELETE", r"experiments/(?P<experiment_id>[^/]+)", "DeleteExperiment"),
        ("GET", r"runs", "ListRuns"),
        ("POST", r"runs", "CreateRun"),
        ("GET", r"runs/(?P<run_id>[^/:]+)", "GetRun"),
        ("POST", r"runs/(?P<run_id>[^/:]+):terminate", "TerminateRun"),
        ("GET", r"v1beta1/runs/(?P<run_id>[^/:]+)", "GetWorkflow"),
        ("GET", r"recurringruns", "ListRecurringRuns"),
        ("POST", r"recurringruns", "CreateRecurringRun"),
        ("DELETE", r"recurringruns/(?P<recurring_run_id>[^/:]+)", "DeleteRecurringRun"),
        ("POST", r"recurringruns/(?P<recurring_run_id>[^/:]+):enable", "EnableRecurringRun"),
        ("POST", r"recurringruns/(?P<recurring_run_id>[^/:]+):disable", "DisableRecurringRun"),
    )
]


def _route(method: str, path: str) -> tuple[str, Json] | None:
    for wanted, pattern, operation in _ROUTES:
        found = pattern.fullmatch(path)
        if wanted == method and found:
            return operation, {name: unquote(text) for name, text in found.groupdict().items()}
    return None


def _act(
    stub: KubeflowStub, operation: str, ids: Json, given: Json, content_type: str, body: bytes
) -> Json:
    """Carries out an operation."""
    namespace = given.get("namespace")
    actions: dict[str, Callable[[], Json]] = {
        "GetHealthz": lambda: {"multi_user": stub.multi_user},
        "UploadPipelineVersion": lambda: stub.upload_version(given, *_file(content_type, body)),
        "ListPipelines": lambda: stub.listed(
            "pipelines", stub.in_namespace(stub.pipelines, namespace), given
        ),
        "CreatePipeline": lambda: stub.create_pipeline(given),
        "DeletePipeline": lambda: stub.delete_pipeline(ids["pipeline_id"]),
        "ListPipelineVersions": lambda: stub.listed(
            "pipeline_versions",
            stub.versions_of(ids["pipeline_id"]),
            given,
        ),
        "DeletePipelineVersion": lambda: stub.delete_version(ids["version_id"]),
        "ListExperiments": lambda: stub.listed(
            "experiments", stub.in_namespace(stub.experiments, namespace), given
        ),
        "CreateExperiment": lambda: stub.create_experiment(given),
        "DeleteExperiment": lambda: stub.delete_experiment(ids["experiment_id"]),
        "ListRuns": lambda: stub.listed("runs", stub.in_experiment(stub.runs, given), given),
        "CreateRun": lambda: stub.create_run(given),
        "GetRun": lambda: stub.get_run(ids["run_id"]),
        "GetWorkflow": lambda: stub.get_workflow(ids["run_id"]),
        "TerminateRun": lambda: stub.terminate_run(ids["run_id"]),
        "ListRecurringRuns": lambda: stub.listed(
            "recurringRuns",
            stub.in_experiment(stub.recurring_runs, given),
            given,
        ),
        "CreateRecurringRun": lambda: stub.create_recurring_run(given),
        "DeleteRecurringRun": lambda: stub.delete_recurring_run(ids["recurring_run_id"]),
        "EnableRecurringRun": lambda: stub.set_mode(ids["recurring_run_id"], enabled=True),
        "DisableRecurringRun": lambda: stub.set_mode(ids["recurring_run_id"], enabled=False),
    }
    return actions[operation]()


def _parsed(operation: str, body: bytes) -> Json:
    """A JSON body; one with a field that the message does not have is refused."""
    if not body:
        return {}
    try:
        parsed: Json = json.loads(body, parse_constant=_no_constant)
    except ValueError as error:
        raise Refused(_INVALID_ARGUMENT, f"invalid value: {error}") from error
    for name in set(parsed) - _FIELDS.get(operation, set(parsed)):
        raise Refused(_INVALID_ARGUMENT, f'proto: (line 1:2): unknown field "{name}"', bare=True)
    return parsed


def _no_constant(name: str) -> None:
    raise ValueError(f"unexpected token {name}")


def _file(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Name and content of the file in a form."""
    message = email.message_from_bytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP
    )
    for part in message.iter_parts():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return part.get_filename() or "", content
    raise Refused(_INVALID_ARGUMENT, "Failed to create a pipeline version")


def _error_body(error: Refused, *, upload: bool) -> Json:
    if upload and error.code != 16:
        return {"error_message": error.message, "error_details": error.log}
    if error.bare:
        return {"code": error.code, "message": error.message, "details": []}
    return {
        "error": error.log,
        "code": error.code,
        "message": error.log,
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.Status",
                "code": error.code,
                "message": error.message,
            }
        ],
    }


def _fits(item: Json, condition: str) -> bool:
    """Whether an item passes a filter; the database does not tell upper from lower case."""
    if not condition:
        return True
    try:
        predicates = json.loads(unquote_plus(condition)).get("predicates", [])
    except ValueError as error:
        message = f'failed to parse valid filter from "{condition}": {error}'
        raise Refused(_INVALID_ARGUMENT, message) from error
    for predicate in predicates:
        if predicate["operation"] not in (1, "EQUALS") or predicate["key"] != "display_name":
            raise Refused(_INVALID_ARGUMENT, f"no support for filtering by {predicate}")
        if not _same(item["display_name"], predicate["stringValue"]):
            return False
    return True


def _read_spec(content: bytes) -> Json:
    """The pipeline of an uploaded file, checked as `NewV2SpecTemplate` does."""
    try:
        documents = [d for d in yaml.safe_load_all(content) if isinstance(d, dict)]
    except yaml.YAMLError as error:
        raise Refused(_INVALID_ARGUMENT, f"failed to parse pipeline spec YAML: {error}") from error
    specs = []
    for document in documents:
        try:
            spec = json_format.ParseDict(document, pipeline_spec_pb2.PipelineSpec())
        except json_format.ParseError:
            continue
        if spec.pipeline_info.name and spec.HasField("root"):
            specs.append(spec)
    if not specs:
        raise Refused(_INVALID_ARGUMENT, "unknown template format")
    if len(specs) > 1:
        raise Refused(_INVALID_ARGUMENT, "multiple pipeline specs provided")
    (spec,) = specs
    if spec.schema_version != "2.1.0":
        raise Refused(
            _INVALID_ARGUMENT,
            "KFP only supports schema version 2.1.0, but the pipeline spec has version "
            f"{spec.schema_version}",
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", spec.pipeline_info.name):
        raise Refused(
            _INVALID_ARGUMENT,
            "pipeline's name must contain only lowercase alphanumeric characters or '-' and must "
            "start with alphanumeric characters",
        )
    found: Json = json_format.MessageToDict(spec)
    platforms = [d for d in documents if "platforms" in d]
    return {"pipeline_spec": found, "platform_spec": platforms[0]} if platforms else found


def _internal(log: str) -> Refused:
    """What the server refuses as a failure of its own, and explains in its log's words alone."""
    return Refused(_INTERNAL, "Internal Server Error", log)


def _check_length(kind: str, name: str) -> None:
    if len(name.encode()) > 128:
        raise _internal(f"Invalid input error: {kind}.Name length cannot exceed 128")


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
