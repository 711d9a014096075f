"""What was: a record of each run, and the tree from a pushed version back to what it was made of.

Imports neither TFX nor TensorFlow; for a tree alone, the library of ML Metadata.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from rich.text import Text
from rich.tree import Tree
from typing_extensions import TypedDict  # That of Python 3.11 pydantic does not take.

from orchestration.local.output_directory import OutputDirectory, write_whole
from storage.encryption import key_of
from storage.names import PROVENANCE_FILE, SIGNATURE_FILE
from storage.uris import exists, file_sizes
from storage.versions import ModelVersions

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

PUSHED = "pushed"
NOTHING_NEW = "nothing new"
NOT_BLESSED = "not blessed"
STOPPED_BY_GATE = "stopped by the gate"
FAILED = "failed"
INTERRUPTED = "interrupted"
RUNNING = "running"
# Of a run whose record says that it is running while nobody is.
KILLED = "killed"
UNKNOWN = "unknown"

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class RunRecord:
    """What one run did.

    Attributes:
      run_id: Identifies the run; names its record, its logs and its artifacts.
      started: When it began, ISO 8601, UTC.
      ended: When it ended; "" if it did not say.
      seconds: How long it took, whatever the clock was set to meanwhile; None if it did not say.
      outcome: "pushed", "nothing new", "not blessed", "stopped by the gate", "failed",
        "interrupted" or "running".
      version: The version that it pushed, or None.
      reasons: Why it ended as it did, in lines for a person.
      months: Months of the data, by split.
      run_key: Identifies data, configuration and code.
      log: Its most telling log.
      files: Bytes of each file of the version that it pushed, by path in the Serving directory.
      lasting: Whether it would fail again, if nothing but time passes.
    """

    run_id: str
    started: str
    ended: str = ""
    seconds: float | None = None
    outcome: str = RUNNING
    version: int | None = None
    reasons: tuple[str, ...] = ()
    months: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    run_key: str = ""
    log: str = ""
    files: dict[str, int] = dataclasses.field(default_factory=dict)
    lasting: bool = False

    def write(self, directory: OutputDirectory) -> None:
        """Writes the record, over the one that the run has."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        write_whole(_record(directory, self.run_id), text + "\n")


def read_run(directory: OutputDirectory, run_id: str) -> RunRecord | None:
    """The record of a run; None if there is none, or it is not one."""
    try:
        return TypeAdapter(RunRecord).validate_json(_record(directory, run_id).read_bytes())
    except (OSError, ValidationError):
        return None


def list_runs(directory: OutputDirectory) -> list[RunRecord]:
    """All runs that left a record or logs, newest first."""
    names = {path.stem for path in directory.runs.glob("[!.]*.json")}
    names |= {path.parent.name for path in (directory.root / "logs").glob("*/runner.log")}
    in_use = directory.in_use()
    return [_known(directory, name, in_use) for name in sorted(names, reverse=True)]


class _Artifact(TypedDict, total=False):
    uri: str


class _Provenance(TypedDict, total=False):
    """What is read of the provenance of a version, which is signed but may be somebody else's."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    model_name: str
    run_key: str
    spans: dict[str, list[int]]
    rows: dict[str, int]
    metrics: dict[str, Any]
    libraries: dict[str, str]
    artifacts: dict[str, _Artifact]


def read_provenance(models: ModelVersions, version: int) -> dict[str, Any]:
    """The provenance record of a version, empty if it has none.

    Raises:
      ValueError: If it is none that a push writes.
    """
    record = models.provenance(version)
    try:
        TypeAdapter(_Provenance).validate_python(record)
    except ValidationError as error:
        first, *_ = error.errors()
        where = f"{models.provenance_uri(version)}/{PROVENANCE_FILE}"
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} is no provenance: {name}: {first['msg']}") from error
    return record


def pushed_files(models: ModelVersions, version: int) -> dict[str, int]:
    """Bytes of each file of a version, by its path in the Serving directory.

    Of its provenance too, but for the signature, which may be made again by another key; and
    without the id of the key that a file is encrypted with, which may be another one later.
    """
    folders = (models.version_uri(version), models.provenance_uri(version))
    return {
        os.path.relpath(f"{folder}/{name}", models.serving_dir): size - _id_size(f"{folder}/{name}")
        for folder in filter(exists, folders)
        for name, size in file_sizes(folder).items()
        if name != SIGNATURE_FILE
    }


def _id_size(path: str) -> int:
    """Bytes of the id of the key that a file is encrypted with; 0 for a plain one."""
    with open(path, "rb") as file:
        return len(key_of(file.read(128)) or "")


def lost_files(directory: OutputDirectory, models: ModelVersions, version: int) -> list[str]:
    """Files of a version that are gone or shorter than when a run of this directory pushed it."""
    there = pushed_files(models, version)
    return sorted(
        name
        for run in list_runs(directory)
        if run.version == version
        for name, size in run.files.items()
        if name.startswith(f"{models.model_name}/") and there.get(name, -1) < size
    )


def _known(directory: OutputDirectory, run_id: str, in_use: bool) -> RunRecord:
    record = read_run(directory, run_id)
    if record is None:
        return RunRecord(run_id, started="", outcome=UNKNOWN)
    if record.outcome == RUNNING and not in_use:
        return dataclasses.replace(record, outcome=KILLED)
    return record


def _record(directory: OutputDirectory, run_id: str) -> Path:
    return directory.runs / f"{run_id}.json"


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def lineage(
    directory: OutputDirectory, version: int, provenance: Mapping[str, Any], facts: list[str]
) -> Tree:
    """The tree from a version back to its spans, schema, parameters and code.

    Args:
      directory: Where ML Metadata is.
      version: The version.
      provenance: Its provenance record.
      facts: More lines about the version itself, for instance whether its signature is valid.

    Returns:
      The tree. Where ML Metadata is gone, or does not know the version, it says so and holds what
      the provenance record alone knows.
    """
    tree = Tree(Text(f"version {version} of {provenance.get('model_name', 'an unknown model')}"))
    for line in [*facts, *_facts(provenance)]:
        tree.add(Text(line))
    try:
        with open_metadata(directory) as store:
            _Walk(store).grow(tree, version, provenance)
    except MetadataGone as gone:
        branch = tree.add(Text(f"{gone}; the provenance alone knows:"))
        for kind, artifact in sorted(provenance.get("artifacts", {}).items()):
            branch.add(Text(f"{kind}: {artifact.get('uri')}"))
    return tree


class MetadataGone(Exception):
    """ML Metadata cannot be read, or does not know a version."""


def _facts(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What the provenance record says of a version, a line each."""
    if not provenance:
        yield "no provenance: it was not pushed by this project"
        return
    yield f"model digest {provenance.get('model_digest')}"
    yield f"made {provenance.get('created')}, run key {provenance.get('run_key')}"
    if mode := provenance.get("compression"):
        yield f"compression: {mode}"
    metrics = provenance.get("metrics", {})
    yield "metrics: " + _join({name: _show(value) for name, value in metrics.items()}, " ")
    spans, rows = provenance.get("spans", {}), provenance.get("rows", {})
    for split, months in spans.items():
        yield f"{split}: {_named(months)} ({rows.get(split, 0):,} rows)"
    yield "libraries: " + _join(provenance.get("libraries", {}), " ")


@contextmanager
def open_metadata(directory: OutputDirectory, writable: bool = False) -> Iterator[MetadataStore]:
    """ML Metadata, which nobody else is connected to meanwhile.

    Args:
      directory: Where it is.
      writable: Whether it is to be changed.

    Raises:
      MetadataGone: If it cannot be read.
    """
    if not directory.metadata.exists():
        raise MetadataGone(f"there is no ML Metadata ({directory.metadata})")
    # Here, because a schedule that reads records of runs has to start at once.
    from ml_metadata import errors
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2

    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(directory.metadata)
    mode = metadata_store_pb2.SqliteMetadataSourceConfig
    connection.sqlite.connection_mode = mode.READWRITE if writable else mode.READONLY
    lock = os.open(directory.metadata_lock, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # SQLite would fail a run that writes at that moment.
        yield MetadataStore(connection)
    except (errors.StatusError, RuntimeError) as error:  # The latter when it is opened.
        raise MetadataGone(f"ML Metadata ({directory.metadata}) cannot be read: {error}") from error
    finally:
        os.close(lock)


class _Walk:
    """Goes from artifacts to what made them, and on to what that was made from."""

    def __init__(self, store: MetadataStore):
        self._store = store
        self._shown: set[int] = set()

    def grow(self, tree: Tree, version: int, provenance: Mapping[str, Any]) -> None:
        """Adds the nodes that a version comes from, each once, with what each was made from.

        Raises:
          MetadataGone: If nothing is known of the version.
        """
        if pusher := self._find_pusher(version, provenance.get("model_name", "")):
            self._add_execution(tree, pusher, "", {})
            return
        # A run that was killed after it had pushed, or metadata that was lost and begun anew.
        uris = {artifact.get("uri") for artifact in provenance.get("artifacts", {}).values()}
        known = [a for uri in sorted(filter(None, uris)) for a in self._artifacts_at(uri)]
        if not known:
            raise MetadataGone("ML Metadata does not know this version")
        for artifact in known:
            self._add_artifact(tree, artifact, self._kind(artifact))

    def _find_pusher(self, version: int, model_name: str) -> Any:
        """The execution that pushed a version, or None."""
        for artifact in self._store.get_artifacts_by_type("PushedModel"):
            facts = artifact.custom_properties
            place = facts["pushed_destination"].string_value.rstrip("/").split("/")
            if place[-2:] == [model_name, str(version)]:
                return self._producer(artifact)
        return None

    def _artifacts_at(self, uri: str) -> list[Any]:
        return list(self._store.get_artifacts_by_uri(uri))

    def _kind(self, artifact: Any) -> str:
        (kind,) = self._store.get_artifact_types_by_id([artifact.type_id])
        return str(kind.name)

    def _producer(self, artifact: Any) -> Any:
        """The execution that made an artifact; later ones took it from the cache."""
        from ml_metadata.proto import metadata_store_pb2

        events = self._store.get_events_by_artifact_ids([artifact.id])
        made = [e.execution_id for e in events if e.type == metadata_store_pb2.Event.OUTPUT]
        executions = self._store.get_executions_by_id(made)
        return min(executions, key=lambda execution: execution.id, default=None)

    def _inputs(self, execution: Any) -> list[tuple[str, Any]]:
        """Key and artifact of each input; the model first, from which the longest branch grows."""
        from ml_metadata.proto import metadata_store_pb2

        events = self._store.get_events_by_execution_ids([execution.id])
        keys = {
            event.artifact_id: event.path.steps[0].key
            for event in events
            if event.type == metadata_store_pb2.Event.INPUT
        }
        artifacts = [(keys[a.id], a) for a in self._store.get_artifacts_by_id(list(keys))]
        return sorted(artifacts, key=lambda pair: ("model" not in pair[0], pair[0]))

    def _add_artifact(self, branch: Tree, artifact: Any, key: str) -> None:
        producer = self._producer(artifact)
        if producer is None:
            branch.add(Text(f"{key}: {artifact.uri}"))
            return
        spans = artifact.custom_properties["spans"].string_value
        self._add_execution(branch, producer, f"{key} ◄ ", json.loads(spans or "{}"))

    def _add_execution(
        self, branch: Tree, execution: Any, prefix: str, spans: Mapping[str, list[int]]
    ) -> None:
        (kind,) = self._store.get_execution_types_by_id([execution.type_id])
        name = f"{prefix}{kind.name.rpartition('.')[2]} #{execution.id}"
        if execution.id in self._shown:
            branch.add(Text(f"{name}, see above", "dim"))
            return
        self._shown.add(execution.id)
        parameters = _parameters(execution)
        code = parameters.pop("code_version", "unknown")
        node = branch.add(Text(f"{name}, code {code}"))
        if parameters:
            node.add(Text(_join(parameters, "="), "dim"))
        for split, months in spans.items():
            node.add(Text(f"{split}: {_named(months)}"))
        for key, artifact in self._inputs(execution):
            self._add_artifact(node, artifact, key)


def _parameters(execution: Any) -> dict[str, str]:
    """The parameters of a node; those in one JSON object as parameters of their own."""
    parameters: dict[str, str] = {}
    for name, value in sorted(execution.custom_properties.items()):
        content: Any = getattr(value, value.WhichOneof("value"))
        if isinstance(content, str):
            with suppress(ValueError):
                content = json.loads(content)
        if isinstance(content, dict) and not any(isinstance(v, dict) for v in content.values()):
            parameters |= {f"{name}.{key}": _show(v) for key, v in content.items()}
        elif content not in (None, [], ""):
            parameters[name] = _show(content)
    return parameters


def _named(months: Iterable[int]) -> str:
    return ", ".join(f"span-{month}" for month in months)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _join(values: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{name}{between}{value}" for name, value in values.items())
