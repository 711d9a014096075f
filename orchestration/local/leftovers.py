"""Finds files of old runs that nothing needs.

Kept is what belongs to the newest runs; what versions in the Serving directory were made of, be
they served, pinned by a label or rolled back, with the logs and records of the runs that pushed
them; and the newest complete outputs of each node, which the next run takes from the cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.local import temporary
from orchestration.local.history import list_runs
from orchestration.local.metadata import MetadataGone, open_metadata
from orchestration.local.model_directories import served_models
from orchestration.local.output_directory import AHEAD, OutputDirectory
from orchestration.outcome import Outcome
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.span_store import SpanStore

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

# <run>/<node>/<output key>/<execution>, in the URIs of artifacts and below `artifacts/`.
_PARTS = 4
_PERIOD = re.compile(r"\d{4}-\d{2}-\d{2}\S*_\d{4}-\d{2}-\d{2}\S*_\d+")
_REPORT_FILES = ("report.html", "report.json")  # Of monitoring, and of runs.


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is not needed.

    Attributes:
      path: Where it is.
      size: Bytes of all files in it.
    """

    path: Path
    size: int


def find_leftovers(
    directory: OutputDirectory, keep_runs: int, serving_gone: bool = False
) -> list[Leftover]:
    """What may be deleted, in the order in which that may be stopped at any moment.

    Args:
      directory: The directory, whose lock the caller holds.
      keep_runs: How many of the newest runs to keep, at least 1.
      serving_gone: Whether the Serving directory was deleted on purpose, if it has no version.

    Raises:
      UserError: If the Serving directory does not seem to be mounted, or if ML Metadata, the
        provenance of a version or the state of a backtest cannot be read, so that what is needed is
        not known.
    """
    if keep_runs < 1:
        raise UserError(f"{keep_runs} runs cannot be kept: at least 1 must be")
    if not serving_gone:
        _check_serving_directory(directory)
    made_of = list(_versions_made_of(directory))
    # Of those without a record that can be read, logs or ML Metadata must know.
    recorded = [run.run_id for run in list_runs(directory) if run.outcome != Outcome.UNKNOWN]
    kept: set[str] = {*recorded[:keep_runs], *_first_of_backtest(directory)}
    known, needed = {*recorded, *_logged(directory)}, set(made_of)
    if directory.metadata.exists():
        try:
            with open_metadata(directory) as store:
                contexts = sorted(_contexts(store, "pipeline_run"), key=lambda run: -run.id)
                # Both, because clocks go back.
                run_ids = list(dict.fromkeys(map(_run_id, contexts)))
                kept |= set(run_ids[:keep_runs])
                known |= set(run_ids)
                needed |= _outputs_to_keep(store, [r for r in contexts if _run_id(r) in kept])
        except MetadataGone as gone:
            raise UserError(f"{gone}; nothing is deleted, since it says what is needed") from gone
    old = known - kept
    told = old - {run for run, *_ in made_of} - _runs_that_pushed(directory)
    paths: list[Path] = [
        *temporary.leftovers(directory),
        *_artifacts(directory, old, needed),
        *_logs(directory, told),
        *_pages(directory, told),
        *_reports(directory, keep_runs),
        *_outdated(directory),
        # Last: without it a run may not be known any more.
        *_records(directory, told),
    ]
    return [Leftover(path, _size(path)) for path in paths]


def _check_serving_directory(directory: OutputDirectory) -> None:
    """Refuses a Serving directory without a version if runs pushed into it: is it mounted?"""
    pushed = [run for run in list_runs(directory) if run.outcome == Outcome.PUSHED]
    if pushed and not served_models(directory):
        raise UserError(
            f"{directory.serving} holds no version, but {pushed[0].run_id} pushed one there: mount "
            "it, or say --serving-gone if it was deleted on purpose; nothing is deleted"
        )


def _versions_made_of(directory: OutputDirectory) -> Iterator[tuple[str, ...]]:
    """Run, node, key and execution of each artifact that the provenance of a version names.

    Raises:
      UserError: If a provenance record is damaged.
    """
    serving = str(directory.serving)
    for name in served_models(directory):
        models = ModelDirectory(serving, name)
        for version in (*models.versions(), *models.rolled_back()):
            try:
                artifacts = models.provenance(version).get("artifacts", {}).values()
                made_of = [_parts(artifact["uri"]) for artifact in artifacts]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UserError(
                    f"{models.provenance_uri(version)} does not say what version {version} of "
                    f"{name} was made of: nothing in {directory.root} is deleted"
                ) from error
            yield from made_of


def _parts(uri: str) -> tuple[str, ...]:
    """By which an artifact is recognised, although its output directory may have been moved."""
    return tuple(uri.rstrip("/").split("/")[-_PARTS:])


def _runs_that_pushed(directory: OutputDirectory) -> set[str]:
    serving = str(directory.serving)
    directories = [ModelDirectory(serving, name) for name in served_models(directory)]
    versions = {v for models in directories for v in (*models.versions(), *models.rolled_back())}
    return {
        r.run_id
        for r in list_runs(directory)
        if r.outcome == Outcome.PUSHED and r.version in versions
    }


def _first_of_backtest(directory: OutputDirectory) -> list[str]:
    """The run whose model a backtest compares all later months with."""
    path = directory.backtest
    try:
        months = json.loads(path.read_text(encoding="utf-8"))["months"]
        return [str(month["run_id"]) for month in months if month["outcome"] == Outcome.PUSHED][:1]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: nothing in {directory.root} is deleted") from error


def _logged(directory: OutputDirectory) -> Iterator[str]:
    """Runs that have logs; some were killed before they had anything else."""
    for folder in folders(directory.root / "logs"):
        if any((folder / name).is_file() for name in ("runner.log", "screen.log")):
            yield folder.name


def _run_id(context: Any) -> str:
    """The run of a context, which has two if some of its nodes went ahead."""
    return str(context.name).removesuffix(AHEAD)


def _contexts(store: MetadataStore, kind: str) -> list[Any]:
    return list(store.get_contexts_by_type(kind))


def _outputs_to_keep(store: MetadataStore, runs: Iterable[Any]) -> set[tuple[str, ...]]:
    """The outputs of runs, from the cache too, and of the newest complete execution of each node.

    A run of the same data, configuration and code finds just these in the cache.
    """
    from ml_metadata.proto import metadata_store_pb2

    done = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)

    def complete(context: Any) -> list[int]:
        executions = store.get_executions_by_context(context.id)
        return sorted(e.id for e in executions if e.last_known_state in done)

    executions = {number for run in runs for number in complete(run)}
    for node in _contexts(store, "node"):
        executions |= set(complete(node)[-1:])
    if not executions:
        return set()
    events = store.get_events_by_execution_ids(sorted(executions))
    made = {e.artifact_id for e in events if e.type == metadata_store_pb2.Event.OUTPUT}
    return {_parts(artifact.uri) for artifact in store.get_artifacts_by_id(sorted(made))}


def _artifacts(
    directory: OutputDirectory, old: set[str], needed: set[tuple[str, ...]]
) -> Iterator[Path]:
    """Artifacts of old runs, and what TFX noted with them; TensorBoard's logs are among them."""
    for run in folders(directory.artifacts):
        if run.name not in old:
            continue
        for node in folders(run):
            for key in folders(node):
                if key.name == ".system":
                    yield key
                    continue
                for artifact in _entries(key):
                    parts = artifact.relative_to(directory.artifacts).parts
                    if artifact.name.isdecimal() and parts not in needed:
                        yield artifact


def _logs(directory: OutputDirectory, old: set[str]) -> Iterator[Path]:
    for run in folders(directory.root / "logs"):
        if run.name in old:
            yield from (path for path in _files(run) if path.suffix == ".log")


def _pages(directory: OutputDirectory, old: set[str]) -> Iterator[Path]:
    for run in folders(directory.reports):
        if run.name in old:
            yield from (path for path in _files(run) if path.name in _REPORT_FILES)


def _records(directory: OutputDirectory, old: set[str]) -> Iterator[Path]:
    for path in _files(directory.runs):
        if path.suffix == ".json" and path.stem in old:
            yield path
        # Of a process that was killed while it wrote a record; the holder of the lock writes none.
        if path.name.startswith(".") and path.name.endswith(".json.new"):
            yield path


def _reports(directory: OutputDirectory, keep: int) -> Iterator[Path]:
    """What monitoring said of old periods, if this is its directory."""
    periods = [path for path in folders(directory.root) if _PERIOD.fullmatch(path.name)]
    for period in periods[:-keep]:
        yield from (path for path in _files(period) if path.name in _REPORT_FILES)


def _outdated(directory: OutputDirectory) -> list[Path]:
    if directory.spans.is_symlink():
        return []
    return [Path(path) for path in SpanStore(str(directory.spans)).outdated()]


def _entries(folder: Path) -> list[Path]:
    """Files and folders in a folder, in order, but for links; none if it is a link itself."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.is_symlink())


def folders(folder: Path) -> list[Path]:
    """Folders in a folder, in order, but for links."""
    return [path for path in _entries(folder) if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file()]


def _size(path: Path) -> int:
    files = [path] if not path.is_dir() else [Path(r, n) for r, _, ns in os.walk(path) for n in ns]
    return sum(os.lstat(file).st_size for file in files)
