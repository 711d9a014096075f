"""What is known of the versions of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError, Keys
from storage.keys import SignatureError, TrustStore
from storage.memory import MEMORY
from storage.names import SIGNATURE_FILE, TFLITE_MODEL
from storage.private_copy import PrivateCopy, private_copy
from storage.signing import claimed_key
from storage.uris import exists, file_sizes

LIVE, OLDER, ROLLED_BACK = "live", "older", "rolled back"


def describe_versions(directory: ModelDirectory) -> list[dict[str, Any]]:
    """What is known of each version, newest first."""
    served, labels = directory.served(), directory.labels()
    places = {version: (OLDER, directory.version_uri(version)) for version in directory.versions()}
    if served is not None:
        places[served] = (LIVE, directory.version_uri(served))
    for version in directory.rolled_back():
        places[version] = (ROLLED_BACK, directory.rolled_back_uri(version))
    rows = []
    for version, (state, uri) in sorted(places.items(), reverse=True):
        record, sizes = directory.provenance(version), file_sizes(uri)
        spans = record.get("spans", {})
        rows.append(
            {
                "model": directory.model_name,
                "version": version,
                "state": state,
                "labels": [name for name, pinned in labels.items() if pinned == version],
                "created": record.get("created"),
                "metric": headline(record),
                "trained_on": spans.get("train", []),
                "evaluated_on": spans.get("test", []),
                "bytes": sum(sizes.values()),
                "tflite_bytes": sizes.get(TFLITE_MODEL),
                "signed": exists(directory.signature_uri(version)),
                "key_id": claimed_key(directory.signature_uri(version)) or None,
            }
        )
    return rows


def headline(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The metric by which versions are compared, from the record of a version.

    Returns:
      `name`, `title`, `value`, `margin` (half the width of its interval) and `text`; None if the
      record has none. Records of earlier releases have the AUC alone.
    """
    found = record.get("headline")
    if isinstance(found, Mapping) and isinstance(found.get("text"), str):
        return {name: found.get(name) for name in ("name", "title", "value", "margin", "text")}
    metrics = record.get("metrics")
    auc = metrics.get("auc") if isinstance(metrics, Mapping) else None
    if not isinstance(auc, float | int):
        return None
    return {"name": "auc", "title": "AUC", "value": auc, "margin": None, "text": f"{auc:.4f}"}


def copy_version(
    directory: ModelDirectory, version: int, trust: TrustStore | None, keys: Keys | None
) -> PrivateCopy:
    """A private copy of a version, rolled back or not; in memory if it may have been decrypted."""
    aside = version in directory.rolled_back()
    parent = MEMORY if keys else None
    return private_copy(directory, version, trust, rolled_back=aside, parent=parent, keys=keys)


def as_serving_directory(copy: PrivateCopy) -> str:
    """Puts the signature of a private copy to where a Serving directory has it.

    Returns:
      The Serving directory, which holds the version alone and verifies as the first one did.
    """
    folder = copy.directory.serving_dir
    found = os.path.join(folder, SIGNATURE_FILE)
    if os.path.exists(found):
        os.replace(found, copy.directory.signature_uri(copy.version))
    return folder


def verifies(directory: ModelDirectory, version: int, trust: TrustStore, keys: Keys | None) -> bool:
    """Whether a version is, file by file, what was signed."""
    try:
        copy_version(directory, version, trust, keys).close()
    except (SignatureError, EncryptionError, OSError):
        return False
    return True
