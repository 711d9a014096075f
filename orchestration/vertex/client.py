"""Vertex AI Pipelines, with the operations that the commands have for Kubeflow Pipelines."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cloud.errors import CloudError
from cloud.vertex import Place, Vertex
from orchestration.kubeflow import waiting
from orchestration.kubeflow.cron import six_fields
from orchestration.kubeflow.errors import KubeflowError, listed
from orchestration.kubeflow.runs import RunStatus, SubmittedRun
from orchestration.kubeflow.schedules import CREATED, UNCHANGED, UPDATED, Schedule
from orchestration.kubeflow.task_states import TaskStatus
from pipeline.vertex_config import VertexConfig
from storage.errors import one_line

if TYPE_CHECKING:
    from orchestration.kubeflow.package import Package, Value

FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED")
_JOBS, _SCHEDULES = "pipeline_service", "schedule_service"
_JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,126}")
_RUN = re.compile(
    r"(?:projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/pipelineJobs/)?"
    r"(?P<job>[a-z0-9][a-z0-9-]{0,127})"
)
_LABEL = "flightdeck-pipeline"
# What says whether a job of a schedule is the wanted one; the API adds to the others.
_FIELDS = (
    *("pipeline_spec", "runtime_config", "labels", "service_account", "network"),
    "encryption_spec",
)


class VertexPipelines:
    """Vertex AI Pipelines in a project and region.

    All methods raise a `CloudError` if the API cannot be reached, or refuses the request.

    Args:
      settings: Where, and with which account, network and key.
      timeout: Longest time for a response, in seconds.

    Raises:
      CloudError: If project or location are missing, there are no credentials, or the library is
        not installed.
    """

    def __init__(self, settings: VertexConfig, timeout: float = 30.0) -> None:
        self._settings = settings
        try:
            place = Place(settings.project, settings.location, settings.api_endpoint)
        except ValueError as error:
            raise CloudError(
                f"{error}: set vertex.project and vertex.location, or give --project and --location"
            ) from error
        self._vertex = Vertex(place, timeout)

    def submit(
        self,
        package: Package,
        parameters: Mapping[str, Value],
        *,
        run_name: str | None = None,
        service_account: str | None = None,
        **_: Any,
    ) -> SubmittedRun:
        """Starts a run.

        Args:
          package: The compiled pipeline.
          parameters: Values of its parameters; defaults of the package are sent for the others.
          run_name: ID of the run. With one, the command may be run again: no second run is started.
            Default: made of pipeline, version and time.
          service_account: Account that tasks run as. Default: that of the settings.

        Raises:
          CloudError: If the ID or the parameters do not fit, there is another run of that ID, or
            the API refuses.
        """
        now = datetime.datetime.now(datetime.UTC)
        job_id = run_name or f"{package.name[:90]}-{package.version}-{now:%Y%m%d%H%M%S%f}"
        if not _JOB_ID.fullmatch(job_id):
            raise CloudError(
                f"--run-name {job_id!r}: up to 127 lower-case letters, digits and '-' are expected"
            )
        job = self._job(package, parameters, service_account)
        name = f"{self._vertex.place.parent}/pipelineJobs/{job_id}"
        what = f"start the run {job_id}"
        try:
            self._vertex.change(
                what,
                _JOBS,
                "create_pipeline_job",
                parent=self._vertex.place.parent,
                pipeline_job=job,
                pipeline_job_id=job_id,
            )
        except CloudError as error:
            if not error.unsure and error.status != 409:
                raise
            found = self._vertex.find(what, _JOBS, "get_pipeline_job", name=name)
            if found is None:
                raise
            if found.labels.get(_LABEL) != package.version:
                raise CloudError(
                    f"Cannot {what}: there is another run of that name: choose another."
                ) from error
        return SubmittedRun(name, package.version, False, self._url(f"runs/{job_id}"))

    def status(self, run_id: str) -> RunStatus:
        """The progress of a run, and why tasks failed.

        Args:
          run_id: ID of the run, or its whole name `projects/…/pipelineJobs/…`.

        Raises:
          CloudError: If there is no such run.
        """
        job = self._vertex.get(
            f"look up the run {run_id}", _JOBS, "get_pipeline_job", name=self._name(run_id)
        )
        details = sorted(job.job_detail.task_details, key=lambda one: one.create_time or _NEVER)
        return RunStatus(
            run_id=job.name,
            name=job.display_name,
            state=_state(job.state.name),
            created=job.create_time or None,
            finished=job.end_time or None,
            error=one_line(job.error.message),
            tasks=tuple(
                TaskStatus(one.task_name, _state(one.state.name), one_line(one.error.message))
                for one in details
                # The run itself is a task without a parent.
                if one.parent_task_id
            ),
            url=self._url(f"runs/{job.name.rpartition('/')[2]}"),
        )

    def wait(
        self,
        run_id: str,
        on_change: Callable[[TaskStatus], None] | None = None,
        *,
        poll_seconds: float = 5.0,
    ) -> RunStatus:
        """Waits until a run is over; see `waiting.wait`."""
        return waiting.wait(lambda: self.status(run_id), FINAL_STATES, on_change, poll_seconds)

    def terminate(self, run_id: str) -> None:
        """Stops a run.

        Raises:
          CloudError: If there is no such run, or it is over or being stopped already.
        """
        status = self.status(run_id)
        if status.state in (*FINAL_STATES, "CANCELLING"):
            raise CloudError(f"The run {run_id} cannot be stopped: it is {status.state} already.")
        self._vertex.change(
            f"terminate the run {run_id}", _JOBS, "cancel_pipeline_job", name=status.run_id
        )

    def schedule(
        self,
        name: str,
        cron: str,
        package: Package,
        parameters: Mapping[str, Value],
        *,
        service_account: str | None = None,
        **_: Any,
    ) -> tuple[Schedule, str]:
        """Sets up the one schedule of a name: one run at a time.

        A schedule that is there is changed in place; one that is paused stays paused.

        Returns:
          The schedule, and whether it was `CREATED`, `UPDATED` or is `UNCHANGED`.

        Raises:
          KubeflowError: If the cron expression or the parameters do not fit.
          CloudError: If the API refuses, or there are several schedules of the name.
        """
        what = f"set up the schedule '{name}'"
        parent = self._vertex.place.parent
        wanted = {
            "display_name": name,
            "cron": five_fields(cron),
            "max_concurrent_run_count": 1,
            "create_pipeline_job_request": {
                "parent": parent,
                "pipeline_job": self._job(package, parameters, service_account),
            },
        }
        found = self._of_name(name)
        if not found:
            try:
                made = self._vertex.change(
                    what, _SCHEDULES, "create_schedule", parent=parent, schedule=wanted
                )
            except CloudError as error:
                there = self._of_name(name) if error.unsure else []
                if not there:
                    raise
                (made, *_more) = there
            return self._described(made), CREATED
        if len(found) > 1:
            raise CloudError(
                f"There are {len(found)} schedules '{name}': delete them "
                f"(schedules delete {name} --target vertex), and run this again."
            )
        (old,) = found
        if _same(old, wanted):
            return self._described(old), UNCHANGED
        changed = self._vertex.change(
            what,
            _SCHEDULES,
            "update_schedule",
            schedule={"name": old.name, **wanted},
            update_mask={"paths": ["cron", "create_pipeline_job_request"]},
        )
        if not _enabled(old) and _enabled(changed):
            self._vertex.change(what, _SCHEDULES, "pause_schedule", name=old.name)
            (changed,) = self._of_name(name)
        return self._described(changed), UPDATED

    def schedules(self) -> list[Schedule]:
        """All schedules of the region that run pipelines, by name."""
        found = [self._described(one) for one in self._of_name()]
        return sorted(found, key=lambda schedule: schedule.name)

    def start_schedule(self, name: str) -> str:
        """Starts a run of a schedule now; returns its name.

        Raises:
          CloudError: If there is no enabled schedule of this name, or several.
        """
        found = [one for one in self._needed(name) if _enabled(one)]
        if len(found) != 1:
            raise CloudError(f"{len(found) or 'None'} of the schedules '{name}' is enabled.")
        request = found[0].create_pipeline_job_request
        now = datetime.datetime.now(datetime.UTC)
        slug = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")[:90] or "run"
        job = self._vertex.change(
            f"start a run of the schedule '{name}'",
            _JOBS,
            "create_pipeline_job",
            parent=self._vertex.place.parent,
            pipeline_job=request.pipeline_job,
            pipeline_job_id=f"{slug}-{now:%Y%m%d%H%M%S%f}",
        )
        return str(job.name)

    def enable_schedule(self, name: str) -> None:
        """Lets a schedule run; times that it has missed are not made up for."""
        self._each(name, "enable", "resume_schedule")

    def disable_schedule(self, name: str) -> None:
        """Stops a schedule from running; a run that has begun goes on."""
        self._each(name, "disable", "pause_schedule")

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; its runs stay, also those that have begun."""
        for one in self._needed(name):
            what = f"delete the schedule '{name}'"
            self._vertex.run(what, _SCHEDULES, "delete_schedule", 1.0, name=one.name)

    def _each(self, name: str, verb: str, method: str) -> None:
        for one in self._needed(name):
            self._vertex.change(f"{verb} the schedule '{name}'", _SCHEDULES, method, name=one.name)

    def _of_name(self, name: str | None = None) -> list[Any]:
        if name is not None and ('"' in name or "\\" in name or not name.strip()):
            raise CloudError(f"The name of the schedule, {name!r}, is empty or has a quote.")
        listed_ones = self._vertex.pages(
            "list schedules",
            _SCHEDULES,
            "list_schedules",
            "schedules",
            parent=self._vertex.place.parent,
            filter=f'display_name="{name}"' if name else "",
        )
        return [one for one in listed_ones if "create_pipeline_job_request" in one]

    def _needed(self, name: str) -> list[Any]:
        found = self._of_name(name)
        if not found:
            names = listed({one.display_name for one in self._of_name()})
            raise CloudError(f"There is no schedule '{name}'; there are: {names or 'none'}.")
        return found

    def _job(
        self, package: Package, parameters: Mapping[str, Value], service_account: str | None
    ) -> dict[str, Any]:
        import yaml

        settings = self._settings
        spec = next(iter(yaml.load_all(package.content, Loader=yaml.CSafeLoader)))
        root = settings.pipeline_root or spec.get("defaultPipelineRoot", "")
        if not root.startswith("gs://"):
            raise CloudError(
                "vertex.pipeline_root is missing, and the package has none: was it compiled with "
                "--target vertex?"
            )
        account = service_account or settings.service_account
        key = settings.kms_key
        return {
            "display_name": package.name,
            "pipeline_spec": spec,
            "runtime_config": {
                "gcs_output_directory": root,
                "parameter_values": package.complete(parameters),
            },
            "labels": {_LABEL: package.version},
            "service_account": account,
            "network": settings.network,
            **({"encryption_spec": {"kms_key_name": key}} if key else {}),
        }

    def _name(self, run_id: str) -> str:
        found = _RUN.fullmatch(run_id)
        place = self._vertex.place
        if found is None:
            raise CloudError(f"{run_id!r} is no ID of a run on Vertex AI.")
        if found["project"] and found["location"] != place.location:
            raise CloudError(f"The run {run_id} is not of the region {place.location}.")
        return run_id if found["project"] else f"{place.parent}/pipelineJobs/{run_id}"

    def _described(self, found: Any) -> Schedule:
        values = found.create_pipeline_job_request.pipeline_job.runtime_config.parameter_values
        return Schedule(
            schedule_id=found.name,
            name=found.display_name,
            cron=found.cron,
            enabled=_enabled(found),
            parameters=dict(values),
            url=self._url("schedules"),
        )

    def _url(self, page: str) -> str:
        place = self._vertex.place
        base = "https://console.cloud.google.com/vertex-ai/pipelines"
        if page.startswith("runs/"):
            base = f"{base}/locations/{place.location}"
        return f"{base}/{page}?project={place.project}"


def five_fields(cron: str) -> str:
    """Checks a cron expression, and writes it as Vertex AI takes it: five fields.

    Raises:
      KubeflowError: If it is not such an expression, never comes true, or needs seconds.

    Examples:
      >>> five_fields("0 6 1 * ?")
      '0 6 1 * *'
    """
    second, *fields = six_fields(cron).split()
    if second != "0":
        raise KubeflowError(
            f"'{cron}' begins with seconds, which Vertex AI has not: five fields are allowed, "
            "minute hour day month weekday."
        )
    return " ".join(fields).replace("?", "*")


def _same(found: Any, wanted: Mapping[str, Any]) -> bool:
    from google.cloud.aiplatform_v1 import types

    schedule = types.Schedule(wanted)
    jobs = [one.create_pipeline_job_request.pipeline_job for one in (found, schedule)]
    return bool(found.cron == schedule.cron) and all(
        getattr(jobs[0], name) == getattr(jobs[1], name) for name in _FIELDS
    )


def _enabled(found: Any) -> bool:
    return bool(found.state.name == "ACTIVE")


def _state(name: str) -> str:
    return name.removeprefix("PIPELINE_STATE_")


_NEVER = datetime.datetime.max.replace(tzinfo=datetime.UTC)
