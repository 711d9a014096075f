"""ServedModel: emits the served model and its statistics, the baseline of a new model."""

import json

from tfx import v1 as tfx

from ml.artifacts import serving_model_uri, statistics_uri
from ml.requests import Requests
from storage.encryption_keys import EncryptionError, load_keys
from storage.errors import SurroundingsError
from storage.keys import SignatureError, TrustStore
from storage.names import SAVED_MODEL, TRAINING_STATISTICS
from storage.private_copy import private_copy
from storage.uris import copy_tree, exists, read_file
from storage.versions import ModelVersions


@tfx.dsl.components.component
def ServedModel(
    model: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Model],
    statistics: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.ExampleStatistics],
    serving_dir: tfx.dsl.components.Parameter[str],
    model_name: tfx.dsl.components.Parameter[str],
    version: tfx.dsl.components.Parameter[int],
    public_keys: tfx.dsl.components.Parameter[str],
    encryption_keys: tfx.dsl.components.Parameter[str],
    requests: tfx.dsl.components.InputArtifact[tfx.types.standard_artifacts.Examples] = None,
) -> None:
    """Copies the served version and its training statistics out of the Serving directory.

    The baseline is a private, verified copy.

    Example:
      served_model = ServedModel(
          serving_dir="output/serving",
          model_name="my_model",
          version=0,
          public_keys='["output/keys"]',
          encryption_keys="",
      )

    Args:
      model: Component `outputs` contains: the served SavedModel; empty while nothing is served.
      statistics: Component `outputs` contains: the statistics of the served model's split `train`;
        empty while nothing is served.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      version: The served version, which makes it part of the cache key; with 0 the component looks
        it up, and its result must not be cached.
      public_keys: JSON list of the trusted public keys, or folders of them (`*.pub`); with none,
        the version is not verified.
      encryption_keys: File of the keys that an encrypted version is decrypted with; "" for the
        environment.
      requests: Output of RequestExampleGen, whose version is taken instead of `version`.

    Raises:
      UserError: If the version is not in the Serving directory, cannot be decrypted or does not
        verify.
    """
    directory = ModelVersions(serving_dir, model_name)
    if requests:
        version = Requests.from_examples(requests).version
    if version and version not in directory.versions():
        raise SurroundingsError(f"version {version} of {model_name} is not in {serving_dir}")
    served = version or directory.served()
    statistics.split_names = "[]"
    fileio = tfx.dsl.io.fileio
    fileio.makedirs(model.uri)
    fileio.makedirs(statistics.uri)
    if served is None:
        return
    model.set_int_custom_property("version", served)
    paths = json.loads(public_keys)
    try:
        trust = TrustStore(paths) if paths else None
        copy = private_copy(directory, served, trust, keys=load_keys(encryption_keys))
    except (SignatureError, EncryptionError, OSError) as error:
        raise SurroundingsError(
            f"version {served} of {model_name} in {serving_dir} cannot be the baseline: {error}"
        ) from error
    with copy:
        copied = copy.directory
        copy_tree(copied.version_uri(served), serving_model_uri(model), last=SAVED_MODEL)
        source = f"{copied.provenance_uri(served)}/{TRAINING_STATISTICS}"
        if exists(source):
            statistics.split_names = json.dumps(["train"])
            target = statistics_uri(statistics, "train")
            fileio.makedirs(target.rpartition("/")[0])
            with fileio.open(target, "wb") as file:
                file.write(read_file(source))
