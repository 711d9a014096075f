"""Deletes what old runs left and nothing needs any more.

Kept is what belongs to the newest runs; what versions in the Serving directory were made of, be
they served, pinned by a label or rolled back, with the logs and records of the runs that pushed
them; and the newest complete outputs of each node, which the next run takes from the cache. ML
Metadata keeps all its rows, so lineage goes on answering: what was deleted is marked as deleted.

Only what has the name and the place of something that a run makes is ever deleted, and no link is
followed. All of it may be stopped at any moment and done again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.backtest.replay import STATE_FILE
from orchestration.local import temporary
from orchestration.local.history import PUSHED, UNKNOWN, MetadataGone, list_runs, open_metadata
from orchestration.local.output_directory import OutputDirectory
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.span_store import SpanStore
from storage.versions import find_models

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

# <run>/<node>/<output key>/<execution>, in the URIs of artifacts and below `artifacts/`.
_PARTS = 4
_PERIOD = re.compile(r"\d{4}-\d{2}-\d{2}\S*_\d{4}-\d{2}-\d{2}\S*_\d+")
_REPORT_FILES = ("report.html", "report.json")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is not needed.

    Attributes:
      path: Where it is.
      size: Bytes of all files in it.
    """

    path: Path
    size: int


def clean_all(
    root: Path,
    keep_runs: int,
    *,
    dry_run: bool,
    say: Callable[[str], None],
    serving_gone: bool = False,
) -> int:
    """Cleans an output directory and those inside it, and says what it deletes.

    Args:
      root: The output directory.
      keep_runs: How many of the newest runs of each to keep; 0 for all.
      dry_run: Whether only to say what would be deleted.
      say: Called with a line each.
      serving_gone: Whether the Serving directory was deleted on purpose, if it has no version.

    Returns:
      0, or 1 if something could not be deleted.

    Raises:
      BusyError: If a run uses one of them.
      UserError: If `root` is none, or nobody knows what is needed.
    """
    directories = find_directories(root)
    if not keep_runs:
        say("keep_runs is 0: everything is kept.")
        return 0
    found: list[Leftover] = []
    errors: list[str] = []
    for directory in directories:
        with directory.cleaned():
            leftovers = find_leftovers(directory, keep_runs, serving_gone)
            for leftover in leftovers:
                say(f"{leftover.size / 1e6:9.3f} MB  {leftover.path}")
            if not dry_run:
                errors += remove(directory, leftovers)
        found += leftovers
    for line in errors:
        say(line)
    what = "would be deleted" if dry_run else "deleted"
    if found:
        say(f"{sum(leftover.size for leftover in found) / 1e6:9.3f} MB  in all {what}")
    else:
        say("There is nothing to delete.")
    return 1 if errors else 0


def clean_after_run(directory: OutputDirectory, keep_runs: int) -> None:
    """Cleans the directory of a run that ended; what goes wrong is logged, and changes nothing.

    Args:
      directory: The directory, whose lock the caller holds.
      keep_runs: How many of the newest runs to keep; 0 for all.
    """
    if not keep_runs:
        return
    try:
        errors = remove(directory, find_leftovers(directory, keep_runs))
    except Exception as error:  # What was done is done.
        errors = [str(error)]
    for line in errors:
        logging.warning("The output directory is not clean: %s", line)


def find_directories(root: Path) -> list[OutputDirectory]:
    """The output directory at `root`, and those inside it: of monitoring, and of backtests.

    Raises:
      UserError: If there is none.
    """
    if not OutputDirectory(root).is_there():
        raise UserError(f"{root} is no output directory of local_runner.py")
    found = [root]
    for folder in (root / "monitoring", root / "replay", *_folders(root / "compare")):
        if not folder.is_symlink() and OutputDirectory(folder).is_there():
            found += (directory.root for directory in find_directories(folder))
    return [OutputDirectory(folder) for folder in found]


def find_leftovers(
    directory: OutputDirectory, keep_runs: int, serving_gone: bool = False
) -> list[Leftover]:
    """What may be deleted, in the order in which that may be stopped at any moment.

    Args:
      directory: The directory, whose lock the caller holds.
      keep_runs: How many of the newest runs to keep, at least 1.
      serving_gone: See `clean_all`.

    Raises:
      UserError: If the Serving directory does not seem to be mounted, or if ML Metadata, the
        provenance of a version or the state of a backtest cannot be read, so that nobody knows what
        is needed.
    """
    if keep_runs < 1:
        raise UserError(f"{keep_runs} runs cannot be kept: at least 1 must be")
    if not serving_gone:
        _check_serving_directory(directory)
    made_of = list(_versions_made_of(directory))
    # Of those without a record that can be read, logs or ML Metadata must know.
    recorded = [run.run_id for run in list_runs(directory) if run.outcome != UNKNOWN]
    kept: set[str] = {*recorded[:keep_runs], *_first_of_backtest(directory)}
    known, needed = {*recorded, *_logged(directory)}, set(made_of)
    if directory.metadata.exists():
        try:
            with open_metadata(directory) as store:
                contexts = sorted(_contexts(store, "pipeline_run"), key=lambda run: -run.id)
                # Both, because clocks go back.
                kept |= {run.name for run in contexts[:keep_runs]}
                known |= {run.name for run in contexts}
                needed |= _outputs_to_keep(store, [r for r in contexts if r.name in kept])
        except MetadataGone as gone:
            raise UserError(f"{gone}; nothing is deleted, since it says what is needed") from gone
    old = known - kept
    told = old - {run for run, *_ in made_of} - _runs_that_pushed(directory)
    paths: list[Path] = [
        *temporary.leftovers(directory),
        *_artifacts(directory, old, needed),
        *_logs(directory, told),
        *_reports(directory, keep_runs),
        *_outdated(directory),
        # Last: without it a run may not be known any more.
        *_records(directory, told),
    ]
    return [Leftover(path, _size(path)) for path in paths]


def remove(directory: OutputDirectory, leftovers: Iterable[Leftover]) -> list[str]:
    """Deletes leftovers and the folders that are empty then, and marks artifacts as deleted.

    Args:
      directory: The directory, whose lock the caller holds.
      leftovers: What `find_leftovers` found in it.

    Returns:
      What could not be deleted and why, a line each.
    """
    errors = []
    for leftover in leftovers:
        try:
            _delete(leftover.path)
        except OSError as error:
            errors.append(f"{leftover.path} cannot be deleted: {error.strerror}")
        _delete_empty(leftover.path.parent, directory)
    temporary.remove_leftovers(directory)
    with suppress(MetadataGone):  # Without it there is no cache that could take what is gone.
        _mark_deleted(directory)
    return errors


def _check_serving_directory(directory: OutputDirectory) -> None:
    """Refuses a Serving directory without a version if runs pushed into it: is it mounted?"""
    pushed = [run for run in list_runs(directory) if run.outcome == PUSHED]
    if pushed and not find_models(str(directory.serving)):
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
    for name in find_models(serving):
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
    directories = [ModelDirectory(serving, name) for name in find_models(serving)]
    versions = {v for models in directories for v in (*models.versions(), *models.rolled_back())}
    return {r.run_id for r in list_runs(directory) if r.outcome == PUSHED and r.version in versions}


def _first_of_backtest(directory: OutputDirectory) -> list[str]:
    """The run whose model a backtest compares all later months with."""
    path = directory.root / STATE_FILE
    try:
        months = json.loads(path.read_text(encoding="utf-8"))["months"]
        return [str(month["run_id"]) for month in months if month["outcome"] == PUSHED][:1]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: nothing in {directory.root} is deleted") from error


def _logged(directory: OutputDirectory) -> Iterator[str]:
    """Runs that have logs; some were killed before they had anything else."""
    for folder in _folders(directory.root / "logs"):
        if any((folder / name).is_file() for name in ("runner.log", "screen.log")):
            yield folder.name


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


def _mark_deleted(directory: OutputDirectory) -> None:
    """Marks artifacts whose files are gone, whoever deleted them."""
    from ml_metadata.proto import metadata_store_pb2

    if not directory.metadata.exists():
        return
    with open_metadata(directory, writable=True) as store:
        gone = [
            artifact
            for artifact in store.get_artifacts()
            if artifact.state == metadata_store_pb2.Artifact.LIVE
            and artifact.uri.startswith(f"{directory.artifacts}/")
            and not os.path.lexists(artifact.uri)
        ]
        for artifact in gone:
            artifact.state = metadata_store_pb2.Artifact.DELETED
        if gone:
            store.put_artifacts(gone)


def _artifacts(
    directory: OutputDirectory, old: set[str], needed: set[tuple[str, ...]]
) -> Iterator[Path]:
    """Artifacts of old runs, and what TFX noted beside them; TensorBoard's logs are among them."""
    for run in _folders(directory.artifacts):
        if run.name not in old:
            continue
        for node in _folders(run):
            for key in _folders(node):
                if key.name == ".system":
                    yield key
                    continue
                for artifact in _entries(key):
                    parts = artifact.relative_to(directory.artifacts).parts
                    if artifact.name.isdecimal() and parts not in needed:
                        yield artifact


def _logs(directory: OutputDirectory, old: set[str]) -> Iterator[Path]:
    for run in _folders(directory.root / "logs"):
        if run.name in old:
            yield from (path for path in _files(run) if path.suffix == ".log")


def _records(directory: OutputDirectory, old: set[str]) -> Iterator[Path]:
    for path in _files(directory.runs):
        if path.suffix == ".json" and path.stem in old:
            yield path
        # Of a process that was killed while it wrote a record; whoever has the lock writes none.
        if path.name.startswith(".") and path.name.endswith(".json.new"):
            yield path


def _reports(directory: OutputDirectory, keep: int) -> Iterator[Path]:
    """What monitoring said of old periods, if this is its directory."""
    periods = [path for path in _folders(directory.root) if _PERIOD.fullmatch(path.name)]
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


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file()]


def _size(path: Path) -> int:
    files = [path] if not path.is_dir() else [Path(r, n) for r, _, ns in os.walk(path) for n in ns]
    return sum(os.lstat(file).st_size for file in files)


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _delete_empty(folder: Path, directory: OutputDirectory) -> None:
    """Deletes a folder if it is empty, and those above it that are then."""
    stay = (directory.artifacts, directory.runs, directory.root / "logs", directory.spans)
    with suppress(OSError):
        while directory.root in folder.parents and folder not in stay:
            folder.rmdir()
            folder = folder.parent
