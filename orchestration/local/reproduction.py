"""Builds a pushed version again from its provenance, and compares both, file by file."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml.stack import installed_versions
from orchestration.local.display import show_error
from orchestration.local.nodes import begin, run_nodes, show_failures, show_imports
from orchestration.local.origin import (
    Origin,
    differences,
    entry_points,
    read_configuration,
    read_origin,
    schema_lines,
)
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.provenance import read_provenance
from orchestration.local.situation import code_version_of
from orchestration.local.version_lookup import UNSIGNED, VALID, find_version, verified_copy
from orchestration.outcome import Outcome
from pipeline.config import Config
from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError
from storage.errors import DataError, UserError
from storage.keys import SignatureError, default_trust
from storage.names import PROVENANCE_FILE, WARMUP_FILE
from storage.private_copy import PrivateCopy
from storage.span_digests import digest_spans
from storage.span_store import STORE_VARIABLE
from storage.spans import resolve_window
from terminal.tables import print_table

# What makes the files of a version; the other nodes only decide whether it is pushed.
_NODES = (
    "ImportSchemaGen",
    "SpanExampleGen",
    "StatisticsGen",
    "ServedModel",
    "DataGate",
    "Transform",
    "Tuner",
    "Trainer",
    "Pruner",
    "Quantizer",
)
# Where they are below the folder of a run's artifacts; the number of an execution comes between.
_MODEL = ("Quantizer/quantized_model", "Format-Serving")
# Not the training statistics: of a column of many values, TFDV's sketch keeps those of one
# frequency that a hash in C++ happens to order first.
_RECORDS = {"schema.pbtxt": ("ImportSchemaGen/schema", "schema.pbtxt")}
_ABSENT = "-"


@dataclass(frozen=True)
class Request:
    """What is to be built again.

    Attributes:
      output: The output directory of the run that pushed it.
      version: The version.
      model: The model, by its folder or its name in the Serving directory; None if there is but
        one.
      data: Where its data are now; "" for where they were.
      public_keys: Keys, or folders of keys, to verify it with; none for those of the output
        directory.
    """

    output: Path
    version: int
    model: str | None = None
    data: str = ""
    public_keys: tuple[str, ...] = ()


def reproduce(request: Request, console: Console) -> Outcome:
    """Builds a version again in a temporary folder, and shows which of its files are the same.

    The version is what its signature says. Nothing is taken from the cache, and nothing is written
    to the output directory.

    Args:
      request: What is to be built again.
      console: Where to show it.

    Returns:
      `SAME`, `DIFFERENT`, or `FAILED` if a node failed.

    Raises:
      UserError: If there is no such version, its signature is not valid, or its data, code,
        configuration or libraries are not what it was made from; the message has a line for each.
    """
    _, models, version = find_version(request.output, request.version, request.model)
    try:
        signature, copy = verified_copy(models, version, request.public_keys)
    except (SignatureError, EncryptionError, OSError, ValueError) as error:
        raise UserError(str(error)) from error
    with copy:
        _check_signature(models, version, signature, request)
        name = f"version {version} of {models.model_name}"
        try:
            provenance = read_provenance(copy.directory, version)
        except ValueError as error:
            raise UserError(str(error)) from error
        where = f"{models.provenance_uri(version)}/{PROVENANCE_FILE}"
        if not provenance.get("origin") or not provenance.get("data"):
            raise UserError(
                f"{name} has no record of what it was made from ({where}): Kubeflow, an earlier "
                "release or another program pushed it. Only what `local_runner.py` pushed can be "
                "built again"
            )
        origin = read_origin(provenance["origin"], where)
        config = _check(models, name, request, origin, provenance, where)
        keys = _keys(models, request)
        folder = Path(tempfile.mkdtemp(prefix="reproduce-"))
        try:
            outcome = _build_and_compare(name, models, copy, config, origin, keys, folder, console)
        except (UserError, KeyboardInterrupt):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as error:
            # Output is in the log by now, so a traceback would not be seen.
            traceback.print_exc()
            show_error(console, f"{name} cannot be built again: {type(error).__name__}: {error}")
            outcome = Outcome.FAILED
    if outcome is Outcome.SAME:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(Text(f"What was built, and its logs, are in {folder}"), soft_wrap=True)
    return outcome


def _check_signature(
    models: ModelDirectory, version: int, signature: str, request: Request
) -> None:
    """Refuses a version whose signature is not valid, or is missing where there are keys."""
    keys = _keys(models, request)
    if signature == UNSIGNED and keys:
        raise UserError(
            f"version {version} of {models.model_name} is not signed, but there are keys to verify "
            f"it with ({', '.join(keys)}): its provenance may be anybody's"
        )
    if signature not in (VALID, UNSIGNED):
        raise UserError(f"version {version} of {models.model_name}: {signature}")


def _keys(models: ModelDirectory, request: Request) -> list[str]:
    """Keys, or folders of keys, to verify versions with; none where there are none."""
    own = default_trust(models.serving_dir)
    return list(request.public_keys) or ([own] if any(Path(own).glob("*.pub")) else [])


def _check(
    models: ModelDirectory,
    name: str,
    request: Request,
    origin: Origin,
    provenance: Mapping[str, Any],
    where: str,
) -> Config:
    """The configuration to build with.

    Raises:
      UserError: If something is not what the version was made from.
    """
    lines = [
        f"libraries: {line}"
        for line in differences(provenance.get("libraries", {}), installed_versions())
    ]
    try:
        config = read_configuration(origin, where)
        code = code_version_of(config).modules(entry_points(config))
        lines += [f"code: {line}" for line in differences(origin["code"], code)]
        lines += [f"schema: {line}" for line in schema_lines(origin, config)]
    except UserError as error:
        raise _refused(name, [*lines, str(error)]) from error
    if request.data:
        data = dataclasses.replace(config.data, uri=request.data)
        config = dataclasses.replace(config, data=data)
    lines += [f"data: {line}" for line in _data_lines(config, provenance["data"])]
    if config.training.warm_start and (base := origin["base_version"]):
        lines += [
            f"data: it was trained from the weights of version {base} (training.warm_start "
            f"{config.training.warm_start:g}), {line}"
            for line in _base_lines(models, base, request)
        ]
    if lines:
        raise _refused(name, lines)
    return config


def _base_lines(models: ModelDirectory, base: int, request: Request) -> Iterator[str]:
    """Why a training cannot start from a version."""
    if base not in models.versions():
        yield f"which is not in {models.serving_dir}"
        return
    try:
        signature, copy = verified_copy(models, base, request.public_keys)
        copy.close()
        _check_signature(models, base, signature, request)
    except (UserError, SignatureError, EncryptionError, OSError, ValueError) as error:
        yield str(error)


def _refused(name: str, lines: list[str]) -> UserError:
    return UserError("\n  ".join([f"{name} cannot be built again from what is here:", *lines]))


def _data_lines(config: Config, expected: dict[str, str]) -> list[str]:
    """How the data differ from those that a version was made from."""
    source = config.data.source
    try:
        window = resolve_window(source, config.data.as_of, config.data.window)
        found = digest_spans(source, window.spans)
    except DataError as error:
        return [str(error)]
    named = {
        number: f"{source.name(int(number))} in {source.uri}" for number in {*expected, *found}
    }
    return differences(
        {named[number]: digest for number, digest in expected.items()},
        {named[number]: digest for number, digest in found.items()},
    )


def _build_and_compare(
    name: str,
    models: ModelDirectory,
    copy: PrivateCopy,
    config: Config,
    origin: Origin,
    keys: list[str],
    folder: Path,
    console: Console,
) -> Outcome:
    directory = OutputDirectory(folder / "output")
    with directory.locked():
        if not _build(models, config, origin, keys, directory, console):
            return Outcome.FAILED
    built, pushed = _built_files(directory), _pushed_files(copy)
    console.print()
    print_table(_table(pushed, built), console)
    differing = sum(pushed.get(file) != built.get(file) for file in {*pushed, *built})
    if differing:
        line = f"{differing} of {len({*pushed, *built})} files differ from {name}."
        console.print(Text(line), soft_wrap=True)
        return Outcome.DIFFERENT
    console.print(Text(f"All {len(pushed)} files are those of {name}."), soft_wrap=True)
    return Outcome.SAME


def _build(
    models: ModelDirectory,
    config: Config,
    origin: Origin,
    keys: list[str],
    directory: OutputDirectory,
    console: Console,
) -> bool:
    """Runs the nodes that make a model; whether all of them completed."""
    run_id = directory.new_run_id()
    begin(directory.logs(run_id))
    with show_imports(console):
        from orchestration.local.compilation import compile_nodes
        from pipeline.pipeline import create_pipeline

    base = origin["base_version"] if config.training.warm_start else 0
    pipeline = create_pipeline(
        config,
        pipeline_root=str(directory.artifacts),
        serving_dir=models.serving_dir if base else str(directory.serving),
        served_version=base,
        public_keys=keys,
        metadata_path=str(directory.metadata),
        enable_cache=False,
    )
    nodes = compile_nodes(pipeline, run_id, code_version_of(config), _NODES)
    results = run_nodes(nodes, config, directory, run_id, console, {STORE_VARIABLE: ""})
    return not show_failures(results, directory, run_id, console)


# Size and SHA-256 of a file.
_Content = tuple[int, str]


def _pushed_files(copy: PrivateCopy) -> dict[str, _Content]:
    """The files of a version that are compared, by their names."""
    files = dict(_contents(Path(copy.directory.version_uri(copy.version))))
    files.pop(WARMUP_FILE, None)  # Requests that a server is warmed up with: no part of the model.
    provenance = Path(copy.directory.provenance_uri(copy.version))
    for name in _RECORDS:
        if (provenance / name).is_file():
            files[name] = _content(provenance / name)
    return files


def _built_files(directory: OutputDirectory) -> dict[str, _Content]:
    files = dict(_contents(_place(directory, *_MODEL)))
    return files | {name: _content(_place(directory, *where)) for name, where in _RECORDS.items()}


def _place(directory: OutputDirectory, output: str, name: str) -> Path:
    """A file or folder of the only artifact of an output."""
    (found,) = directory.artifacts.glob(f"*/{output}/*/{name}")
    return found


def _contents(folder: Path) -> Iterator[tuple[str, _Content]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            yield str(path.relative_to(folder)), _content(path)


def _content(path: Path) -> _Content:
    content = path.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def _table(pushed: Mapping[str, _Content], built: Mapping[str, _Content]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("SHA-256, pushed", no_wrap=True)
    table.add_column("built again", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in sorted({*pushed, *built}):
        before, now = pushed.get(name), built.get(name)
        verdict = "same" if before == now else "different" if before and now else "missing"
        size = f"{(before or now or (0, ''))[0]:,}"
        digests = [content[1][:16] if content else _ABSENT for content in (before, now)]
        style = "" if before == now else "red"
        table.add_row(name, size, *digests, verdict, style=style)
    return table
