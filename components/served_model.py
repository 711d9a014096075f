"""ServedModel: what is being served now, as artifacts that a new model is compared with."""

import json

from tfx import v1 as tfx

from ml.artifacts import serving_model_uri, statistics_uri
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
) -> None:
    """Copies the served version and its training statistics out of the Serving directory.

    What becomes the baseline is a private copy, which was verified.

    Args:
      model: Component `outputs` contains: the served SavedModel, or an empty artifact while nothing
        is served.
      statistics: Component `outputs` contains: the statistics of the split `train` that the served
        model learned from, or an empty artifact while nothing is served.
      serving_dir: URI of the Serving directory.
      model_name: Name of the model in it.
      version: The version being served, so that the cache key tells the truth; 0 means that the
        component is to look, and its result is not to be cached.
      public_keys: JSON list of the public keys, or folders of them (`*.pub`), of whoever may sign
        versions; with none, the version is taken unverified.
      encryption_keys: File of the keys that an encrypted version is decrypted with; "" for the
        environment.

    Raises:
      UserError: If `version` is not in the Serving directory, cannot be decrypted or does not
        verify: it is then no baseline.
    """
    directory = ModelVersions(serving_dir, model_name)
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
