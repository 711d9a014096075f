"""Keeps the versions of the Serving directory loaded that clients may ask for.

A new version is verified, loaded and warmed beside the one that is being served, and only then
takes over. A version that cannot be loaded is reported, and the next newest is served.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.directory import ModelDirectory, find_models
from serving.server.errors import ServingError, invalid
from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.models import LoadedModel

_State = get_model_status_pb2.ModelVersionStatus
_REMEMBERED = 100
_NAMED = 10


@dataclass(frozen=True)
class Served:
    """A version that can be asked.

    Attributes:
      name: Name of the model.
      version: Number of the version.
      model: The model.
    """

    name: str
    version: int
    model: LoadedModel


@dataclass
class _Model:
    """What is known of one model; `loaded` and `labels` are replaced, never changed."""

    directory: ModelDirectory
    loaded: Mapping[int, Served] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    newest: Served | None = None
    states: dict[int, tuple[int, str]] = field(default_factory=dict)
    refused: dict[int, object] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


class ModelManager:
    """The models of a Serving directory, kept up to date.

    Args:
      serving_dir: The Serving directory.
      names: Names of the models; none named means all that there are, also those that come later.
      load: Verifies, loads and warms the version in a folder, and returns it; whatever it raises
        is why the version is refused.
      metrics: Where versions and refusals are counted.
      on_change: Called with a model's name and whether it can be asked, whenever that may have
        changed.
    """

    def __init__(
        self,
        serving_dir: str,
        names: tuple[str, ...],
        load: Callable[[ModelDirectory, int], LoadedModel],
        metrics: ServerMetrics,
        on_change: Callable[[str, bool], None] = lambda name, available: None,
    ):
        self._serving_dir = serving_dir
        self._names = names
        self._load = load
        self._metrics = metrics
        self._on_change = on_change
        self._models = {name: self._add(name) for name in names}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def find(self, name: str, version: int | None = None, label: str | None = None) -> Served:
        """The version that a request is for.

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
        known = ", ".join(sorted(n for n, m in self._models.items() if m.newest)) or "none"
        versions = ", ".join(map(str, sorted(model.loaded))) if model else ""
        there = f"of {name} the versions {versions}" if versions else f"the models {known}"
        raise ServingError(
            grpc.StatusCode.NOT_FOUND,
            f"Servable not found for request: {wanted}; being served are {there}",
        )

    def knows(self, name: str) -> bool:
        """Whether a model of that name is or was in the Serving directory."""
        return name in self._models

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
        """Looks at the Serving directory once, and loads and forgets versions as it asks for."""
        if not self._names:
            self._add_new()
        for name, model in self._models.items():
            try:
                self._update(name, model)
            except Exception as error:  # It must not keep other models from being looked at.
                log_event("look failed", logging.ERROR, model=name, reason=_explain(error))
            self._on_change(name, model.newest is not None)

    def start(self, seconds: float) -> None:
        """Looks at once and then again and again, in a thread of its own.

        Args:
          seconds: Time between two looks.
        """

        def watch() -> None:
            self.look()
            while not self._stopping.wait(seconds):
                self.look()

        self._thread = threading.Thread(target=watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the looking; what is loaded can still be asked."""
        self._stopping.set()

    def _add(self, name: str) -> _Model:
        return _Model(ModelDirectory(self._serving_dir, name))

    def _add_new(self) -> None:
        try:
            found = find_models(self._serving_dir)
        except OSError as error:  # The next look may find the directory again.
            log_event("look failed", logging.ERROR, reason=str(error))
            return
        new = {name: self._add(name) for name in found if name not in self._models}
        if new:
            self._models = {**self._models, **new}

    def _update(self, name: str, model: _Model) -> None:
        there = model.directory.versions()
        ignored = model.directory.ignored()
        if ignored != model.ignored:
            log_event("ignored", logging.WARNING, model=name, folders=ignored[:_NAMED])
            model.ignored = ignored
        labels = {label: v for label, v in self._labels(name, model).items() if v in there}
        loaded = {}
        newest = None
        for version in sorted(there, reverse=True):
            if newest is None or version in labels.values():
                served = model.loaded.get(version) or self._try(name, model, version)
                if served is not None:
                    loaded[version] = served
                    newest = newest or served
        if newest is None and model.newest is not None and not model.directory.withdrawn():
            # Better the last model that was good than none, unless none is what is wanted.
            newest = model.newest
            loaded[newest.version] = newest
        gone = [version for version in model.loaded if version not in loaded]
        # Requests that began with a version that goes keep it until they are answered.
        before = model.newest
        model.newest, model.loaded = newest, loaded
        model.labels = {label: v for label, v in labels.items() if v in loaded}
        if newest is not None and newest is not before:
            log_event("serving", model=name, version=newest.version)
        for version in loaded:
            self._metrics.versions.labels(name, str(version)).set(1)
        for version in gone:
            model.states[version] = (_State.END, "")
            self._metrics.versions.remove(name, str(version))
            log_event("unloaded", model=name, version=version)
        for version in set(model.refused) - set(there):
            del model.refused[version]
        for version in sorted(model.states)[:-_REMEMBERED]:
            del model.states[version]
        if gone:
            gc.collect()  # A session's graph refers to itself.

    def _labels(self, name: str, model: _Model) -> Mapping[str, int]:
        try:
            return model.directory.labels()
        except ValueError as error:
            log_event("labels cannot be read", logging.ERROR, model=name, reason=str(error))
            return model.labels

    def _try(self, name: str, model: _Model, version: int) -> Served | None:
        """Loads a version, unless it was refused and has not changed since."""
        files = _fingerprint(model.directory, version)
        if model.refused.get(version) == files:
            return None
        model.states[version] = (_State.LOADING, "")
        try:
            served = Served(name, version, self._load(model.directory, version))
        except Exception as error:
            reason = _explain(error)
            model.refused[version] = files
            model.states[version] = (_State.END, reason)
            self._metrics.loads.labels(name, "refused").inc()
            log_event("refused", logging.ERROR, model=name, version=version, reason=reason)
            return None
        model.refused.pop(version, None)
        model.states[version] = (_State.AVAILABLE, "")
        self._metrics.loads.labels(name, "loaded").inc()
        return served


def _check_name(name: str) -> None:
    if not name:
        raise invalid("ModelSpec has no name specified.")


def _fingerprint(directory: ModelDirectory, version: int) -> object:
    """What changes when somebody mends a version."""
    folder = Path(directory.version_uri(version))
    files = (folder, *sorted(folder.rglob("*")), Path(directory.signature_uri(version)))
    return [
        (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        for stat in (path.stat() for path in files if path.exists())
    ]


def _explain(error: Exception) -> str:
    message = str(error).strip().splitlines()
    return message[0] if message else type(error).__name__
