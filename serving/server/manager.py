"""Keeps the versions of the Serving directory loaded that clients may ask for.

Each model is looked at by a thread of its own, and each version is loaded by a thread of its own:
neither another model nor a rollback waits for a load. A new version is verified, loaded and warmed
beside the one that is being served, and only then takes over. A version that cannot be loaded is
reported, and the next newest is served.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Container, Mapping, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from serving.server.errors import ServingError, invalid
from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.models import LoadedModel
from storage.directory import ModelDirectory
from storage.versions import MAX_VERSION, find_models

_State = get_model_status_pb2.ModelVersionStatus
_REMEMBERED = 100
# A full disk or storage that went away says nothing of the version: it is tried again.
_PASSING_ERRORS = (OSError, MemoryError)
_RETRY_SECONDS = 60.0
_LONGEST_REASON = 2000
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


@dataclass(eq=False)
class _Load:
    """A version that is being loaded.

    Attributes:
      version: Its number.
      files: Fingerprint of its files before they were read.
      given_up: Set when nobody needs it any more.
    """

    version: int
    files: object
    given_up: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Refusal:
    """Why a version is not tried again: its files are as they were, and it is not yet time."""

    files: object
    retry_at: float


@dataclass
class _Model:
    """What is known of one model; `loaded` and `labels` are replaced, never changed.

    `find` reads without the lock, which whatever changes something holds.
    """

    directory: ModelDirectory
    lock: threading.RLock = field(default_factory=threading.RLock)
    there: list[int] = field(default_factory=list)
    loaded: Mapping[int, Served] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    newest: Served | None = None
    states: dict[int, tuple[int, str]] = field(default_factory=dict)
    loads: dict[int, _Load] = field(default_factory=dict)
    refused: dict[int, _Refusal] = field(default_factory=dict)
    trouble: str = ""
    decided: bool = False
    ignored: list[str] = field(default_factory=list)


class ModelManager:
    """The models of a Serving directory, kept up to date.

    Args:
      serving_dir: The Serving directory.
      names: Names of the models; none named means all that there are, also those that come later.
      load: Verifies, loads and warms a version, and returns it; whatever it raises is why the
        version is refused. The event is set when the version is no longer wanted, and what `load`
        then returns or raises is of no interest.
      metrics: Where versions and refusals are counted.
      on_change: Called with a model's name and whether it can be asked, whenever that may have
        changed.
      trusts: Whether what was verified with the key of an id, or not at all (""), may be served.

    Attributes:
      decided: Done when each model that was there at the start is served or refused.
    """

    def __init__(
        self,
        serving_dir: str,
        names: tuple[str, ...],
        load: Callable[[ModelDirectory, int, threading.Event], LoadedModel],
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
        self._trouble = ""
        self._stopping = threading.Event()
        self.decided: Future[None] = Future()
        self._deciding = threading.Lock()

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
        """Looks at the Serving directory once; versions are loaded in threads of their own."""
        self._add_new()
        for name, model in self._models.items():
            self._look_at(name, model)
        self._check_decided()

    def start(self, seconds: float) -> None:
        """Looks at each model at once and then again and again, in a thread of its own.

        Args:
          seconds: Time between two looks.
        """

        def watch_model(name: str, model: _Model) -> None:
            self._look_at(name, model)
            while not self._stopping.wait(seconds):
                self._look_at(name, model)

        def watch() -> None:
            watched: set[str] = set()
            while True:
                self._add_new()
                for name, model in self._models.items():
                    if name not in watched:
                        watched.add(name)
                        _start_thread(f"watch {name}", watch_model, name, model)
                self._check_decided()
                if self._stopping.wait(seconds):
                    return

        _start_thread("watch", watch)

    def trust_again(self) -> None:
        """Tries again what was refused, and unloads what is no longer trusted."""
        for name, model in self._models.items():
            with model.lock:
                model.refused.clear()
                loaded = {v: s for v, s in model.loaded.items() if self._trusts(s.model.key_id)}
                gone = model.loaded.keys() - loaded.keys()
                if model.newest and model.newest.version in gone:
                    model.newest = None
                model.loaded = loaded
                model.labels = {label: v for label, v in model.labels.items() if v in loaded}
                self._unload(name, model, gone, reason="its key is no longer trusted")
                self._look_at(name, model)

    def stop(self) -> None:
        """Ends the looking and the loading; what is loaded can still be asked."""
        self._stopping.set()
        for model in self._models.values():
            for load in list(model.loads.values()):  # No lock: storage that hangs may keep it.
                load.given_up.set()

    def _add(self, name: str) -> _Model:
        return _Model(ModelDirectory(self._serving_dir, name))

    def _add_new(self) -> None:
        """Finds models that came since; not if they were named."""
        if self._names:
            return
        try:
            found = find_models(self._serving_dir)
        except OSError as error:  # The next look may find the directory again.
            if str(error) != self._trouble:
                log_event("look failed", logging.ERROR, reason=_explain(error))
            self._trouble = str(error)
            return
        self._trouble = ""
        new = {name: self._add(name) for name in found if name not in self._models}
        if new:
            self._models = {**self._models, **new}

    def _look_at(self, name: str, model: _Model) -> None:
        with model.lock:
            try:
                self._update(name, model)
            except Exception as error:  # What is loaded stays, and so does the watch.
                self._report(name, model, logging.ERROR, _explain(error))
            model.decided = model.decided or not model.loads
            self._on_change(name, model.newest is not None)
        self._check_decided()

    def _check_decided(self) -> None:
        with self._deciding:
            if not self.decided.done() and all(m.decided for m in self._models.values()):
                self.decided.set_result(None)

    def _update(self, name: str, model: _Model) -> None:
        """Starts, gives up and forgets what the Serving directory asks for. Waits for no load."""
        there = [v for v in model.directory.versions() if v <= MAX_VERSION]
        if not there and model.directory.withdrawn():
            model.newest = None
        elif not there and model.loaded:
            # Storage that goes away for a while looks like this. What is loaded stays.
            self._report(name, model, logging.WARNING, "no version is left; the last stay loaded")
            self._choose(name, model, model.there, model.labels)
            return
        model.trouble = ""
        ignored = model.directory.ignored()
        if ignored != model.ignored:
            log_event("ignored", logging.WARNING, model=name, folders=ignored[:_NAMED])
            model.ignored = ignored
        labels = {label: v for label, v in self._labels(name, model).items() if v in there}
        for version in set(model.refused) - set(there):
            del model.refused[version]
        good = [v for v in sorted(there, reverse=True) if not self._is_refused(model, v)]
        wanted = {*good[:1], *(v for v in labels.values() if v in good)}
        if model.newest and not any(v in model.loaded for v in good):
            # It was rolled back: the one before is not to wait for a newer one that is loading.
            wanted.update([v for v in good if v < model.newest.version][:1])
        for version in wanted - model.loaded.keys() - model.loads.keys():
            self._begin(name, model, version)
        model.there = there
        self._choose(name, model, there, labels)

    def _choose(
        self, name: str, model: _Model, there: list[int], labels: Mapping[str, int]
    ) -> None:
        """Serves the newest of what is loaded, and forgets what is of no use any more."""
        newest = max((v for v in model.loaded if v in there), default=None)
        served = model.newest if newest is None else model.loaded[newest]
        keep = {*labels.values(), *([served.version] if served else [])}
        loaded = {version: one for version, one in model.loaded.items() if version in keep}
        gone = model.loaded.keys() - loaded.keys()
        before = model.newest
        # Requests that began with a version that goes keep it until they are answered.
        model.newest, model.loaded = served, loaded
        model.labels = {label: v for label, v in labels.items() if v in loaded}
        if served is not None and served is not before:
            log_event("serving", model=name, version=served.version)
        for load in list(model.loads.values()):
            is_newer = newest is None or load.version > newest
            if load.version not in there or not (is_newer or load.version in labels.values()):
                self._give_up(name, model, load)
        self._unload(name, model, gone)
        for version in sorted(model.states)[:-_REMEMBERED]:
            if version not in loaded and version not in model.loads:
                del model.states[version]

    def _unload(self, name: str, model: _Model, gone: Set[int], reason: str = "") -> None:
        for version in sorted(gone):
            model.states[version] = (_State.END, reason)
            self._metrics.versions.remove(name, str(version))
            fields: dict[str, Any] = {"reason": reason} if reason else {}
            log_event("unloaded", model=name, version=version, **fields)
        if gone:
            gc.collect()  # A session's graph refers to itself.

    def _report(self, name: str, model: _Model, level: int, reason: str) -> None:
        """Says what is wrong with a model's folder, once as long as it stays so."""
        if reason != model.trouble:
            log_event("look failed", level, model=name, reason=reason)
        model.trouble = reason

    def _labels(self, name: str, model: _Model) -> Mapping[str, int]:
        try:
            return model.directory.labels()
        except ValueError as error:
            log_event("labels cannot be read", logging.ERROR, model=name, reason=_explain(error))
            return model.labels

    def _is_refused(self, model: _Model, version: int) -> bool:
        refusal = model.refused.get(version)
        return (
            refusal is not None
            and time.monotonic() < refusal.retry_at
            and refusal.files == _fingerprint(model.directory, version)
        )

    def _begin(self, name: str, model: _Model, version: int) -> None:
        """Loads a version, in a thread of its own."""
        load = _Load(version, _fingerprint(model.directory, version))
        model.loads[version] = load
        model.states[version] = (_State.LOADING, "")
        log_event("loading", model=name, version=version)
        _start_thread(f"load {name} {version}", self._run, name, model, load)

    def _give_up(self, name: str, model: _Model, load: _Load) -> None:
        load.given_up.set()
        del model.loads[load.version]
        model.states[load.version] = (_State.END, "")
        log_event("load given up", model=name, version=load.version)

    def _run(self, name: str, model: _Model, load: _Load) -> None:
        served, failure = None, None
        try:
            served = Served(
                name, load.version, self._load(model.directory, load.version, load.given_up)
            )
        except Exception as error:
            failure = error
        with model.lock:
            if load.given_up.is_set():
                return
            if served is not None and not self._trusts(served.model.key_id):
                # Its key was taken away while it was loaded, which the next load will say.
                self._give_up(name, model, load)
                self._look_at(name, model)
                return
            if _fingerprint(model.directory, load.version) != load.files and failure is not None:
                # It went or changed while it was read, which the next look sees.
                self._give_up(name, model, load)
                return
            del model.loads[load.version]
            if served is not None:
                model.loaded = {**model.loaded, load.version: served}
                model.states[load.version] = (_State.AVAILABLE, "")
                model.refused.pop(load.version, None)
                self._metrics.loads.labels(name, "loaded").inc()
                self._metrics.versions.labels(name, str(load.version)).set(1)
            elif failure is not None:
                self._refuse(name, model, load, failure)
            self._look_at(name, model)

    def _refuse(self, name: str, model: _Model, load: _Load, error: Exception) -> None:
        reason = _explain(error)
        retry_in = _RETRY_SECONDS if isinstance(error, _PASSING_ERRORS) else math.inf
        model.refused[load.version] = _Refusal(load.files, time.monotonic() + retry_in)
        model.states[load.version] = (_State.END, reason)
        self._metrics.loads.labels(name, "refused").inc()
        log_event("refused", logging.ERROR, model=name, version=load.version, reason=reason)


def _check_name(name: str) -> None:
    if not name:
        raise invalid("ModelSpec has no name specified.")


def _start_thread(name: str, work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()


def _fingerprint(directory: ModelDirectory, version: int) -> object:
    """What changes when somebody mends a version; nothing if it cannot be read."""
    folder = Path(directory.version_uri(version))
    found = []
    try:
        for path in (folder, *sorted(folder.rglob("*")), Path(directory.signature_uri(version))):
            if path.exists():
                stat = path.stat()
                # The time of the last change also counts changed modes and owners.
                found.append((stat.st_ino, stat.st_ctime_ns, stat.st_size))
    except OSError:
        return None
    return found


def _explain(error: Exception) -> str:
    """The first line of what an error says, as a protocol can carry it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith(":"):  # As TensorFlow begins.
        reason = " ".join(lines[:2])
    # Names of files need not be text.
    return reason.encode(errors="backslashreplace")[:_LONGEST_REASON].decode(errors="ignore")
