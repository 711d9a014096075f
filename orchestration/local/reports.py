"""Writes the page of each run, and the index over all runs of an output directory.

    <output>/index.html                                     the index
    <output>/models/<model>/reports/<run>/report.html       the page of a run
    <output>/models/<model>/reports/<run>/report.json       what the index shows of it

It imports neither TFX nor TensorFlow.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from orchestration.local.history import RunRecord, list_runs
from orchestration.local.model_directories import list_directories, served_models
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import known_provenance
from orchestration.local.run_artifacts import read_nodes
from storage.atomic_write import write_whole
from storage.directory import ModelDirectory
from storage.errors import UserError
from storage.uris import read_json

if TYPE_CHECKING:
    from report.index import Model

PAGE, FACTS = "report.html", "report.json"


def begin_imports() -> None:
    """Imports what a report needs, in a thread: it takes a second, which a run has while it waits.

    Whoever imports it meanwhile waits for that; an error comes up there.
    """
    threading.Thread(target=importlib.import_module, args=("report.page",)).start()


def report_run(directory: OutputDirectory, record: RunRecord, console: Console) -> None:
    """Writes the page of a run that has ended, and the index; what goes wrong is a warning.

    Args:
      directory: The directory of the run.
      record: Its record.
      console: Where to show the page's path, or the warning.
    """
    try:
        page = write_report(directory, record)
        write_index(directory)
    except (Exception, KeyboardInterrupt) as error:  # The run has its outcome by now.
        logging.warning("The report cannot be made", exc_info=True)
        text = str(error) or type(error).__name__
        console.print(Text(f"warning: no report: {text}", "yellow"), soft_wrap=True)
        return
    console.print(Text(f"Report: {page}"), soft_wrap=True)


def find_run(
    output: Path, run_id: str | None, model: str | None
) -> tuple[OutputDirectory, RunRecord]:
    """Finds the record of a run.

    Args:
      output: The output directory.
      run_id: Id of the run; None for the newest one.
      model: The model, by its folder; None for any.

    Returns:
      The directory of the run, and its record.

    Raises:
      UserError: If there is no such run.
    """
    found = [
        (directory, record)
        for directory in list_directories(output)
        if model in (None, directory.model)
        for record in list_runs(directory)
    ]
    whose = f" of {model}" if model else ""
    if not found:
        raise UserError(f"there are no runs{whose} in {output}")
    found.sort(key=lambda one: one[1].run_id, reverse=True)
    chosen = next((one for one in found if run_id in (None, one[1].run_id)), None)
    if chosen is None:
        newest = ", ".join(record.run_id for _, record in found[:3])
        raise UserError(
            f"there is no run {run_id}{whose} in {output}; the newest of {len(found)} are {newest}"
        )
    return chosen


def page_of(directory: OutputDirectory, run_id: str) -> Path:
    """Path of the page of a run."""
    return directory.reports / run_id / PAGE


def write_report(directory: OutputDirectory, record: RunRecord) -> Path:
    """Writes the page of a run, over the one that it has.

    Args:
      directory: The directory of the run.
      record: Its record.

    Returns:
      The page.

    Raises:
      UserError: If it cannot be written.
    """
    from report.page import make_page
    from report.run import Run

    nodes, note = read_nodes(directory, record)
    path = page_of(directory, record.run_id)
    page = make_page(
        Run(
            run_id=record.run_id,
            model=directory.model,
            outcome=record.outcome,
            meaning=record.outcome.meaning,
            started=record.started,
            seconds=record.duration,
            version=record.version,
            reasons=record.reasons,
            months=record.months,
            run_key=record.run_key,
            log=record.log,
            nodes=nodes,
            settings=record.settings,
            provenance=_provenance(directory, record.version),
            notes=(note,) if note else (),
        ),
        index=os.path.relpath(directory.index, path.parent),
    )
    _write(path, page.html)
    _write(path.with_name(FACTS), json.dumps(page.facts, indent=2, ensure_ascii=False) + "\n")
    return path


def write_index(directory: OutputDirectory) -> Path:
    """Writes the index of the output directory that a model's directory is in.

    Raises:
      UserError: If it cannot be written.
    """
    from report.index import make_index

    output = directory.shared or directory.root
    models = [_model(each, directory.index.parent) for each in list_directories(output)]
    _write(directory.index, make_index(models))
    return directory.index


def refresh_index(directory: OutputDirectory) -> None:
    """Writes the index again where there is one; what goes wrong is only logged."""
    if not directory.index.is_file():
        return
    try:
        write_index(directory)
    except Exception:
        logging.warning("The index cannot be written", exc_info=True)


def _write(path: Path, text: str) -> None:
    try:
        # What is no Unicode, as in names of files, becomes a question mark.
        write_whole(str(path), text.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _provenance(directory: OutputDirectory, version: int | None) -> dict[str, Any]:
    """The provenance of a version of this model; empty if there is none."""
    for name in served_models(directory) if version else ():
        models = ModelDirectory(str(directory.serving), name)
        if version and (found := known_provenance(models, version)):
            return found
    return {}


def _model(directory: OutputDirectory, index: Path) -> Model:
    from report.index import IndexedRun, Model, Version

    runs = []
    for record in list_runs(directory):
        page = page_of(directory, record.run_id)
        try:
            facts = read_json(str(page.with_name(FACTS)))
        except (OSError, ValueError):
            facts = {}
        runs.append(
            IndexedRun(
                run_id=record.run_id,
                outcome=record.outcome,
                started=record.started,
                seconds=record.duration,
                version=record.version,
                reasons=record.reasons,
                months=record.months,
                page=os.path.relpath(page, index) if page.is_file() else "",
                facts=facts,
            )
        )
    versions = []
    for name in served_models(directory):
        models = ModelDirectory(str(directory.serving), name)
        live, aside = models.served(), models.rolled_back()
        for version in sorted({*models.versions(), *aside}, reverse=True):
            state = "rolled back" if version in aside else "live" if version == live else "older"
            provenance = known_provenance(models, version)
            versions.append(Version(name, version, state, provenance))
    return Model(directory.model, tuple(runs), tuple(versions))
