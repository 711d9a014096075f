"""Runs and schedules of a compiled pipeline on Kubeflow Pipelines, by way of `kfp.Client`.

Whatever can be checked here is checked before the server is asked to create anything. Where the
server refuses something all the same, what was made on the way to it is taken back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import os
import tempfile
import time
import urllib.parse
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
from kfp.client import (
    KF_PIPELINES_SA_TOKEN_ENV,
    KF_PIPELINES_SA_TOKEN_PATH,
    ServiceAccountTokenVolumeCredentials,
)

from orchestration.kubeflow.cron import six_fields
from orchestration.kubeflow.errors import KubeflowError, one_line
from orchestration.kubeflow.package import Package, Value, listed
from orchestration.kubeflow.transport import PORT_FORWARD, TOKEN_ENV, Transport

HOST_ENV = "KF_PIPELINES_ENDPOINT"  # these two are read by kfp too
UI_HOST_ENV = "KF_PIPELINES_UI_ENDPOINT"
NAMESPACE_ENV = "KF_PIPELINES_NAMESPACE"
SUCCEEDED = "SUCCEEDED"
FINAL_STATES = (SUCCEEDED, "FAILED", "CANCELED", "SKIPPED")
CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"
_EQUALS = 1  # filter.proto
_PAGE = 100
_PATIENCE = 10  # polls in a row that may fail before waiting is given up
_TAKES_OVER = "Takes over from "


@dataclass(frozen=True)
class SubmittedRun:
    """A run that was started.

    Attributes:
      run_id: Its ID.
      version: Name of the pipeline's version that it runs.
      uploaded: Whether the version was uploaded for it; otherwise it was there already.
      url: Where the UI shows it.
    """

    run_id: str
    version: str
    uploaded: bool
    url: str


@dataclass(frozen=True)
class TaskStatus:
    """How far a task of a run is; `error` is "" unless the server knows one."""

    name: str
    state: str
    error: str = ""


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
      run_id: Its ID.
      name: Its name.
      state: As Kubeflow Pipelines has it, such as RUNNING.
      created: When it was created.
      finished: When it ended, if it has.
      error: Why it failed, if the server knows; otherwise "".
      tasks: Its tasks that were started, in the order of their start.
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


@dataclass(frozen=True)
class Schedule:
    """A recurring run.

    Attributes:
      schedule_id: ID of the recurring run.
      name: Its name.
      cron: When it runs: 6 fields, seconds first; "" if it runs by an interval.
      enabled: Whether it runs at all.
      parameters: The values that its runs get.
      url: Where the UI shows it.
    """

    schedule_id: str
    name: str
    cron: str
    enabled: bool
    parameters: Mapping[str, Value]
    url: str


class KubeflowPipelines:
    """A deployment of Kubeflow Pipelines.

    All methods raise `KubeflowError` if the server cannot be reached, or refuses.

    Args:
      host: Address, such as http://localhost:8080. Default: the environment variable
        KF_PIPELINES_ENDPOINT; then, as kfp finds them, the cluster that this runs in, or that of
        the kubeconfig.
      namespace: Namespace of runs and schedules, where the deployment has several. Default: the
        environment variable KF_PIPELINES_NAMESPACE, kfp's own context, the pod's namespace.
      token_file: File with a bearer token, read for every request, so it may be renewed. Default:
        the environment variable KF_PIPELINES_TOKEN, the token projected into the pod, or what kfp
        finds itself.
      ca_file: Certificates to trust, PEM. Default: those of Mozilla.
      timeout: Longest time for an answer, in seconds.

    Raises:
      KubeflowError: If no address is known, or a file cannot be read.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        namespace: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._client = _make_client(host, token_file, ca_file)
        # `rest_client` is the one place through which all requests of kfp.Client go, and which
        # its methods give no way to set a timeout or to see an answer that is not JSON.
        api_client = self._client.runs.api_client
        self.host: str = api_client.configuration.host
        rest = api_client.rest_client
        rest.pool_manager = Transport(rest.pool_manager, self.host, timeout)
        ui = os.environ.get(UI_HOST_ENV) or host or os.environ.get(HOST_ENV) or self.host
        self._ui = (ui if "://" in ui else f"https://{ui}").rstrip("/")
        self._asked_namespace = namespace or os.environ.get(NAMESPACE_ENV)
        self._namespace: str | None = None
        self._connected = False

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
          KubeflowError: If the parameters do not fit, or the server refuses.
        """
        values = package.complete(parameters)
        pipeline_name = pipeline_name or package.name
        self._connect()
        now = datetime.datetime.now(datetime.UTC)
        name = run_name or f"{pipeline_name} {package.version} {now:%Y-%m-%d %H-%M-%S}"
        with self._taken_back_on_failure() as made:
            target = self._prepare(package, pipeline_name, experiment, made)
            before = {run.run_id for run in self._runs(name, target.experiment_id)}

            def start() -> Any:
                return self._client.run_pipeline(
                    experiment_id=target.experiment_id,
                    job_name=name,
                    params=values,
                    pipeline_id=target.pipeline_id,
                    version_id=target.version_id,
                    service_account=service_account,
                )

            def started() -> Any:
                runs = self._runs(name, target.experiment_id)
                return next((run for run in runs if run.run_id not in before), None)

            run = _create(f"start the run '{name}'", start, started)
        return SubmittedRun(run.run_id, package.version, target.uploaded, self._run_url(run.run_id))

    def status(self, run_id: str) -> RunStatus:
        """How far a run is.

        Raises:
          KubeflowError: If there is no such run.
        """
        if not run_id.strip():
            raise KubeflowError("The ID of the run is empty.")
        self._connect()
        with _doing(f"look up the run {run_id}"):
            run = self._client.get_run(run_id)
        return RunStatus(
            run_id=run.run_id,
            name=run.display_name or "",
            state=run.state or "PENDING",
            created=_time(run.created_at),
            finished=_time(run.finished_at),
            error=_error_of(run),
            tasks=_tasks((run.run_details and run.run_details.task_details) or []),
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
          poll_seconds: Time between two looks.

        Returns:
          How it ended.

        Raises:
          KubeflowError: If there is no such run, or the server does not answer for several looks
            in a row.
        """
        states: dict[str, str] = {}
        failures = 0
        while True:
            try:
                status = self.status(run_id)
            except KubeflowError as error:
                failures += 1
                if not error.passing or failures >= _PATIENCE:
                    raise
            else:
                failures = 0
                for task in status.tasks:
                    if states.get(task.name) != task.state and on_change:
                        on_change(task)
                    states[task.name] = task.state
                if status.state in FINAL_STATES:
                    return status
            time.sleep(poll_seconds)

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
        with _doing(f"terminate the run {run_id}"):
            self._client.terminate_run(run_id)

    def schedule(
        self,
        name: str,
        cron: str,
        package: Package,
        parameters: Mapping[str, Value],
        *,
        pipeline_name: str | None = None,
        experiment: str = "Default",
        service_account: str | None = None,
    ) -> tuple[Schedule, str]:
        """Sets up the one recurring run of a name: one run at a time, and no catching up.

        The server has no way to change a recurring run, so a schedule with other content is
        replaced. At no moment are two of them enabled, and the old one is not lost:

        1. The new one is created, disabled. If that fails, nothing has changed.
        2. The old one is disabled. If that fails, it is enabled again and the new one deleted.
        3. The new one is enabled. If that fails, the new one is deleted and the old one enabled.
           A time that comes between 2 and 3 is not lost: the new one, which is older than it, runs
           for it as soon as it is enabled.
        4. The old one is deleted. If that fails, the new one runs and the old one does not.

        The cluster stops what a schedule has started when the schedule is deleted. So while a run
        of the old one is in progress, it is not replaced.

        If this is killed in between, or nothing answers any longer, running it again puts things
        in order. Since a new one says in its description which one it takes over from, it can tell
        a schedule that it has disabled itself from one that a person has: that one stays disabled.

        Args:
          name: Name of the schedule. Others of that name are replaced.
          cron: When to run; see `six_fields`.
          package: The compiled pipeline.
          parameters: Values of its parameters; defaults of the package are sent for the others.
          pipeline_name: Name of the pipeline on the server, made if there is none. Default: that
            of the package.
          experiment: Name of the experiment; made if there is none.
          service_account: Kubernetes account that the tasks run as. Default: the server's.

        Returns:
          The schedule, and whether it was created, updated or is unchanged.

        Raises:
          KubeflowError: If the expression is wrong, the parameters do not fit, a run of a schedule
            that is to be replaced is in progress, or the server refuses.
        """
        if not name.strip():
            raise KubeflowError("The name of the schedule is empty.")
        fields = six_fields(cron)
        values = package.complete(parameters)
        pipeline_name = pipeline_name or package.name
        self._connect()
        with self._taken_back_on_failure() as made:
            target = self._prepare(package, pipeline_name, experiment, made)
            wanted = _Wanted(name, fields, values, target, service_account)
            existing = list(self._recurring_runs(name))
            fitting = sorted(filter(wanted.fits, existing), key=_is_enabled, reverse=True)
            old = [one for one in existing if one not in fitting[:1]]
            for one in old:
                self._check_idle(one, "replaced")
            new = fitting[0] if fitting else self._create_recurring_run(wanted, existing)
            runs = not existing or any(map(_is_enabled, existing)) or _interrupted(existing)
            started = runs and not _is_enabled(new)
            if old or started:
                self._hand_over(old, new, created=not fitting, runs=runs)
        for one in old:
            with _doing(f"delete {one.recurring_run_id}, the schedule that '{name}' replaces"):
                self._check_idle(one, "deleted")  # one may have begun before it was disabled
                self._client.delete_recurring_run(one.recurring_run_id)
        changed = CREATED if not existing else UPDATED if old or started else UNCHANGED
        return dataclasses.replace(self._described(new), enabled=runs), changed

    def schedules(self) -> list[Schedule]:
        """All schedules of the namespace, by name."""
        self._connect()
        found = map(self._described, self._recurring_runs())
        return sorted(found, key=lambda schedule: schedule.name)

    def enable_schedule(self, name: str) -> None:
        """Lets a schedule run; if it has missed times, it makes up for the last one at once.

        Raises:
          KubeflowError: If there is none of this name, or several.
        """
        found = self._recurring_runs_of(name)
        if len(found) > 1:
            raise KubeflowError(
                f"There are {len(found)} schedules '{name}': `schedule` puts that in order."
            )
        with _doing(f"enable the schedule '{name}'"):
            self._client.enable_recurring_run(found[0].recurring_run_id)

    def disable_schedule(self, name: str) -> None:
        """Stops a schedule from running; a run that has begun goes on.

        Raises:
          KubeflowError: If there is none of this name.
        """
        for one in self._recurring_runs_of(name):
            with _doing(f"disable the schedule '{name}'"):
                self._client.disable_recurring_run(one.recurring_run_id)

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; its runs stay.

        Raises:
          KubeflowError: If there is none of this name, or a run of it is in progress, which the
            cluster would stop.
        """
        found = self._recurring_runs_of(name)
        for one in found:
            self._check_idle(one, "deleted")
        for one in found:
            with _doing(f"delete the schedule '{name}'"):
                self._client.delete_recurring_run(one.recurring_run_id)

    def _connect(self) -> None:
        """Asks the server, once, whether it is there and whether it wants a namespace."""
        if self._connected:
            return
        with _doing(f"use Kubeflow Pipelines at {self.host}"):
            health = self._client.healthzs.healthz_service_get_healthz()
        if health.multi_user:
            self._namespace = (
                self._asked_namespace or self._client.get_user_namespace() or _pod_namespace()
            )
            if not self._namespace:
                raise KubeflowError(
                    f"Kubeflow Pipelines at {self.host} has several namespaces: say which with "
                    f"--namespace or {NAMESPACE_ENV}."
                )
        self._connected = True

    def _prepare(
        self, package: Package, pipeline_name: str, experiment: str, made: list[_Made]
    ) -> _Target:
        """Looks up what a run needs, and makes what is missing.

        Args:
          package: The compiled pipeline.
          pipeline_name: Name of the pipeline.
          experiment: Name of the experiment.
          made: Gets what was made, in order.
        """
        client, namespace = self._client, self._namespace

        def find_pipeline() -> Any:
            return self._find("pipelines", client.list_pipelines, pipeline_name)

        def create_pipeline() -> Any:
            # kfp.Client's own method uploads a first version that is named after the pipeline.
            body = kfp_server_api.V2beta1Pipeline(display_name=pipeline_name, namespace=namespace)
            return client.pipelines.pipeline_service_create_pipeline(body)

        def find_experiment() -> Any:
            return self._find("experiments", client.list_experiments, experiment)

        found_experiment = find_experiment()
        pipeline = find_pipeline()
        if pipeline is None:
            what = f"pipeline '{pipeline_name}'"
            pipeline = _create(f"create the {what}", create_pipeline, find_pipeline)
            made.append(_Made(what, lambda: client.delete_pipeline(pipeline.pipeline_id)))

        def find_version() -> Any:
            return next(
                _pages(
                    "pipeline_versions",
                    client.list_pipeline_versions,
                    package.version,
                    pipeline_id=pipeline.pipeline_id,
                ),
                None,
            )

        def upload() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                # The server tells the format by the ending of the name.
                file = Path(folder, f"{package.version}.yaml")
                file.write_bytes(package.content)
                return client.upload_pipeline_version(
                    str(file), package.version, pipeline_id=pipeline.pipeline_id
                )

        version = find_version()
        uploaded = version is None
        if version is None:
            what = f"version {package.version} of the pipeline '{pipeline_name}'"
            version = _create(f"upload {what}", upload, find_version)
            made.append(
                _Made(
                    what,
                    lambda: client.delete_pipeline_version(
                        pipeline.pipeline_id, version.pipeline_version_id
                    ),
                )
            )
        if found_experiment is None:
            what = f"experiment '{experiment}'"
            found_experiment = _create(
                f"create the {what}",
                lambda: client.create_experiment(experiment, namespace=namespace),
                find_experiment,
            )
            experiment_id = found_experiment.experiment_id
            made.append(_Made(what, lambda: client.delete_experiment(experiment_id)))
        return _Target(
            pipeline.pipeline_id,
            version.pipeline_version_id,
            found_experiment.experiment_id,
            uploaded,
        )

    def _find(self, items: str, call: Callable[..., Any], name: str) -> Any:
        return next(_pages(items, call, name, namespace=self._namespace), None)

    def _runs(self, name: str, experiment_id: str) -> Iterator[Any]:
        return _pages("runs", self._client.list_runs, name, experiment_id=experiment_id)

    def _recurring_runs(self, name: str | None = None) -> Iterator[Any]:
        return _pages(
            "recurring_runs", self._client.list_recurring_runs, name, namespace=self._namespace
        )

    def _recurring_runs_of(self, name: str) -> list[Any]:
        """Those of a name, of which there is at least one.

        Raises:
          KubeflowError: If there is none; names those that there are.
        """
        self._connect()
        found = list(self._recurring_runs(name))
        if not found:
            names = listed({one.display_name for one in self._recurring_runs()})
            raise KubeflowError(f"There is no schedule '{name}'; there are: {names or 'none'}.")
        return found

    def _check_idle(self, recurring_run: Any, done: str) -> None:
        """Checks that no run of a recurring run is in progress.

        Raises:
          KubeflowError: If there is one; names it.
        """
        newest_first = _pages(
            "runs",
            self._client.list_runs,
            experiment_id=recurring_run.experiment_id,
            sort_by="created_at desc",
        )
        for run in newest_first:
            ours = run.recurring_run_id == recurring_run.recurring_run_id
            if ours and run.state not in FINAL_STATES:
                raise KubeflowError(
                    f"The schedule '{recurring_run.display_name}' cannot be {done} while its run "
                    f"{run.run_id} is in progress, which that would stop: wait until it is over, "
                    "or terminate it."
                )
            # One at a time, so those before it are over.
            if ours or run.created_at < recurring_run.created_at:
                return

    def _create_recurring_run(self, wanted: _Wanted, existing: list[Any]) -> Any:
        """Creates a recurring run; disabled if others have the name."""
        known = {one.recurring_run_id for one in existing}
        replaced = [one for one in existing if _is_enabled(one)] or (
            existing if _interrupted(existing) else []
        )

        def create() -> Any:
            return self._client.create_recurring_run(
                experiment_id=wanted.target.experiment_id,
                job_name=wanted.name,
                description=f"{_TAKES_OVER}{replaced[0].recurring_run_id}" if replaced else None,
                cron_expression=wanted.cron,
                max_concurrency=1,
                no_catchup=True,
                params=wanted.parameters,
                pipeline_id=wanted.target.pipeline_id,
                version_id=wanted.target.version_id,
                enabled=not existing,
                service_account=wanted.service_account,
            )

        def created() -> Any:
            ours = self._recurring_runs(wanted.name)
            return next((one for one in ours if one.recurring_run_id not in known), None)

        return _create(f"create the schedule '{wanted.name}'", create, created)

    def _hand_over(self, old: list[Any], new: Any, *, created: bool, runs: bool) -> None:
        """Disables the old ones and then enables the new one; if that fails, undoes it.

        Args:
          old: Recurring runs to be replaced.
          new: Recurring run that replaces them.
          created: Whether it was created for this.
          runs: Whether it is to run.

        Raises:
          KubeflowError: If something fails; `unsure` if it could not be undone either.
        """
        stopped: list[str] = []
        tried_new = False
        try:
            for one in filter(_is_enabled, old):
                stopped.append(one.recurring_run_id)
                with _doing(f"disable {one.recurring_run_id}, which is to be replaced"):
                    self._client.disable_recurring_run(one.recurring_run_id)
            if runs and not _is_enabled(new):
                tried_new = True
                with _doing(f"enable the schedule '{new.display_name}'"):
                    self._client.enable_recurring_run(new.recurring_run_id)
        except KubeflowError as error:
            try:
                if created:
                    self._client.delete_recurring_run(new.recurring_run_id)
                elif tried_new:
                    self._client.disable_recurring_run(new.recurring_run_id)
                for schedule_id in stopped:
                    self._client.enable_recurring_run(schedule_id)
            except KubeflowError as again:
                raise error.but(
                    f"{error} Nor could that be undone ({again}); run the command again when the "
                    "server answers, which puts the schedule in order.",
                    unsure=True,
                ) from error
            raise error.but(f"{error} The schedule is as it was.", unsure=False) from error

    def _described(self, found: Any) -> Schedule:
        trigger = found.trigger and found.trigger.cron_schedule
        return Schedule(
            schedule_id=found.recurring_run_id,
            name=found.display_name or "",
            cron=(trigger and trigger.cron) or "",
            enabled=_is_enabled(found),
            parameters=(found.runtime_config and found.runtime_config.parameters) or {},
            url=f"{self._ui}/#/recurringrun/details/{found.recurring_run_id}",
        )

    def _run_url(self, run_id: str) -> str:
        return f"{self._ui}/#/runs/details/{run_id}"

    @contextlib.contextmanager
    def _taken_back_on_failure(self) -> Iterator[list[_Made]]:
        """Deletes what was put into the list, last one first, if something fails.

        Not if it is unsure what the server did: a run or schedule may use it.
        """
        made: list[_Made] = []
        try:
            yield made
        except KubeflowError as error:
            if error.unsure or not made:
                raise
            raise error.but(f"{error} {_take_back(made)}") from error


@dataclass(frozen=True)
class _Made:
    """Something that was made on the server, and how to delete it."""

    what: str
    delete: Callable[[], object]


@dataclass(frozen=True)
class _Target:
    """What a run or schedule is made from."""

    pipeline_id: str
    version_id: str
    experiment_id: str
    uploaded: bool


@dataclass(frozen=True)
class _Wanted:
    """A schedule as it is to be."""

    name: str
    cron: str
    parameters: Mapping[str, Value]
    target: _Target
    service_account: str | None

    def fits(self, found: Any) -> bool:
        """Whether a recurring run of the server is this one, enabled or not."""
        trigger = found.trigger and found.trigger.cron_schedule
        version = found.pipeline_version_reference
        return bool(
            trigger
            and (trigger.cron, trigger.start_time, trigger.end_time) == (self.cron, None, None)
            and version
            and version.pipeline_version_id == self.target.version_id
            and found.experiment_id == self.target.experiment_id
            and ((found.runtime_config and found.runtime_config.parameters) or {})
            == self.parameters
            # The server fills in its own account where none is given.
            and self.service_account in (None, found.service_account)
            and found.no_catchup
            and int(found.max_concurrency or 0) == 1  # int64, which JSON has as text
        )


class _Client(kfp.Client):
    """`kfp.Client` whose constructor asks the server nothing.

    The original asks for its health there, five times at 5 s and without a timeout, to write what
    it concludes into the home directory.
    """

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        return kfp_server_api.V2beta1GetHealthzResponse()


def _make_client(host: str | None, token_file: str | None, ca_file: str | None) -> kfp.Client:
    """A client that has asked the server nothing yet.

    Raises:
      KubeflowError: If no address is known, or a file cannot be read.
    """
    for file in filter(None, (token_file, ca_file)):
        try:
            if not Path(file).read_text(encoding="utf-8").strip():
                raise KubeflowError(f"{file} is empty.")
        except (OSError, UnicodeDecodeError) as error:
            raise KubeflowError(f"Cannot read {file}: {error}.") from error
    projected = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH
    token = None if token_file else os.environ.get(TOKEN_ENV, "").strip()
    if not token and not token_file and os.path.isfile(projected):
        token_file = projected
    credentials = ServiceAccountTokenVolumeCredentials(token_file) if token_file else None
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            client = _Client(
                host=host, existing_token=token, ssl_ca_cert=ca_file, credentials=credentials
            )
    except (OSError, ValueError, KeyError) as error:
        raise KubeflowError(f"Cannot set up kfp's client: {error!r}.") from error
    if client.runs.api_client.configuration.host == kfp_server_api.Configuration().host:
        raise KubeflowError(
            f"There is no address of Kubeflow Pipelines: give --host or set {HOST_ENV}, such as "
            f"http://localhost:8080 while this runs: {PORT_FORWARD}"
        )
    return client


def _create(what: str, create: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """Creates something once; where no answer comes, looks whether it was created.

    Args:
      what: What this does, for the message.
      create: Creates it.
      find: Finds what was created, or None.

    Raises:
      KubeflowError: If it was not created; `unsure` if that is not known.
    """
    try:
        with _doing(what), _quiet():
            return create()
    except KubeflowError as error:
        if not error.unsure:
            raise
        try:
            found = find()
        except KubeflowError as again:
            raise error.but(
                f"{error} Whether it was done all the same is not known ({again}); look in the UI "
                "before trying again."
            ) from error
        if found is None:
            raise error.but(str(error), unsure=False) from error
        return found


def _take_back(made: list[_Made]) -> str:
    """Deletes what was made, last one first; returns what to say about it."""
    for number, one in enumerate(reversed(made)):
        try:
            one.delete()
        except KubeflowError as error:
            left = [other.what for other in made[: len(made) - number]]
            return (
                f"What was made for it is still there, and is used by the next try: "
                f"{', '.join(left)} (deleting it failed: {error})"
            )
    return f"What was made for it was deleted again: {', '.join(one.what for one in made)}."


def _pages(
    items: str, call: Callable[..., Any], name: str | None = None, **options: Any
) -> Iterator[Any]:
    """All items of a list, or those of a name."""
    token = ""
    # Quoted, for the server decodes it once more than HTTP has it: + and % would be lost.
    condition = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
    wanted = urllib.parse.quote(json.dumps({"predicates": [condition]})) if name else None
    while True:
        with _doing(f"list {items.replace('_', ' ')}"):
            answer = call(page_token=token, page_size=_PAGE, filter=wanted, **options)
        for item in getattr(answer, items) or []:
            # The server's database may not tell upper from lower case.
            if name is None or item.display_name == name:
                yield item
        token = answer.next_page_token
        if not token:
            return


@contextlib.contextmanager
def _doing(what: str) -> Iterator[None]:
    """Says of an error what failed."""
    try:
        yield
    except KubeflowError as error:
        raise error.but(f"Cannot {what}: {error}") from error


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Keeps the links to itself that kfp prints as it goes."""
    return contextlib.redirect_stdout(io.StringIO())


def _is_enabled(found: Any) -> bool:
    return bool(found.status == "ENABLED")


def _interrupted(existing: Iterable[Any]) -> bool:
    """Whether one of them was to take over from another one, and was not enabled any more."""
    ids = {one.recurring_run_id for one in existing}
    return any(
        (one.description or "").removeprefix(_TAKES_OVER) in ids - {one.recurring_run_id}
        for one in existing
    )


def _tasks(details: Iterable[Any]) -> tuple[TaskStatus, ...]:
    """Tasks of the pipeline among the nodes of the workflow that runs it.

    Every task has a node of its name and one before it, its driver; besides there are executors
    and the workflow's own nodes.
    """
    nodes = {
        node.display_name: node
        for node in sorted(details, key=lambda one: _time(one.start_time) or _NEVER)
        if node.display_name
    }
    drivers = [name for name in nodes if name.endswith("-driver") and name != "root-driver"]
    tasks = []
    for driver in drivers:
        name = driver.removesuffix("-driver")
        node = nodes.get(name) or nodes[driver]
        state = node.state or "PENDING"
        if name not in nodes and state == SUCCEEDED:
            state = "RUNNING"  # its driver is done, and it will be there soon
        tasks.append(TaskStatus(name, state, _error_of(node) or _error_of(nodes[driver])))
    return tuple(tasks)


_NEVER = datetime.datetime.max.replace(tzinfo=datetime.UTC)


def _time(value: datetime.datetime | None) -> datetime.datetime | None:
    """A time of the server, which has the year 1970 for none."""
    return value if value and value.timestamp() > 0 else None


def _error_of(part: Any) -> str:
    """Error of a run or a task, where the server gives one."""
    history = part.state_history or []
    errors = [part.error, *(entry.error for entry in reversed(history))]
    return next((one_line(error.message) for error in errors if error and error.message), "")


def _pod_namespace() -> str | None:
    with contextlib.suppress(OSError):
        return Path(kfp.Client._NAMESPACE_PATH).read_text(encoding="utf-8").strip()
    return None
