"""Pusher: publishes a blessed model to the Serving directory, together with where it came from."""

import functools
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

from tfx import v1 as tfx
from tfx.utils import path_utils

from components.evaluator.blessing import BLESSED_FILE
from components.evaluator.results import OVERALL, read_intervals, read_metrics
from components.served_model import TRAINING_STATISTICS
from components.serving_validator.component import INFRA_BLESSED_FILE
from ml.artifacts import CompressionReport, schema_uri, serving_model_uri, statistics_uri
from ml.model_identity import model_identity
from storage.directory import PROVENANCE_FILE, ModelDirectory, model_digest
from storage.encryption import EncryptionError, Keys, encrypt_tree, require_keys
from storage.errors import SurroundingsError, UserError
from storage.keys import SignatureError, ensure_key_pair, is_file
from storage.signing import sign

# What a push of another run may take to copy and sign its model.
_LOCK_SECONDS = 600

_LIBRARIES = (
    "tfx",
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "tensorflow-transform",
    "ai-edge-litert",
    "apache-beam",
    "numpy",
)


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
    run_key: tfx.dsl.components.Parameter[str] = "",
    signing_key: tfx.dsl.components.Parameter[str] = "",
    signing_password: tfx.dsl.components.Parameter[str] = "",
    encrypt: tfx.dsl.components.Parameter[int] = 0,
    encryption_keys: tfx.dsl.components.Parameter[str] = "",
    file_mode: tfx.dsl.components.Parameter[str] = "0644",
    keep_versions: tfx.dsl.components.Parameter[int] = 0,
) -> None:
    """Publishes the model as a new version, if it is blessed and is not there already.

    It is there if a version computes the same (see `model_identity`), be it rolled back; and it is
    not wanted if a version was made from the same data, configuration and code and was rolled back,
    whatever chance made of them this time.

    Args:
      model: The model to publish.
      blessing: Whether the Evaluator accepts it.
      compression_blessing: Whether the CompressionEvaluator accepts it.
      infra_blessing: Whether a model server answers with it; where it holds a copy of the model
        with warm-up requests, that copy is what is published.
      compression_report: What the Quantizer measured, kept with the version.
      evaluation: Its metrics, kept with the version.
      examples: What it learned from and was judged on.
      statistics: Statistics of `examples`; those of the split `train` are kept with the version and
        are what the data of later runs is compared with.
      schema: The schema of `examples`, kept with the version.
      pushed_model: Component `outputs` contains: an artifact with the custom properties `pushed` (1
        or 0), `pushed_version` and `pushed_destination`, as the stock Pusher sets them, and
        `reason` where nothing was pushed.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      run_key: Identifies data, configuration and code of the run; kept with the version.
      signing_key: The private key that signs the version: path of its file, which is made with its
        public key, which ends in `.pub`, where there is none; `env:NAME`, or a PKCS #11 URI. ""
        leaves the version unsigned.
      signing_password: Where the key's password is: `env:NAME` or a file; "" for none.
      encrypt: 1 to encrypt the version when it is signed, and 0 to leave it plain.
      encryption_keys: File of the keys that it is encrypted with; "" for the environment.
      file_mode: Mode of the published files, in octal digits, whatever the umask.
      keep_versions: How many versions to keep, besides those with a label; older ones are deleted
        after the push. 0 keeps all.

    Raises:
      UserError: If `keep_versions` is negative, the version cannot be signed, another process
        keeps changing the Serving directory, or what is there cannot be read.
    """
    if keep_versions < 0:
        raise UserError(f"keep_versions is {keep_versions}; 0 or more is allowed")
    pushed_model.set_int_custom_property("pushed", 0)
    files = [os.path.join(b.uri, BLESSED_FILE) for b in (blessing, compression_blessing)]
    files.append(os.path.join(infra_blessing.uri, INFRA_BLESSED_FILE))
    if not all(tfx.dsl.io.fileio.exists(file) for file in files):
        pushed_model.set_string_custom_property("reason", "not blessed")
        return
    metrics = read_metrics(evaluation.uri)
    record = {
        "model_name": model_name,
        # Of the model itself: requests for warming up differ from run to run.
        "model_identity": model_identity(serving_model_uri(model)),
        "model_digest": model_digest(serving_model_uri(model)),
        "run_key": run_key,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spans": json.loads(examples.get_string_custom_property("spans") or "{}"),
        "rows": json.loads(examples.get_string_custom_property("rows") or "{}"),
        "metrics": metrics.get(OVERALL, {}),
        "artifacts": {
            a.type_name.rpartition(".")[2]: _identify(a)
            for a in (
                *(model, blessing, infra_blessing, compression_report),
                *(evaluation, examples, statistics, schema),
            )
        },
        "compression": compression_report.read()["mode"],
        "libraries": {name: library_version(name) for name in _LIBRARIES},
        "signed": bool(signing_key),
        "encrypted": bool(encrypt),
    }
    provenance = os.path.join(pushed_model.uri, "provenance")
    directory = ModelDirectory(serving_dir, model_name, int(file_mode, 8))
    try:
        seal = _sealer(
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
            _write_json(os.path.join(provenance, "intervals.json"), read_intervals(evaluation.uri))
            source = _model_to_push(model, infra_blessing)
            directory.publish(version, source, provenance, seal)
            if keep_versions:
                directory.retain(keep_versions)
    except (SignatureError, EncryptionError, TimeoutError, ValueError) as error:
        raise SurroundingsError(str(error)) from error
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(version))
    pushed_model.set_string_custom_property("pushed_destination", directory.version_uri(version))


def _why_not_new(directory: ModelDirectory, record: dict[str, Any]) -> str:
    """Why a model is not to be published, or an empty string."""
    rolled_back = directory.rolled_back()
    # Versions of old have no identity; of those only an equal digest is known to be the same.
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


def _model_to_push(model: tfx.dsl.Artifact, infra_blessing: tfx.dsl.Artifact) -> str:
    """Folder of the model, or of its copy with warm-up requests."""
    if infra_blessing.get_int_custom_property("has_model"):
        return str(path_utils.stamped_model_path(infra_blessing.uri))
    return serving_model_uri(model)


def _sealer(
    sign: Callable[[ModelDirectory, int], None] | None, keys: Keys | None
) -> Callable[[ModelDirectory, int], None]:
    """What signs and then encrypts a version, as `ModelDirectory.publish` calls it.

    The signature is of what is loaded: it stays good when the version is encrypted again.
    """

    def seal(private: ModelDirectory, version: int) -> None:
        if sign:
            sign(private, version)
        if keys:
            encrypt_tree(private.serving_dir, keys)

    return seal


def _signer(signing_key: str, password: str) -> Callable[[ModelDirectory, int], None] | None:
    """What signs a version, as `ModelDirectory.publish` calls it, or None."""
    if not signing_key:
        return None
    if is_file(signing_key):
        ensure_key_pair(signing_key, password)
    return functools.partial(sign, private_key=signing_key, password_from=password)


def _identify(artifact: tfx.dsl.Artifact) -> dict[str, Any]:
    """Where MLMD knows an artifact by. TFX ends the URI of an output in the id of its execution."""
    execution = os.path.basename(artifact.uri.rstrip("/"))
    return {
        "artifact_id": artifact.id,
        "execution_id": int(execution) if execution.isdigit() else None,
        "uri": artifact.uri,
    }


def _write_provenance(
    uri: str,
    record: dict[str, Any],
    metrics: dict[str, dict[str, float]],
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


def _write_json(uri: str, content: Any) -> None:
    with tfx.dsl.io.fileio.open(uri, "w") as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
