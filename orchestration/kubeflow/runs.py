"""Runs: submitting, following and terminating them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import kfp_server_api

from orchestration.kubeflow import task_states, waiting
from orchestration.kubeflow.connection import (
    FINAL_STATES,
    Connection,
    Target,
    check_names,
    create,
    doing,
    pages,
    taken_back_on_failure,
)
from orchestration.kubeflow.errors import KubeflowError
from orchestration.kubeflow.task_states import TaskStatus
from storage.errors import one_line

if TYPE_CHECKING:
    from orchestration.kubeflow.package import Package, Value

_NO_RETRIES = (
    "Tasks that fail will not be tried again: this deployment retries errors of Kubernetes alone "
    "(retryPolicy: OnError); docs/kubeflow.md has the line that an administrator changes."
)


@dataclass(frozen=True)
class SubmittedRun:
    """A run that was started.

    Attributes:
      run_id: Its ID.
      version: Name of the pipeline's version that it runs.
      uploaded: Whether the version was uploaded for it; otherwise it was there already.
      url: Where the UI shows it.
      warning: A known deviation of the deployment from the package; otherwise "".
    """

    run_id: str
    version: str
    uploaded: bool
    url: str
    warning: str = ""


@dataclass(frozen=True)
class RunStatus:
    """The progress of a run.

    Attributes:
      run_id: Its ID.
      name: Its name.
      state: As Kubeflow Pipelines has it, such as RUNNING.
      created: When it was created.
      finished: When it ended, if it has.
      error: Why it failed, if the server knows; otherwise "".
      tasks: Its tasks: those that were started in the order of their start, then the others.
      url: Where the UI shows it.
    """

    run_id: str
    name: str
    state: str
    created: datetime.datetime | None
    finished: datetime.datetime | None
    error: str
    tasks: tuple[TaskStatus, ...]
    url: str


class Runs(Connection):
    """Operations on runs."""

    def submit(
        self,
        package: Package,
        parameters: Mapping[str, Value],
        *,
        pipeline_name: str | None = None,
        experiment: str = "Default",
        run_name: str | None = None,
        service_account: str | None = None,
    ) -> SubmittedRun:
        """Uploads a version of a pipeline, unless it is there, and runs it.

        The version is named after its content. If the run cannot be started, the version, the
        pipeline and the experiment are deleted again as far as this made them.

        Args:
          package: The compiled pipeline.
          parameters: Values of its parameters; defaults of the package are sent for the others.
          pipeline_name: Name of the pipeline on the server, made if there is none. Default: that
            of the package.
          experiment: Name of the experiment; made if there is none.
          run_name: Name of the run. Default: made of pipeline, version and time.
          service_account: Kubernetes account that the tasks run as. Default: the server's.

        Raises:
          KubeflowError: If a name or the parameters do not fit, or the server refuses.
        """
        values = package.complete(parameters)
        pipeline_name = pipeline_name or package.name
        now = datetime.datetime.now(datetime.UTC)
        name = run_name or f"{pipeline_name} {package.version} {now:%Y-%m-%d %H-%M-%S}"
        check_names(pipeline=pipeline_name, experiment=experiment, run=name)
        self._connect()
        with taken_back_on_failure() as made:
            target = self._prepare(package, pipeline_name, experiment, made)
            before = {run.run_id for run in self._runs_of(name, target.experiment_id)}
            body = kfp_server_api.V2beta1Run(
                display_name=name,
                experiment_id=target.experiment_id,
                pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
                    target.pipeline_id, target.version_id
                ),
                runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=values),
                service_account=service_account,
            )

            def started() -> Any:
                runs = self._runs_of(name, target.experiment_id)
                return next((run for run in runs if run.run_id not in before), None)

            run = create(
                f"start the run '{name}'", lambda: self._runs.run_service_create_run(body), started
            )
        return SubmittedRun(
            run.run_id,
            package.version,
            target.uploaded,
            self._run_url(run.run_id),
            _NO_RETRIES if package.retries and self._retries_nothing(target, run.run_id) else "",
        )

    def status(self, run_id: str) -> RunStatus:
        """The progress of a run, and why tasks failed.

        Raises:
          KubeflowError: If there is no such run.
        """
        if not run_id.strip():
            raise KubeflowError("The ID of the run is empty.")
        self._connect()
        with doing(f"look up the run {run_id}"):
            run = self._runs.run_service_get_run(run_id)
        final = run.state in FINAL_STATES
        # The workflow knows more: details carry no error, and end where its status gets large.
        tasks = task_states.of_manifest(self._manifest(run_id), final=final)
        if not tasks:
            details = (run.run_details and run.run_details.task_details) or []
            tasks = task_states.of_details(details, final=final)
        return RunStatus(
            run_id=run.run_id,
            name=run.display_name or "",
            state=run.state or "PENDING",
            created=_time(run.created_at),
            finished=_time(run.finished_at),
            error=one_line((run.error and run.error.message) or ""),
            tasks=tasks,
            url=self._run_url(run.run_id),
        )

    def wait(
        self,
        run_id: str,
        on_change: Callable[[TaskStatus], None] | None = None,
        *,
        poll_seconds: float = 5.0,
    ) -> RunStatus:
        """Waits until a run is over.

        Args:
          run_id: ID of the run.
          on_change: Called with a task whenever its state has changed.
          poll_seconds: Time between two requests.

        Returns:
          How it ended.

        Raises:
          KubeflowError: If there is no such run, or several requests in a row get no response.
        """
        return waiting.wait(lambda: self.status(run_id), FINAL_STATES, on_change, poll_seconds)

    def terminate(self, run_id: str) -> None:
        """Stops a run.

        Raises:
          KubeflowError: If there is no such run, or it is over or being stopped already.
        """
        status = self.status(run_id)
        if status.state in (*FINAL_STATES, "CANCELING"):
            raise KubeflowError(
                f"The run {run_id} cannot be stopped: it is {status.state} already."
            )
        with doing(f"terminate the run {run_id}"):
            self._runs.run_service_terminate_run(run_id)

    def _runs_of(self, name: str, experiment_id: str) -> Iterator[Any]:
        service = self._runs.run_service_list_runs
        return pages("runs", service, name, experiment_id=experiment_id)

    def _retries_nothing(self, target: Target, run_id: str) -> bool:
        """Whether the controller retries no task that fails, by the newest run before this one."""
        options = {"experiment_id": target.experiment_id, "page_size": 2}
        with contextlib.suppress(KubeflowError):
            newest = self._runs.run_service_list_runs(sort_by="created_at desc", **options)
            before = [one.run_id for one in newest.runs or [] if one.run_id != run_id]
            return bool(before) and task_states.retries_errors_alone(self._manifest(before[0]))
        return False

    def _manifest(self, run_id: str) -> str:
        """The workflow of a run, with its status, as JSON; "" if the server does not give it.

        Of the API before v2beta1, which alone has it.
        """
        with contextlib.suppress(KubeflowError):
            found = self._api_client.call_api(
                "/apis/v1beta1/runs/{run_id}",
                "GET",
                {"run_id": run_id},
                header_params={"Accept": "application/json"},
                response_type="object",
                auth_settings=["Bearer"],
                _return_http_data_only=True,
            )
            runtime = found.get("pipeline_runtime") if isinstance(found, dict) else None
            manifest = runtime.get("workflow_manifest") if isinstance(runtime, dict) else None
            return manifest if isinstance(manifest, str) else ""
        return ""

    def _run_url(self, run_id: str) -> str:
        return f"{self._ui}/#/runs/details/{run_id}"


def _time(value: datetime.datetime | None) -> datetime.datetime | None:
    """A time of the server, which has the year 1970, or 1, for none."""
    return value if value and value.timestamp() > 0 else None
