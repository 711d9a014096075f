"""One model of the Serving directory, its versions loaded that clients may use.

Each version is loaded by a thread of its own: a rollback does not wait for a load. A new version is
verified, loaded and warmed next to the served one, and only then takes over. A version
that cannot be loaded is reported, and the next newest is served.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tensorflow_serving.apis import get_model_status_pb2

from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from serving.server.models import LoadedModel, Served
from serving.server.traffic import Traffic
from storage.names import CHALLENGER, CHAMPION
from storage.traffic import OFF, TrafficPolicy, read_traffic
from storage.versions import MAX_VERSION, ModelVersions

_State = get_model_status_pb2.ModelVersionStatus
_REMEMBERED = 100
# A full disk or storage that went away says nothing of the version: it is tried again.
_PASSING_ERRORS = (OSError, MemoryError)
_RETRY_SECONDS = 60.0
_LONGEST_REASON = 2000
_NAMED = 10

# Verifies, loads and warms a version; the event is set when the version is no longer wanted.
Load: TypeAlias = Callable[[ModelVersions, int, threading.Event], LoadedModel]


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


class WatchedModel:
    """The versions of one model, kept up to date with the Serving directory.

    Args:
      directory: Where they are.
      load: Loads a version; whatever it raises is why the version is refused.
      metrics: Where versions and refusals are counted.
      trusts: Whether what was verified with the key of an id, or not at all (""), may be served.
      on_look: Called after each look.

    Attributes:
      directory: Where the versions are.
      name: Name of the model.
      newest: The version that is served by default, if any.
      loaded: The versions that are served, by number. It and `labels` are replaced, never
        changed: requests read them without the lock that every change holds.
      labels: The version of each label.
      traffic: How champion and challenger share the requests; None where there is no policy.
      states: State of each version and the reason for it, as TensorFlow Serving reports them.
      decided: Whether a version is served or all were refused.
    """

    def __init__(
        self,
        directory: ModelVersions,
        load: Load,
        metrics: ServerMetrics,
        trusts: Callable[[str], bool],
        on_look: Callable[[WatchedModel], None],
    ):
        self.directory = directory
        self.name = directory.model_name
        self.newest: Served | None = None
        self.loaded: Mapping[int, Served] = {}
        self.labels: Mapping[str, int] = {}
        self.traffic: Traffic | None = None
        self.states: dict[int, tuple[int, str]] = {}
        self.decided = False
        self._load = load
        self._metrics = metrics
        self._trusts = trusts
        self._on_look = on_look
        self._lock = threading.RLock()
        self._there: list[int] = []
        self._loads: dict[int, _Load] = {}
        self._refused: dict[int, _Refusal] = {}
        self._ignored: list[str] = []
        self._look_error = ""
        self._policy: TrafficPolicy | None = None
        self._policy_error = ""
        self._wanted_labels: Mapping[str, int] = {}

    def look(self) -> None:
        """Looks at the Serving directory once; versions are loaded in threads of their own."""
        with self._lock:
            try:
                self._update()
            except Exception as error:  # What is loaded stays, and so does the watch.
                self._report(logging.ERROR, explain(error))
            self.decided = self.decided or not self._loads
            self._on_look(self)

    def trust_again(self) -> None:
        """Tries again what was refused, and unloads what is no longer trusted."""
        with self._lock:
            self._refused.clear()
            loaded = {v: s for v, s in self.loaded.items() if self._trusts(s.model.key_id)}
            gone = self.loaded.keys() - loaded.keys()
            if self.newest and self.newest.version in gone:
                self.newest = None
            self.loaded = loaded
            self.labels = {label: v for label, v in self.labels.items() if v in loaded}
            self._share_traffic()
            self._unload(gone, reason="its key is no longer trusted")
            self.look()

    def stop(self) -> None:
        """Ends the loading; what is loaded is still served."""
        for load in list(self._loads.values()):  # No lock: storage that hangs may keep it.
            load.given_up.set()

    def _update(self) -> None:
        """Starts, gives up and forgets what the Serving directory wants. Waits for no load."""
        there = [v for v in self.directory.versions() if v <= MAX_VERSION]
        if not there and self.directory.withdrawn():
            self.newest = None
        elif not there and self.loaded:
            # Storage that goes away for a while looks like this. What is loaded stays.
            self._report(logging.WARNING, "no version is left; the last stay loaded")
            self._choose(self._there, self.labels)
            return
        self._look_error = ""
        ignored = self.directory.ignored()
        if ignored != self._ignored:
            log_event("ignored", logging.WARNING, model=self.name, folders=ignored[:_NAMED])
            self._ignored = ignored
        labels = {label: v for label, v in self._labels().items() if v in there}
        self._wanted_labels = labels
        for version in set(self._refused) - set(there):
            del self._refused[version]
        good = [v for v in sorted(there, reverse=True) if not self._is_refused(v)]
        wanted = {*good[:1], *(v for v in labels.values() if v in good)}
        if self.newest and not any(v in self.loaded for v in good):
            # It was rolled back: the one before is not to wait for a newer one that is loading.
            wanted.update([v for v in good if v < self.newest.version][:1])
        for version in wanted - self.loaded.keys() - self._loads.keys():
            self._begin(version)
        self._there = there
        self._policy = self._read_policy()
        self._choose(there, labels)

    def _choose(self, there: list[int], labels: Mapping[str, int]) -> None:
        """Serves the newest of what is loaded, and forgets what is of no use any more."""
        newest = max((v for v in self.loaded if v in there), default=None)
        served = self.newest if newest is None else self.loaded[newest]
        keep = {*labels.values(), *([served.version] if served else [])}
        loaded = {version: one for version, one in self.loaded.items() if version in keep}
        gone = self.loaded.keys() - loaded.keys()
        before = self.newest
        # Requests that began with a version that goes keep it until they are answered.
        self.newest, self.loaded = served, loaded
        self.labels = {label: v for label, v in labels.items() if v in loaded}
        self._share_traffic()
        if served is not None and served is not before:
            log_event("serving", model=self.name, version=served.version)
        for load in list(self._loads.values()):
            is_newer = newest is None or load.version > newest
            if load.version not in there or not (is_newer or load.version in labels.values()):
                self._give_up(load)
        self._unload(gone)
        for version in sorted(self.states)[:-_REMEMBERED]:
            if version not in loaded and version not in self._loads:
                del self.states[version]

    def _share_traffic(self) -> None:
        """Notes how the requests are shared, of what is loaded."""
        policy, before = self._policy, self.traffic
        champion = self.loaded.get(self.labels.get(CHAMPION, -1))
        if policy is None or champion is None:
            self.traffic = None
            return
        labelled = self.labels.get(CHALLENGER)
        challenger = self.loaded.get(labelled) if labelled is not None else None
        out = policy.taken_out
        if challenger is not None:
            is_out = out is not None and out.version == challenger.version
            if is_out or challenger is champion or policy.mode == OFF:
                challenger = None
        self.traffic = Traffic(policy, champion, challenger)
        if before != self.traffic:
            if labelled is not None:
                gauge = self._metrics.taken_out.labels(self.name, str(labelled))
                gauge.set(out is not None and out.version == labelled)
            log_event(
                "traffic",
                model=self.name,
                policy=policy.describe(),
                number=policy.number,
                champion=champion.version,
                challenger=challenger.version if challenger else None,
                taken_out=out.reason if out else None,
            )

    def refusal_of_challenger(self) -> tuple[TrafficPolicy, int, str] | None:
        """The policy in force, a challenger that does not load, and why; None for none."""
        traffic = self.traffic
        version = self._wanted_labels.get(CHALLENGER)
        if traffic is None or traffic.policy.mode == OFF or traffic.policy.taken_out is not None:
            return None
        refusal = self._refused.get(version) if version is not None else None
        if version is None or refusal is None or refusal.retry_at < math.inf:
            return None
        return traffic.policy, version, f"it does not load: {self.states[version][1]}"

    def _read_policy(self) -> TrafficPolicy | None:
        try:
            policy = read_traffic(self.directory)
        except (ValueError, OSError) as error:
            reason = explain(error)
            if reason != self._policy_error:
                log_event("traffic cannot be read", logging.ERROR, model=self.name, reason=reason)
            self._policy_error = reason
            return self._policy
        self._policy_error = ""
        return policy

    def _unload(self, gone: Set[int], reason: str = "") -> None:
        for version in sorted(gone):
            self.states[version] = (_State.END, reason)
            self._metrics.versions.remove(self.name, str(version))
            fields: dict[str, Any] = {"reason": reason} if reason else {}
            log_event("unloaded", model=self.name, version=version, **fields)
        if gone:
            gc.collect()  # A session's graph refers to itself.

    def _report(self, level: int, reason: str) -> None:
        """Says what is wrong with a model's folder, once as long as it stays so."""
        if reason != self._look_error:
            log_event("look failed", level, model=self.name, reason=reason)
        self._look_error = reason

    def _labels(self) -> Mapping[str, int]:
        try:
            return self.directory.labels()
        except ValueError as error:
            log_event(
                "labels cannot be read", logging.ERROR, model=self.name, reason=explain(error)
            )
            return self.labels

    def _is_refused(self, version: int) -> bool:
        refusal = self._refused.get(version)
        return (
            refusal is not None
            and time.monotonic() < refusal.retry_at
            and refusal.files == _fingerprint(self.directory, version)
        )

    def _begin(self, version: int) -> None:
        """Loads a version, in a thread of its own."""
        load = _Load(version, _fingerprint(self.directory, version))
        self._loads[version] = load
        self.states[version] = (_State.LOADING, "")
        log_event("loading", model=self.name, version=version)
        start_thread(f"load {self.name} {version}", self._run, load)

    def _give_up(self, load: _Load) -> None:
        load.given_up.set()
        del self._loads[load.version]
        self.states[load.version] = (_State.END, "")
        log_event("load given up", model=self.name, version=load.version)

    def _run(self, load: _Load) -> None:
        served, failure = None, None
        try:
            served = Served(
                self.name, load.version, self._load(self.directory, load.version, load.given_up)
            )
        except Exception as error:
            failure = error
        with self._lock:
            if load.given_up.is_set():
                return
            if served is not None and not self._trusts(served.model.key_id):
                # Its key was taken away while it was loaded, which the next load will say.
                self._give_up(load)
                self.look()
                return
            if _fingerprint(self.directory, load.version) != load.files and failure is not None:
                # It went or changed while it was read, which the next look sees.
                self._give_up(load)
                return
            del self._loads[load.version]
            if served is not None:
                self.loaded = {**self.loaded, load.version: served}
                self.states[load.version] = (_State.AVAILABLE, "")
                self._refused.pop(load.version, None)
                self._metrics.loads.labels(self.name, "loaded").inc()
                self._metrics.versions.labels(self.name, str(load.version)).set(1)
            elif failure is not None:
                self._refuse(load, failure)
            self.look()

    def _refuse(self, load: _Load, error: Exception) -> None:
        reason = explain(error)
        retry_in = _RETRY_SECONDS if isinstance(error, _PASSING_ERRORS) else math.inf
        self._refused[load.version] = _Refusal(load.files, time.monotonic() + retry_in)
        self.states[load.version] = (_State.END, reason)
        self._metrics.loads.labels(self.name, "refused").inc()
        log_event("refused", logging.ERROR, model=self.name, version=load.version, reason=reason)


def start_thread(name: str, work: Callable[..., None], *arguments: object) -> None:
    """Starts a thread that ends with the process."""
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()


def _fingerprint(directory: ModelVersions, version: int) -> object:
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


def explain(error: Exception) -> str:
    """The first line of what an error says, as a protocol can carry it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if reason.endswith(":"):  # As TensorFlow begins.
        reason = " ".join(lines[:2])
    # Names of files need not be text.
    return reason.encode(errors="backslashreplace")[:_LONGEST_REASON].decode(errors="ignore")
