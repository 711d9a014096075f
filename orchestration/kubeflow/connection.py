"""What runs and schedules share: the services of the API, and what happens where one fails.

Where the server refuses something, what was made on the way to it is taken back.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfp_server_api

from orchestration.kubeflow.credentials import (
    HOST_ENV,
    NAMESPACE_ENV,
    find_namespace,
    make_api_client,
)
from orchestration.kubeflow.errors import KubeflowError
from orchestration.kubeflow.transport import Transport

if TYPE_CHECKING:
    from orchestration.kubeflow.package import Package

UI_HOST_ENV = "KF_PIPELINES_UI_ENDPOINT"
FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
# Bytes in UTF-8 that the server takes. A run whose name is longer fails after its workflow has
# started, which then runs on unseen.
LONGEST_NAMES = {"pipeline": 128, "experiment": 128, "run": 255, "schedule": 255}
_EQUALS = 1  # filter.proto
_PAGE = 100


@dataclass(frozen=True)
class Made:
    """Something that was made on the server, and how to delete it."""

    what: str
    delete: Callable[[], object]


@dataclass(frozen=True)
class Target:
    """What a run or schedule is made from."""

    pipeline_id: str
    version_id: str
    experiment_id: str
    uploaded: bool


class Connection:
    """The services of one deployment; see `KubeflowPipelines`."""

    def __init__(
        self,
        host: str | None = None,
        *,
        namespace: str | None = None,
        token_file: str | None = None,
        ca_file: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._api_client = make_api_client(host, token_file, ca_file)
        self.host: str = self._api_client.configuration.host
        # The generated client cannot be given a timeout, nor say what an answer means that is not
        # JSON; all its requests go through `rest_client`.
        rest = self._api_client.rest_client
        rest.pool_manager = Transport(rest.pool_manager, self.host, timeout)
        ui = os.environ.get(UI_HOST_ENV) or host or os.environ.get(HOST_ENV) or self.host
        self._ui = (ui if "://" in ui else f"https://{ui}").rstrip("/")
        self._given_namespace = namespace or os.environ.get(NAMESPACE_ENV)
        self._namespace: str | None = None
        self._connected = False
        self._pipelines = kfp_server_api.PipelineServiceApi(self._api_client)
        self._experiments = kfp_server_api.ExperimentServiceApi(self._api_client)
        self._runs = kfp_server_api.RunServiceApi(self._api_client)
        self._recurring_runs = kfp_server_api.RecurringRunServiceApi(self._api_client)

    def _connect(self) -> None:
        """Asks the server, once, whether it is there and whether it wants a namespace."""
        if self._connected:
            return
        healthz = kfp_server_api.HealthzServiceApi(self._api_client)
        with doing(f"use Kubeflow Pipelines at {self.host}"):
            health = healthz.healthz_service_get_healthz()
        if health.multi_user:
            self._namespace = self._given_namespace or find_namespace(
                self._api_client.configuration
            )
            if not self._namespace:
                raise KubeflowError(
                    f"Kubeflow Pipelines at {self.host} has several namespaces: say which with "
                    f"--namespace or {NAMESPACE_ENV}."
                )
        self._connected = True

    def _prepare(
        self, package: Package, pipeline_name: str, experiment_name: str, made: list[Made]
    ) -> Target:
        """Looks up what a run needs, and makes what is missing.

        Args:
          package: The compiled pipeline.
          pipeline_name: Name of the pipeline.
          experiment_name: Name of the experiment.
          made: Gets what was made, in order.
        """
        experiment = self._find_experiment(experiment_name)
        pipeline_id = self._prepare_pipeline(pipeline_name, made)
        version_id, uploaded = self._prepare_version(package, pipeline_name, pipeline_id, made)
        if experiment is None:
            what = f"experiment '{experiment_name}'"
            body = kfp_server_api.V2beta1Experiment(
                display_name=experiment_name, namespace=self._namespace
            )
            experiment = create(
                f"create the {what}",
                lambda: self._experiments.experiment_service_create_experiment(body),
                lambda: self._find_experiment(experiment_name),
            )
            made_id = experiment.experiment_id
            made.append(
                Made(what, lambda: self._experiments.experiment_service_delete_experiment(made_id))
            )
        return Target(pipeline_id, version_id, experiment.experiment_id, uploaded)

    def _find_experiment(self, name: str) -> Any:
        service = self._experiments.experiment_service_list_experiments
        return next(pages("experiments", service, name, namespace=self._namespace), None)

    def _prepare_pipeline(self, name: str, made: list[Made]) -> str:
        service, what = self._pipelines, f"pipeline '{name}'"

        def find() -> Any:
            call = service.pipeline_service_list_pipelines
            return next(pages("pipelines", call, name, namespace=self._namespace), None)

        found = find()
        if found is None:
            body = kfp_server_api.V2beta1Pipeline(display_name=name, namespace=self._namespace)
            found = create(
                f"create the {what}", lambda: service.pipeline_service_create_pipeline(body), find
            )
            made_id = found.pipeline_id
            made.append(Made(what, lambda: service.pipeline_service_delete_pipeline(made_id)))
        return str(found.pipeline_id)

    def _prepare_version(
        self, package: Package, pipeline_name: str, pipeline_id: str, made: list[Made]
    ) -> tuple[str, bool]:
        """ID of the version with a package's content, and whether it was uploaded."""
        service, name = self._pipelines, package.version

        def find() -> Any:
            call = service.pipeline_service_list_pipeline_versions
            return next(pages("pipeline_versions", call, name, pipeline_id=pipeline_id), None)

        def upload() -> Any:
            with tempfile.TemporaryDirectory() as folder:
                # The server tells the format by the ending of the name.
                file = Path(folder, f"{name}.yaml")
                file.write_bytes(package.content)
                uploads = kfp_server_api.PipelineUploadServiceApi(self._api_client)
                return uploads.upload_pipeline_version(str(file), name=name, pipelineid=pipeline_id)

        found = find()
        if found is not None:
            return found.pipeline_version_id, False
        what = f"version {name} of the pipeline '{pipeline_name}'"
        version_id = create(f"upload {what}", upload, find).pipeline_version_id
        delete = service.pipeline_service_delete_pipeline_version
        made.append(Made(what, lambda: delete(pipeline_id, version_id)))
        return version_id, True


def check_names(**names: str) -> None:
    """Checks names of a pipeline, an experiment, a run or a schedule.

    Raises:
      KubeflowError: If one is empty or too long.

    Examples:
      >>> check_names(pipeline="nightly", experiment="Default")
    """
    for kind, name in names.items():
        if not name.strip():
            raise KubeflowError(f"The name of the {kind} is empty.")
        length = len(name.encode())
        if length > LONGEST_NAMES[kind]:
            raise KubeflowError(
                f"The name of the {kind} has {length} bytes, '{name[:20]}…': at most "
                f"{LONGEST_NAMES[kind]} are allowed."
            )


def create(what: str, call: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """Creates something once; where no answer comes, looks whether it was created.

    Args:
      what: What this does, for the message.
      call: Creates it.
      find: Finds what was created, or None.

    Raises:
      KubeflowError: If it was not created; `unsure` if that is not known.
    """
    try:
        with doing(what):
            return call()
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


def pages(
    items: str, call: Callable[..., Any], name: str | None = None, **options: Any
) -> Iterator[Any]:
    """All items of a list, or those of a name."""
    token = ""
    # Quoted, for the server decodes it once more than HTTP has it: + and % would be lost.
    condition = {"operation": _EQUALS, "key": "display_name", "stringValue": name}
    wanted = urllib.parse.quote(json.dumps({"predicates": [condition]})) if name else None
    while True:
        with doing(f"list {items.replace('_', ' ')}"):
            answer = call(page_token=token, page_size=_PAGE, filter=wanted, **options)
        for item in getattr(answer, items) or []:
            # The server's database may not tell upper from lower case.
            if name is None or item.display_name == name:
                yield item
        token = answer.next_page_token
        if not token:
            return


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Says of an error what failed."""
    try:
        yield
    except KubeflowError as error:
        raise error.but(f"Cannot {what}: {error}") from error


@contextlib.contextmanager
def taken_back_on_failure() -> Iterator[list[Made]]:
    """Deletes what was put into the list, last one first, if something fails.

    Not if it is unsure what the server did: a run or schedule may use it.
    """
    made: list[Made] = []
    try:
        yield made
    except KubeflowError as error:
        if error.unsure or not made:
            raise
        raise error.but(f"{error} {_take_back(made)}") from error


def _take_back(made: list[Made]) -> str:
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
