"""Pusher: publishes a blessed model to the Serving directory, with its provenance."""

import functools
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tfx import v1 as tfx

from components.evaluator.baselines import COMPARISON_FILE
from components.evaluator.fairness import read_fairness
from components.evaluator.results import OVERALL, Values, read_intervals, read_metrics, read_verdict
from components.evaluator.verdict import Verdict
from ml.artifacts import (
    CompressionReport,
    Explanations,
    TuningReport,
    schema_uri,
    serving_model_uri,
    statistics_uri,
)
from ml.effort import read_effort
from ml.file_names import BLESSED_FILE, INFRA_BLESSED_FILE, TUNING_FILE
from ml.identity.model import model_identity
from ml.model_card.card import make_card, make_metadata
from ml.model_card.markdown import render
from ml.model_card.team_text import read_team_text
from ml.stack import installed_versions
from storage.directory import ModelDirectory
from storage.encrypted_versions import encrypt_tree
from storage.encryption_keys import EncryptionError, Keys, require_keys
from storage.errors import SurroundingsError
from storage.keys import SignatureError, ensure_key_pair, is_file
from storage.names import (
    BACKGROUND_FILE,
    CARD_FILE,
    CARD_TEXT,
    PROVENANCE_FILE,
    TRAINING_STATISTICS,
    WARMUP_FILE,
)
from storage.signing import sign
from storage.uris import model_digest

# Time that another run's push may take to copy and sign its model.
_LOCK_SECONDS = 600


@tfx.dsl.components.component
def Pusher(
    model: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Model],
    blessing: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelBlessing],
    compression_blessing: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ModelBlessing
    ],
    infra_blessing: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.InfraBlessing],
    compression_report: tfx.dsl.components.InputArtifact[CompressionReport],
    evaluation: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelEvaluation],
    examples: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples],
    statistics: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    schema: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Schema],
    pushed_model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.PushedModel],
    serving_dir: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    run_key: tfx.dsl.components.Parameter[str],
    origin: tfx.dsl.components.Parameter[str],
    signing_key: tfx.dsl.components.Parameter[str],
    signing_password: tfx.dsl.components.Parameter[str],
    encrypt: tfx.dsl.components.Parameter[bool],
    encryption_keys: tfx.dsl.components.Parameter[str],
    file_mode: tfx.dsl.components.Parameter[str],
    keep_versions: tfx.dsl.components.Parameter[int],
    card: tfx.dsl.components.Parameter[str],
    transform_graph: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.TransformGraph
    ] = None,
    model_run: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.ModelRun] = None,
    pruning_report: tfx.dsl.components.InputArtifact[CompressionReport] = None,
    tuning: tfx.dsl.components.InputArtifact[TuningReport] = None,
    explanations: tfx.dsl.components.InputArtifact[Explanations] = None,
    explanation_blessing: tfx.dsl.components.InputArtifact[
        tfx.types.standard_artifacts.ModelBlessing
    ] = None,
) -> None:
    """Publishes the model as a new version, if it is blessed and new.

    It publishes the evaluated files, byte for byte, and the warm-up requests.

    A model is not new if a version computes the same (see `model_identity`), or if a version of the
    same data, configuration and code was rolled back.

    Example:
      pusher = Pusher(
          model=quantizer.outputs["quantized_model"],
          blessing=evaluator.outputs["blessing"],
          compression_blessing=compression_evaluator.outputs["blessing"],
          infra_blessing=serving_validator.outputs["blessing"],
          compression_report=quantizer.outputs["report"],
          evaluation=evaluator.outputs["evaluation"],
          examples=example_gen.outputs["examples"],
          statistics=statistics_gen.outputs["statistics"],
          schema=schema_gen.outputs["schema"],
          serving_dir="output/serving",
          model_name="my_model",
          run_key="",
          origin="",
          signing_key="env:SIGNING_KEY",
          signing_password="",
          encrypt=False,
          encryption_keys="",
          file_mode="0644",
          keep_versions=10,
          card="**Intended use.** An example.",
      )

    Args:
      model: The model to publish.
      blessing: Whether the Evaluator accepts it.
      compression_blessing: Whether the CompressionEvaluator accepts it.
      infra_blessing: Whether the ServingValidator accepts it; its warm-up requests are published
        with the model.
      compression_report: What the Quantizer measured, kept with the version.
      evaluation: Its metrics, kept with the version.
      examples: Its training and test examples.
      statistics: Statistics of `examples`; those of the split `train` are kept with the version,
        and the data of later runs is compared with them.
      schema: The schema of `examples`, kept with the version.
      pushed_model: Component `outputs` contains: an artifact with the custom properties `pushed` (1
        or 0), `pushed_version` and `pushed_destination`, as the stock Pusher sets them, and
        `reason` where nothing was pushed.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      run_key: Identifies data, configuration and code of the run; kept with the version.
      origin: JSON object that says what the version is made from, kept with it; "" if unknown.
      signing_key: The private key that signs the version: the path of its file, `env:NAME`, or a
        PKCS #11 URI. A file that does not exist is made, with the public key next to it (`.pub`).
        "" leaves the version unsigned.
      signing_password: Where the key's password is: `env:NAME` or a file; "" for none.
      encrypt: Whether the version is encrypted after it is signed.
      encryption_keys: File of the keys that it is encrypted with; "" for the environment.
      file_mode: Mode of the published files, in octal digits, independent of the umask.
      keep_versions: How many versions to keep, besides those with a label; older ones are deleted
        after the push. 0 keeps all.
      card: What the model's team says of it, for the model card, see `ml.model_card.team_text`; ""
        for nothing.
      transform_graph: Says what Transform took, for the model card; None if that is not known.
      model_run: The same of Trainer.
      pruning_report: The same of Pruner.
      tuning: The search that found the settings of the training, kept with the version; None for
        none.
      explanations: The Explainer's; its background rows are kept with the version. None for none.
      explanation_blessing: Whether the Explainer accepts the model; None if it was not asked.

    Raises:
      UserError: If the version cannot be signed, another process keeps changing the Serving
        directory, or what is there cannot be read.
    """
    pushed_model.set_int_custom_property("pushed", 0)
    blessings = [blessing, compression_blessing, *filter(None, [explanation_blessing])]
    files = [os.path.join(b.uri, BLESSED_FILE) for b in blessings]
    files.append(os.path.join(infra_blessing.uri, INFRA_BLESSED_FILE))
    if not all(tfx.dsl.io.fileio.exists(file) for file in files):
        pushed_model.set_string_custom_property("reason", "not blessed")
        return
    metrics, verdict = read_metrics(evaluation.uri), read_verdict(evaluation.uri)
    record = {
        "model_name": model_name,
        # Without the warm-up requests, which differ from run to run.
        "model_identity": model_identity(serving_model_uri(model)),
        "model_digest": model_digest(serving_model_uri(model)),
        "run_key": run_key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "origin": json.loads(origin or "{}"),
        "data": json.loads(examples.get_string_custom_property("digests") or "{}"),
        "spans": json.loads(examples.get_string_custom_property("spans") or "{}"),
        "rows": json.loads(examples.get_string_custom_property("rows") or "{}"),
        "split": examples.get_string_custom_property("split"),
        "task": verdict.task.kind,
        "headline": _headline(verdict, metrics.get(OVERALL, {})),
        "metrics": metrics.get(OVERALL, {}),
        "artifacts": {
            a.type_name.rpartition(".")[2]: _identify(a)
            for a in (
                *(model, blessing, infra_blessing, compression_report),
                *(evaluation, examples, statistics, schema),
                *filter(None, [tuning, explanations]),
            )
        },
        "compression": compression_report.read()["mode"],
        "hyperparameters": tuning.read()["best"]["settings"] if tuning else {},
        "libraries": installed_versions(),
        "signed": bool(signing_key),
        "encrypted": bool(encrypt),
    }
    # In the order in which they ran.
    made = (examples, statistics, transform_graph, model_run, pruning_report, compression_report)
    judged = (compression_blessing, blessing, infra_blessing)
    efforts = [read_effort(artifact) for artifact in (*made, *judged) if artifact is not None]
    provenance = os.path.join(pushed_model.uri, "provenance")
    directory = ModelDirectory(serving_dir, model_name, int(file_mode, 8))
    try:
        finish = _finisher(
            infra_blessing,
            _signer(signing_key, signing_password),
            require_keys(encryption_keys) if encrypt else None,
        )
        with directory.locked(_LOCK_SECONDS):
            if reason := _why_not_new(directory, record):
                pushed_model.set_string_custom_property("reason", reason)
                return
            version = record["version"] = directory.next_version()
            _write_provenance(
                provenance, record, metrics, compression_report.read(), statistics, schema
            )
            intervals = read_intervals(evaluation.uri)
            _write_json(os.path.join(provenance, "intervals.json"), intervals)
            facts = make_card(
                record,
                verdict.task,
                read_team_text(card),
                metrics,
                intervals,
                verdict.not_judged,
                compression_report.read(),
                [effort for effort in efforts if effort],
                baselines=_read_comparison(evaluation),
                fairness=read_fairness(evaluation.uri),
                explanations=explanations.read() if explanations else None,
            )
            _write_card(provenance, facts)
            if tuning:
                _write_json(os.path.join(provenance, TUNING_FILE), tuning.read())
            _copy_background(explanations, provenance)
            directory.publish(version, serving_model_uri(model), provenance, finish)
            if keep_versions:
                directory.retain(keep_versions)
    except (SignatureError, EncryptionError, TimeoutError, ValueError) as error:
        raise SurroundingsError(str(error)) from error
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(version))
    pushed_model.set_string_custom_property("pushed_destination", directory.version_uri(version))


def _headline(verdict: Verdict, metrics: Values) -> dict[str, Any]:
    """The metric by which versions are compared; those who list them know no task."""
    metric = verdict.task.headline
    value, margin = metrics.get(metric.name), verdict.margins.get(metric.name)
    return {
        "name": metric.name,
        "title": metric.title,
        "value": value,
        "margin": margin,
        "text": metric.show(value, margin),
    }


def _why_not_new(directory: ModelDirectory, record: dict[str, Any]) -> str:
    """Why a model is not published again, or an empty string."""
    rolled_back = directory.rolled_back()
    # Old versions have no identity; they are compared by digest.
    for name in ("model_identity", "model_digest"):
        existing = directory.find(name, record[name])
        if existing is not None:
            aside = ", which was rolled back" if existing in rolled_back else ""
            return f"the same model is version {existing}{aside}"
    for version in reversed(rolled_back):
        if record["run_key"] and directory.provenance(version).get("run_key") == record["run_key"]:
            return (
                f"version {version} was made from the same data, configuration and code, and was "
                "rolled back: promote it, or change one of them"
            )
    return ""


def _finisher(
    infra_blessing: tfx.dsl.Artifact,
    sign: Callable[[ModelDirectory, int], None] | None,
    keys: Keys | None,
) -> Callable[[ModelDirectory, int], None]:
    """A function for `publish` that adds warm-up requests to a version, signs it and encrypts it.

    The signature is of the plain files, so it stays valid when the version is encrypted again.
    """
    fileio = tfx.dsl.io.fileio
    requests = os.path.join(infra_blessing.uri, WARMUP_FILE)

    def finish(private: ModelDirectory, version: int) -> None:
        if fileio.exists(requests):
            path = os.path.join(private.version_uri(version), WARMUP_FILE)
            fileio.makedirs(os.path.dirname(path))
            fileio.copy(requests, path)
        if sign:
            sign(private, version)
        if keys:
            encrypt_tree(private.serving_dir, keys)

    return finish


def _signer(signing_key: str, password: str) -> Callable[[ModelDirectory, int], None] | None:
    """A function for `publish` that signs a version, or None."""
    if not signing_key:
        return None
    if is_file(signing_key):
        ensure_key_pair(signing_key, password)
    return functools.partial(sign, private_key=signing_key, password_from=password)


def _identify(artifact: tfx.dsl.Artifact) -> dict[str, Any]:
    """How ML Metadata identifies an artifact: TFX ends its URI in the id of its execution."""
    execution = os.path.basename(artifact.uri.rstrip("/"))
    return {
        "artifact_id": artifact.id,
        "execution_id": int(execution) if execution.isdigit() else None,
        "uri": artifact.uri,
    }


def _write_provenance(
    uri: str,
    record: dict[str, Any],
    metrics: dict[str, Values],
    compression: dict[str, Any],
    statistics: tfx.dsl.Artifact,
    schema: tfx.dsl.Artifact,
) -> None:
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(uri)
    files = {
        PROVENANCE_FILE: record,
        "metrics.json": metrics,
        "compression.json": compression,
    }
    for name, content in files.items():
        _write_json(os.path.join(uri, name), content)
    fileio.copy(statistics_uri(statistics, "train"), os.path.join(uri, TRAINING_STATISTICS))
    fileio.copy(schema_uri(schema), os.path.join(uri, os.path.basename(schema_uri(schema))))


def _read_comparison(evaluation: tfx.dsl.Artifact) -> dict[str, Any] | None:
    """The comparison with baselines, as it is stored; None if there were none."""
    path = os.path.join(evaluation.uri, COMPARISON_FILE)
    if not tfx.dsl.io.fileio.exists(path):
        return None
    with tfx.dsl.io.fileio.open(path, "r") as file:
        comparison: dict[str, Any] = json.loads(file.read())
    return comparison


def _write_card(provenance: str, card: dict[str, Any]) -> None:
    """Writes the model card, for programs and for people."""
    _write_json(os.path.join(provenance, CARD_FILE), card)
    with tfx.dsl.io.fileio.open(os.path.join(provenance, CARD_TEXT), "w") as file:
        file.write(render(card, make_metadata(card)))


def _copy_background(explanations: tfx.dsl.Artifact | None, provenance: str) -> None:
    """Copies the rows that a server explains predictions with, if there are any."""
    fileio = tfx.dsl.io.fileio
    if explanations is not None:
        path = os.path.join(explanations.uri, BACKGROUND_FILE)
        if fileio.exists(path):
            fileio.copy(path, os.path.join(provenance, BACKGROUND_FILE))


def _write_json(uri: str, content: Any) -> None:
    with tfx.dsl.io.fileio.open(uri, "w") as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
