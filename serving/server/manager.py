"""Keeps the versions of a Serving directory loaded.

Each model has its own thread, so that none waits for another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container
from concurrent.futures import Future

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.server.errors import ServingError, invalid
from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.models import Served
from serving.server.traffic import Traffic, record_taken_out
from serving.server.watched_model import Load, WatchedModel, explain, start_thread
from storage.versions import ModelVersions, find_models


class ModelManager:
    """The models of a Serving directory, kept up to date.

    Args:
      serving_dir: The Serving directory.
      names: Names of the models; none named means all that there are, also those that come later.
      load: Verifies, loads and warms a version, and returns it; whatever it raises is why the
        version is refused. The event is set when the version is no longer wanted, and what `load`
        then returns or raises is of no interest.
      metrics: Where versions and refusals are counted.
      on_change: Called with a model's name and whether it is served, whenever that may have
        changed.
      trusts: Whether what was verified with the key of an id, or not at all (""), may be served.

    Attributes:
      decided: Done when each model that was there at the start is served or refused.
    """

    def __init__(
        self,
        serving_dir: str,
        names: tuple[str, ...],
        load: Load,
        metrics: ServerMetrics,
        on_change: Callable[[str, bool], None] = lambda name, available: None,
        trusts: Callable[[str], bool] = lambda key_id: True,
    ):
        self._serving_dir = serving_dir
        self._names = names
        self._load = load
        self._metrics = metrics
        self._on_change = on_change
        self._trusts = trusts
        self._models = {name: self._add(name) for name in names}
        self._look_error = ""
        self._stopping = threading.Event()
        self.decided: Future[None] = Future()
        self._deciding = threading.Lock()
        self._not_loading: dict[str, tuple[int, int]] = {}

    def find(
        self,
        name: str,
        version: int | None = None,
        label: str | None = None,
        models: Container[str] | None = None,
    ) -> Served:
        """The version that a request is for.

        Args:
          name: Name of the model.
          version: Number of the version; None for the newest.
          label: Label of the version.
          models: Models that the client may know of; None for all.

        Raises:
          ServingError: If it is not being served.
        """
        _check_name(name)
        model = self._models.get(name)
        if model is not None and label is not None:
            if label not in model.labels:
                raise ServingError(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {label}; model {name} has "
                    f"{', '.join(sorted(model.labels)) or 'none'}",
                )
            version = model.labels[label]
        if model is not None:
            served = model.newest if version is None else model.loaded.get(version)
            if served is not None:
                return served
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        known = ", ".join(
            sorted(
                n for n, m in self._models.items() if m.newest and (models is None or n in models)
            )
        )
        versions = ", ".join(map(str, sorted(model.loaded))) if model else ""
        there = (
            f"of {name} the versions {versions}" if versions else f"the models {known or 'none'}"
        )
        raise ServingError(
            grpc.StatusCode.NOT_FOUND,
            f"Servable not found for request: {wanted}; being served are {there}",
        )

    def traffic(self, name: str) -> Traffic | None:
        """How champion and challenger share the requests of a model; None if they do not."""
        model = self._models.get(name)
        return model.traffic if model is not None else None

    def take_out(self, name: str, number: int, version: int, reason: str) -> None:
        """Takes a challenger out of the traffic until the policy of that number changes."""
        self._metrics.taken_out.labels(name, str(version)).set(1)
        log_event("challenger taken out", logging.ERROR, model=name, version=version, reason=reason)
        record_taken_out(self._models[name].directory, number, version, reason)

    def knows(self, name: str) -> bool:
        """Whether a model of that name is or was in the Serving directory."""
        return name in self._models

    def watched(self) -> list[WatchedModel]:
        """The models that are or were in the Serving directory, by name."""
        return [model for _, model in sorted(self._models.items())]

    def status(
        self, name: str, version: int | None = None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The states of a model's versions, newest first.

        Raises:
          ServingError: If there is no such model or version.
        """
        _check_name(name)
        model = self._models.get(name)
        states = dict(model.states) if model else {}
        if version is not None and version not in states:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Could not find version {version} of model {name}"
            )
        if not states:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in sorted(states if version is None else [version], reverse=True):
            state, reason = states[number]
            one = response.model_version_status.add(version=number, state=state)
            code = grpc.StatusCode.UNKNOWN if reason else grpc.StatusCode.OK
            one.status.error_code = code.value[0]
            one.status.error_message = reason
        return response

    def look(self) -> None:
        """Looks at the Serving directory once; versions are loaded in threads of their own."""
        self._add_new()
        for model in self._models.values():
            model.look()
        self._check_decided()

    def start(self, seconds: float) -> None:
        """Looks at each model at once and then again and again, in a thread of its own.

        Args:
          seconds: Time between two looks.
        """

        def watch_model(model: WatchedModel) -> None:
            model.look()
            while not self._stopping.wait(seconds):
                model.look()

        def watch() -> None:
            watched: set[str] = set()
            while True:
                self._add_new()
                for name, model in self._models.items():
                    if name not in watched:
                        watched.add(name)
                        start_thread(f"watch {name}", watch_model, model)
                self._check_decided()
                if self._stopping.wait(seconds):
                    return

        start_thread("watch", watch)

    def trust_again(self) -> None:
        """Tries again what was refused, and unloads what is no longer trusted."""
        for model in self._models.values():
            model.trust_again()

    def stop(self) -> None:
        """Ends the looking and the loading; what is loaded is still served."""
        self._stopping.set()
        for model in self._models.values():
            model.stop()

    def _add(self, name: str) -> WatchedModel:
        return WatchedModel(
            ModelVersions(self._serving_dir, name),
            self._load,
            self._metrics,
            self._trusts,
            self._looked,
        )

    def _add_new(self) -> None:
        """Finds models that came since; not if they were named."""
        if self._names:
            return
        try:
            found = find_models(self._serving_dir)
        except OSError as error:  # The next look may find the directory again.
            if str(error) != self._look_error:
                log_event("look failed", logging.ERROR, reason=explain(error))
            self._look_error = str(error)
            return
        self._look_error = ""
        new = {name: self._add(name) for name in found if name not in self._models}
        if new:
            self._models = {**self._models, **new}

    def _looked(self, model: WatchedModel) -> None:
        self._on_change(model.name, model.newest is not None)
        if found := model.refusal_of_challenger():
            policy, version, reason = found
            if self._not_loading.get(model.name) != (policy.number, version):
                self._not_loading[model.name] = policy.number, version
                self.take_out(model.name, policy.number, version, reason)
        self._check_decided()

    def _check_decided(self) -> None:
        with self._deciding:
            if not self.decided.done() and all(m.decided for m in self._models.values()):
                self.decided.set_result(None)


def _check_name(name: str) -> None:
    if not name:
        raise invalid("ModelSpec has no name specified.")
