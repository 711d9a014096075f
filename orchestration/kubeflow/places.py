"""Paths of data, keys and the Serving directory in the tasks of a run."""

from __future__ import annotations

import contextlib
import posixpath

from pipeline.config import Config
from pipeline.kubeflow_config import KubeflowConfig
from storage.errors import UserError
from storage.keys import is_file, public_key_of


def data_uri(config: Config) -> str:
    """The directory of the monthly spans."""
    return on_volume("data.uri", config.data.uri, config.kubeflow)


def serving_dir(config: Config) -> str:
    """The Serving directory."""
    return on_volume("kubeflow.serving_dir", config.kubeflow.serving_dir, config.kubeflow)


def on_volume(key: str, path: str, kubeflow: KubeflowConfig) -> str:
    """A path as tasks see it: a relative one is on the volume.

    Raises:
      UserError: If it is relative, and there is no volume.

    Examples:
      >>> on_volume("data.uri", "data", KubeflowConfig(volume_claim="flightdeck"))
      '/mnt/flightdeck/data'
    """
    if "://" in path or path.startswith("/"):
        return path
    if not kubeflow.volume_claim:
        raise UserError(
            f"{key} = {path!r}: without kubeflow.volume_claim, gs://..., s3://... or an absolute "
            "path is expected"
        )
    return posixpath.join(kubeflow.mount_path, path)


def span_store(config: Config) -> str:
    """The span store; "" if nothing is kept, or there is no volume that it could be on."""
    return _optional("kubeflow.span_store", config.kubeflow.span_store, config.kubeflow)


def state(config: Config) -> str:
    """Directory of what a model's runs know of each other; "" if nothing is kept."""
    kept = _optional("kubeflow.state_dir", config.kubeflow.state_dir, config.kubeflow)
    return posixpath.join(kept, config.model_name) if kept else ""


def _optional(key: str, path: str, kubeflow: KubeflowConfig) -> str:
    with contextlib.suppress(UserError):
        return on_volume(key, path, kubeflow) if path else ""
    return ""


def signing_key(config: Config) -> str:
    """The private key as the Pusher's task finds it; "" where signing is turned off."""
    if not config.serving.sign or not is_file(config.serving.signing_key):
        return config.serving.signing_key if config.serving.sign else ""
    if not config.serving.signing_key and not config.kubeflow.volume_claim:
        raise UserError(
            "serving.sign = true needs a private key that the Pusher's task can read: set "
            "kubeflow.volume_claim or serving.signing_key, or turn signing off by "
            "serving.sign=false"
        )
    return on_volume(
        "serving.signing_key", config.serving.signing_key or "keys/signing.key", config.kubeflow
    )


def encryption_keys(config: Config) -> str:
    """Path of the file of keys as tasks see it; "" for the environment (`kubeflow.secret_env`)."""
    keys = config.serving.encryption_keys
    return on_volume("serving.encryption_keys", keys, config.kubeflow) if keys else ""


def public_keys(config: Config) -> list[str]:
    """Paths of the keys that ServedModel verifies with; none if signing is turned off."""
    if not config.serving.sign:
        return []
    key = config.serving.signing_key
    own = public_key_of(key) if key and is_file(key) else "keys"
    return [
        on_volume("serving.public_keys", path, config.kubeflow)
        for path in config.serving.public_keys or (own,)
    ]
