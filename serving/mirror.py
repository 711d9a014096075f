"""Keeps verified and decrypted copies of versions, for servers that verify nothing."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable

from serving.server.logs import log_event
from storage.encryption_keys import Keys
from storage.keys import SignatureError, TrustStore
from storage.names import SIGNATURE_FILE
from storage.private_copy import PREFIX, private_copy
from storage.signing import claimed_key
from storage.uris import exists
from storage.versions import ModelVersions, find_models
from terminal.signals import StopSignal

# A version that was refused is looked at again after so many seconds.
_RETRY_SECONDS = 60.0


class Mirror:
    """A folder that has of each model the newest version that verifies, and those with a label.

    Servers that watch the folder see versions that are whole. What is rolled back in the Serving
    directory goes from the folder too, after the version that takes its place has come; what was
    signed with a key that is no longer trusted goes whether or not there is another. While the
    Serving directory cannot be read, everything else stays.

    Args:
      serving_dir: The Serving directory; others may write to it.
      target: The folder; nobody else may write to it. What is not whole yet is in it too, under
        names that are no model's, and the signatures of its versions as in a Serving directory.
      models: Names of the models; none named means all.
      trust: Keys that may have signed versions.
      load_keys: Gives the keys that versions are decrypted with; called for each version.
      label: Label of the only version of a model that the folder is to have; "" for all that it has
        without.

    Attributes:
      missing: What the last look could not bring up to date, and why: `taxi 12: the reason`.
    """

    def __init__(
        self,
        serving_dir: str,
        target: str,
        models: tuple[str, ...],
        trust: TrustStore,
        load_keys: Callable[[], Keys | None],
        label: str = "",
    ):
        self._serving_dir = serving_dir
        self._target = target
        self._models = models
        self._trust = trust
        self._load_keys = load_keys
        self._label = label
        self._refused: dict[tuple[str, int], tuple[float, str]] = {}
        self._reported: dict[str, str] = {}
        self.missing: list[str] = []

    def look(self) -> bool:
        """Looks at the Serving directory once, and brings the folder up to date.

        Returns:
          Whether all went well, and there is a version. If not, `missing` says what is not there;
          the rest is.
        """
        self.missing = []
        try:
            return self._look()
        finally:  # Also if the Serving directory cannot be read.
            self._remove_untrusted()

    def _look(self) -> bool:
        try:
            there = find_models(self._serving_dir)
            names = self._models or tuple(sorted({*there, *find_models(self._target)}))
            if not names:
                raise FileNotFoundError(f"there is no model in {self._serving_dir}")
        except Exception as error:
            return self._report("", "look failed", error)
        self._reported.pop("", None)
        outcomes = []
        for name in names:
            try:
                outcomes.append(self._update(name))
                self._reported.pop(name, None)
            except Exception as error:  # It must not keep other models from being looked at.
                outcomes.append(self._report(name, "look failed", error))
        return all(outcomes)

    def follow(self, seconds: float) -> None:
        """Looks again and again, until SIGTERM or SIGINT; SIGHUP has public keys read again.

        Args:
          seconds: Time between two looks.
        """
        stop, reloads = StopSignal(), list[int]()
        signal.signal(signal.SIGHUP, lambda number, _: reloads.append(number))
        self.look()
        while not stop.wait(seconds):
            if reloads:
                reloads.clear()
                self._reload()
            self.look()

    def _reload(self) -> None:
        self._refused.clear()
        try:
            self._trust.reload()
        except SignatureError as error:
            reason = f"{error}; what was read before still holds"
            log_event("not reloaded", logging.ERROR, part="public keys", reason=reason)
        else:
            log_event("reloaded", part="public keys")

    def _update(self, name: str) -> bool:
        source, target = (ModelVersions(root, name) for root in (self._serving_dir, self._target))
        there = source.versions()
        if not there and not source.withdrawn():
            raise FileNotFoundError(f"there is no version of {name!r} in {self._serving_dir}")
        have, wanted, good = set(target.versions()), set[int](), True
        trusted = {version for version in have if self._is_trusted(target, version)}
        try:
            labels = source.labels()
            labelled = set(labels.values())
        except ValueError as error:  # Those that have one stay until it is known again.
            good = self._report(f"{name} labels", "labels cannot be read", error, model=name)
            labels, labelled = dict.fromkeys([self._label], max(have, default=-1)), have
        for version in sorted(there, reverse=True):
            if self._label:
                is_wanted = version == labels.get(self._label)
            else:
                is_wanted = not wanted or version in labelled
            if is_wanted:
                if version in trusted or self._copy(source, target, version):
                    wanted.add(version)
                else:
                    good = False
        if wanted or source.withdrawn():  # Better the last version that was good than none.
            for version in have - wanted:
                self._remove(target, version)
                log_event("removed", model=name, version=version)
        if self._label and not wanted and good:
            missing = LookupError(f"no version of {name!r} that is there has this label")
            good = self._report(f"{name} {self._label}", "look failed", missing, model=name)
        if not there:
            self.missing.append(f"{name}: its last version was withdrawn")
        return good and bool(wanted)

    def _remove_untrusted(self) -> None:
        for name in find_models(self._target):
            target = ModelVersions(self._target, name)
            for version in target.versions():
                if not self._is_trusted(target, version):
                    self._remove(target, version)
                    log_event("removed", logging.WARNING, model=name, version=version)

    def _is_trusted(self, target: ModelVersions, version: int) -> bool:
        """Whether a version in the folder was verified with a key that still is trusted."""
        return self._trust.find(claimed_key(target.signature_uri(version))) is not None

    def _remove(self, target: ModelVersions, version: int) -> None:
        away = tempfile.mkdtemp(prefix=PREFIX, dir=self._target)
        os.rename(target.version_uri(version), os.path.join(away, str(version)))
        shutil.rmtree(away)
        shutil.rmtree(target.provenance_uri(version), ignore_errors=True)

    def _copy(self, source: ModelVersions, target: ModelVersions, version: int) -> bool:
        name = source.model_name
        retry_at, reason = self._refused.get((name, version), (0.0, ""))
        if time.monotonic() < retry_at:
            self.missing.append(f"{name} {version}: {reason}")
            return False
        try:
            with private_copy(
                source, version, self._trust, parent=self._target, keys=self._load_keys()
            ) as copy:
                if exists(target.version_uri(version)):  # It has been signed again since.
                    self._remove(target, version)
                os.makedirs(target.provenance_uri(version), exist_ok=True)
                signature = os.path.join(copy.directory.serving_dir, SIGNATURE_FILE)
                os.replace(signature, target.signature_uri(version))
                os.rename(copy.directory.version_uri(version), target.version_uri(version))
        except Exception as error:  # A forged version can fail in any way.
            retry_at = time.monotonic() + _RETRY_SECONDS
            self._refused[name, version] = (retry_at, _reason(error))
            return self._report(f"{name} {version}", "refused", error, model=name, version=version)
        self._refused.pop((name, version), None)
        log_event("copied", model=name, version=version, encrypted=copy.encrypted)
        return True

    def _report(self, what: str, event: str, error: Exception, **fields: object) -> bool:
        """Logs what went wrong, once; False."""
        reason = _reason(error)
        self.missing.append(f"{what}: {reason}".removeprefix(": "))
        if self._reported.get(what) != reason:
            self._reported[what] = reason
            log_event(event, logging.ERROR, **fields, reason=reason)
        return False


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
