"""What is known of the versions of a model."""

from __future__ import annotations

from typing import Any

from storage.directory import ModelDirectory
from storage.encryption_keys import EncryptionError, Keys
from storage.keys import SignatureError, TrustStore
from storage.memory import MEMORY
from storage.names import TFLITE_MODEL
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
                "version": version,
                "state": state,
                "labels": [name for name, pinned in labels.items() if pinned == version],
                "created": record.get("created"),
                "auc": record.get("metrics", {}).get("auc"),
                "trained_on": spans.get("train", []),
                "evaluated_on": spans.get("test", []),
                "bytes": sum(sizes.values()),
                "tflite_bytes": sizes.get(TFLITE_MODEL),
                "signed": exists(directory.signature_uri(version)),
                "key_id": claimed_key(directory.signature_uri(version)) or None,
            }
        )
    return rows


def copy_version(
    directory: ModelDirectory, version: int, trust: TrustStore | None, keys: Keys | None
) -> PrivateCopy:
    """A private copy of a version, rolled back or not; in memory if it may have been decrypted."""
    aside = version in directory.rolled_back()
    parent = MEMORY if keys else None
    return private_copy(directory, version, trust, rolled_back=aside, parent=parent, keys=keys)


def verifies(directory: ModelDirectory, version: int, trust: TrustStore, keys: Keys | None) -> bool:
    """Whether a version is, file by file, what was signed."""
    try:
        copy_version(directory, version, trust, keys).close()
    except (SignatureError, EncryptionError, OSError):
        return False
    return True
