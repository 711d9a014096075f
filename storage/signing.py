"""Signs versions of a model, and finds out whether a file of one was changed since.

A signature is what the `model-signing` package makes of an elliptic-curve key: a Sigstore bundle
that lists the SHA-256 of each file of the version and of its provenance, by their paths below the
model's folder in the Serving directory. One of these files says which version of which model was
signed and when, so that a signature is good for that version alone. Importing the package takes
about a second, so the functions here do it when they are called.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from storage.keys import (
    SignatureError,
    TrustStore,
    model_signing_imports,
    short_id,
    signing_config,
)
from storage.memory import in_memory
from storage.names import SIGNATURE_FILE, STATEMENT_FILE
from storage.uris import read_file
from storage.versions import ModelVersions

if TYPE_CHECKING:
    from model_signing import hashing

_MAX_SIGNATURE_BYTES = 64 << 20
_NAMES_TO_SHOW = 5
_SIGN_AGAIN = "to move a version on purpose, sign it again: python -m serving sign"


@dataclass(frozen=True)
class Signed:
    """What a signature that was verified says.

    Attributes:
      key_id: Id of the key that it was made with.
      time: When, in UTC (ISO 8601).
    """

    key_id: str
    time: str


def sign(directory: ModelVersions, version: int, private_key: str, password_from: str = "") -> None:
    """Signs a version and its provenance: writes its statement and its signature.

    Args:
      directory: A local folder that nobody else can change and that holds this version alone, as
        `private_copy` makes it: what is signed is what was copied there.
      version: Number of the version.
      private_key: Path of the private key (PEM, on the curve P-256, P-384 or P-521), `env:NAME`,
        `fd:NUMBER`, or a PKCS #11 URI.
      password_from: Where the key's password is; "" for none.

    Raises:
      KeyFileError: If the key cannot be used, or is open to others than its owner.
      SignatureError: If the version holds something else than files and folders.

    Example:
      >>> import tempfile
      >>> from storage.keys import ensure_key_pair
      >>> root = tempfile.TemporaryDirectory()
      >>> keys = ensure_key_pair(f"{root.name}/keys/signing.key")
      >>> trust = TrustStore([keys.public])
      >>> version = ModelVersions(f"{root.name}/private", "taxi")
      >>> Path(version.version_uri(1)).mkdir(parents=True)
      >>> model = Path(version.version_uri(1), "saved_model.pb")
      >>> model.write_bytes(b"a model")
      7
      >>> sign(version, 1, keys.private)
      >>> signature = Path(version.signature_uri(1)).rename(f"{root.name}/model.sig")
      >>> verify(version, 1, str(signature), trust, "model.sig").key_id in trust.key_ids
      True
      >>> model.write_bytes(b"another")
      7
      >>> verify(version, 1, str(signature), trust, "model.sig")
      Traceback (most recent call last):
      storage.keys.SignatureError: files differ from what was signed; changed: 1/saved_model.pb
      >>> root.cleanup()
    """
    provenance = Path(directory.provenance_uri(version))
    signature = provenance / SIGNATURE_FILE
    statement = {
        "model_name": directory.model_name,
        "version": version,
        "signed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        provenance.mkdir(parents=True, exist_ok=True)
        signature.unlink(missing_ok=True)
        (provenance / STATEMENT_FILE).write_text(json.dumps(statement, indent=2) + "\n")
        with signing_config(private_key, password_from) as config:
            config.set_hashing_config(_every_file()).sign(directory.uri, signature)
    except (OSError, ValueError) as error:
        raise SignatureError(f"{directory.uri} cannot be signed: {error}") from error


def verify(
    directory: ModelVersions, version: int, signature: str, trust: TrustStore, source: str
) -> Signed:
    """Checks that a version is, file by file, the one that was signed under this name and number.

    Args:
      directory: A local folder that nobody else can change, as `private_copy` makes it; holds this
        version and its provenance, and not the signature.
      version: Number of the version.
      signature: Path of the signature; nobody else can change it either.
      trust: Keys that may have signed.
      source: Where the signature came from, for messages.

    Returns:
      By which key it was signed, and when.

    Raises:
      SignatureError: If the signature is damaged, was made with another key or of another version,
        or a file was changed, added or removed since; the message names the file.
    """
    from cryptography.exceptions import InvalidSignature

    claims = _Claims.read(signature, source)
    pem = trust.find(claims.key_id)
    if pem is None:
        raise SignatureError(
            f"{source} was made with the key {_printable(short_id(claims.key_id))}, which is none "
            f"of those that are trusted: {trust}"
        )
    with model_signing_imports():
        from model_signing import verifying
    try:
        with in_memory(pem) as key, in_memory(claims.bundle) as bundle:
            config = verifying.Config().use_elliptic_key_verifier(public_key=key)
            config.set_hashing_config(_every_file()).verify(directory.uri, bundle)
    except InvalidSignature as error:
        raise SignatureError(f"{source} was itself changed since it was made") from error
    # A forged signature can have its parsing fail in any way: what does not verify is
    # refused.
    except Exception as error:
        reason = _other_version(directory, version, claims)
        raise SignatureError(
            f"{source} {reason}; {_SIGN_AGAIN}"
            if reason
            else _explain(directory.uri, claims.digests, error)
        ) from error
    statement = _read_statement(directory, version)
    if statement is None or statement[:2] != (directory.model_name, version):
        reason = _other_version(directory, version, claims) or "names no version"
        raise SignatureError(f"{source} {reason}; {_SIGN_AGAIN}")
    return Signed(claims.key_id, statement[2])


def _read_statement(directory: ModelVersions, version: int) -> tuple[str, int, str] | None:
    """Model, version and time of signing that a statement says; None if it says no such thing."""
    try:
        content = json.loads(Path(directory.provenance_uri(version), STATEMENT_FILE).read_bytes())
        name, number, time = content["model_name"], content["version"], content["signed"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(name, str) and type(number) is int and isinstance(time, str):
        return name, number, time
    return None


def _other_version(directory: ModelVersions, version: int, claims: _Claims) -> str:
    """What a signature seems to be of, if not of this version; "" if it seems to be."""
    if not any(os.path.basename(name) == STATEMENT_FILE for name in claims.digests):
        return "does not say of which version it was made, as older releases signed"
    statement = _read_statement(directory, version)
    if statement is None or statement[:2] == (directory.model_name, version):
        return ""
    name, number, _ = statement
    return _printable(
        f"is that of version {number} of {name}, not of version {version} of {directory.model_name}"
    )


def claimed_key(uri: str) -> str:
    """Id of the key that a signature says it was made with, which need not be true; "" for none."""
    try:
        return str(
            json.loads(read_file(uri, _MAX_SIGNATURE_BYTES))["verificationMaterial"]["publicKey"][
                "hint"
            ]
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


@dataclass(frozen=True)
class _Claims:
    """What a signature says, whether or not that is true.

    Attributes:
      key_id: SHA-256 of the PEM of the public key, hexadecimal.
      digests: SHA-256 of each file by its path, hexadecimal.
      bundle: The signature itself, in the one form that every parser reads alike.
    """

    key_id: str
    digests: Mapping[str, str]
    bundle: bytes

    @classmethod
    def read(cls, path: str, source: str) -> _Claims:
        """Reads a signature.

        Raises:
          SignatureError: If it is not one that `sign` makes, or it leaves files out.
        """
        try:
            if os.path.getsize(path) > _MAX_SIGNATURE_BYTES:
                raise ValueError(f"it is larger than {_MAX_SIGNATURE_BYTES >> 20} MiB")
            bundle = json.loads(Path(path).read_bytes())
            key_id = bundle["verificationMaterial"]["publicKey"]["hint"]
            statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
            predicate = statement["predicate"]
            digests = {str(file["name"]): file["digest"] for file in predicate["resources"]}
            if not isinstance(key_id, str) or not key_id:
                raise ValueError("it does not name its key")
            left_out = [str(path) for path in predicate["serialization"].get("ignore_paths", ())]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
            raise SignatureError(f"{source} is not the signature of a model: {e!r}") from e
        if left_out:
            raise SignatureError(f"{source} leaves files unsigned: {_list(left_out)}")
        return cls(key_id, digests, json.dumps(bundle).encode())


def _explain(folder: str, expected: Mapping[str, str], error: Exception) -> str:
    """Why a version does not verify, by name of the file where one is to blame."""
    try:
        found = {
            resource.identifier: resource.digest.digest_hex
            for resource in _every_file().hash(folder).resource_descriptors()
        }
    except (OSError, ValueError) as unreadable:
        return _printable(f"the version cannot be read: {unreadable}")
    common = found.keys() & expected.keys()
    differences = {
        "changed": [name for name in common if found[name] != expected[name]],
        "added": found.keys() - expected.keys(),
        "removed": expected.keys() - found.keys(),
    }
    parts = [f"{what}: {_list(names)}" for what, names in differences.items() if names]
    if parts:
        return f"files differ from what was signed; {'; '.join(parts)}"
    return f"the signature is not valid: {str(error) or type(error).__name__}"


def _printable(text: str) -> str:
    """The text, with whatever a terminal would act upon made visible."""
    return text if text.isprintable() else ascii(text)


def _list(names: Iterable[str]) -> str:
    ordered = sorted(map(_printable, names))
    more = len(ordered) - _NAMES_TO_SHOW
    return ", ".join(ordered[:_NAMES_TO_SHOW]) + (f" and {more} more" if more > 0 else "")


def _every_file() -> hashing.Config:
    """Has each file hashed; by default those of git are left out."""
    with model_signing_imports():
        from model_signing import hashing
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
