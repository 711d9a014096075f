"""Deletes files of old runs that nothing needs.

ML Metadata keeps all its rows, so lineage still works: deleted artifacts are marked as deleted.
Only files with the name and place of a run's output are deleted, and links are not followed.
Cleaning may be stopped at any moment and repeated.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestration.local import temporary
from orchestration.local.leftovers import Leftover, find_leftovers, folders
from orchestration.local.metadata import MetadataGone, open_metadata
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.reports import refresh_index
from storage.errors import UserError


def clean_all(
    directory: OutputDirectory,
    keep_runs: int,
    *,
    dry_run: bool,
    say: Callable[[str], None],
    serving_gone: bool = False,
) -> bool:
    """Cleans an output directory and those inside it, and lists the deleted files.

    Args:
      directory: The output directory.
      keep_runs: How many of the newest runs of each to keep; 0 for all.
      dry_run: Whether to list files without deleting them.
      say: Called with each line.
      serving_gone: Whether the Serving directory was deleted on purpose, if it has no version.

    Returns:
      Whether all could be deleted.

    Raises:
      BusyError: If a run uses one of them.
      UserError: If it is not an output directory, or it is unknown which files are needed.
    """
    directories = find_directories(directory)
    if not keep_runs:
        say("keep_runs is 0: everything is kept.")
        return True
    found: list[Leftover] = []
    errors: list[str] = []
    for each in directories:
        with each.cleaned():
            leftovers = find_leftovers(each, keep_runs, serving_gone)
            for leftover in leftovers:
                say(f"{leftover.size / 1e6:9.3f} MB  {leftover.path}")
            if not dry_run:
                errors += remove(each, leftovers)
        found += leftovers
    for line in errors:
        say(line)
    what = "would be deleted" if dry_run else "deleted"
    if found:
        say(f"{sum(leftover.size for leftover in found) / 1e6:9.3f} MB  in all {what}")
    else:
        say("There is nothing to delete.")
    return not errors


def clean_after_run(directory: OutputDirectory, keep_runs: int) -> None:
    """Cleans the directory of a run that ended; errors are only logged.

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


def find_directories(directory: OutputDirectory) -> list[OutputDirectory]:
    """An output directory, and those inside it: of monitoring, and of backtests.

    Raises:
      UserError: If it is none.
    """
    root = directory.root
    if not directory.is_there():
        raise UserError(f"{root} is not an output directory of local_runner.py")
    found = [directory]
    for folder in (root / "monitoring", root / "backtest", *folders(root / "compare")):
        inner = OutputDirectory(folder)
        if not folder.is_symlink() and inner.is_there():
            found += find_directories(inner)
    return found


def remove(directory: OutputDirectory, leftovers: Sequence[Leftover]) -> list[str]:
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
    if any(directory.reports in leftover.path.parents for leftover in leftovers):
        refresh_index(directory)
    temporary.remove_leftovers(directory)
    with suppress(MetadataGone):  # Without it there is no cache that could take what is gone.
        _mark_deleted(directory)
    return errors


def _mark_deleted(directory: OutputDirectory) -> None:
    """Marks artifacts whose files are gone, by this or another hand."""
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


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _delete_empty(folder: Path, directory: OutputDirectory) -> None:
    """Deletes a folder if it is empty, and those above it that are then."""
    stay = (
        *(directory.artifacts, directory.runs, directory.reports),
        *(directory.root / "logs", directory.spans),
    )
    with suppress(OSError):
        while directory.root in folder.parents and folder not in stay:
            folder.rmdir()
            folder = folder.parent
