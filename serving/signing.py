"""Signs versions of a model, and finds out whether a file of one was changed since.

A signature is what the `model-signing` package makes of an elliptic-curve key: a Sigstore bundle
that lists the SHA-256 of each file. Importing that package takes about a second, so the functions
here do it when they are called.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.directory import SIGNATURE_FILE, copy_tree, local_path, read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import hashing

PRIVATE_KEY_FILE = "signing.key"
PUBLIC_KEY_FILE = "signing.pub"

# The curves that signatures are made with: P-256, P-384 and P-521.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_NAMES_TO_SHOW = 5


class SignatureError(Exception):
    """A model cannot be signed, or is not what was signed."""


class KeyFileError(SignatureError):
    """The file of a key is missing, unreadable, no such key, or open to others."""


@dataclass(frozen=True)
class KeyPair:
    """Where a private key and its public key are."""

    private: str
    public: str


def default_public_key(serving_dir: str) -> str:
    """Path of the public key of versions in a Serving directory: `keys/signing.pub` beside it."""
    folder = os.path.dirname(local_path(serving_dir) or serving_dir.rstrip("/"))
    return os.path.join(folder, "keys", PUBLIC_KEY_FILE)


def ensure_key_pair(private_key: str) -> KeyPair:
    """Makes a key pair (P-256, PEM) where there is none.

    The public key lies beside the private one and ends in `.pub`. Processes that do this at the
    same time end up with the same pair.

    Args:
      private_key: Path of the private key.

    Returns:
      Where both keys are.

    Raises:
      KeyFileError: If the private key cannot be made or read, is open to others than its owner, or
        is not the one that belongs to the public key that is there.
    """
    public_key = os.path.splitext(private_key)[0] + ".pub"
    if private_key == public_key:
        raise KeyFileError(f"{private_key} is the name of a public key: name the private key")
    if not os.path.exists(private_key):
        if os.path.exists(public_key):
            raise KeyFileError(
                f"the private key {private_key} is missing, but its public key {public_key} is "
                "there: bring it back, or move the public key away to begin with a new pair"
            )
        _make_private_key(private_key)
    public_pem = _public_pem(_load_private_key(private_key).public_key())
    try:
        with open(public_key, "rb") as file:
            if _public_pem(_parse_public_key(file.read(), public_key)) != public_pem:
                raise KeyFileError(f"{public_key} is not the public key of {private_key}")
    except FileNotFoundError:
        _write_whole(public_key, public_pem, mode=0o644)
    except OSError as error:
        raise KeyFileError(f"{public_key} cannot be read: {error.strerror}") from error
    return KeyPair(private_key, public_key)


def sign(model_path: str, signature_path: str, private_key: str) -> None:
    """Signs each file of a model.

    Args:
      model_path: Local path of the folder of the model.
      signature_path: Local path of the file to write, outside of the model.
      private_key: Path of the private key, PEM, on the curve P-256, P-384 or P-521.

    Raises:
      KeyFileError: If the key cannot be used, or is open to others than its owner.
      SignatureError: If the model holds something else than files and folders.
    """
    _load_private_key(private_key)
    with _model_signing():
        from model_signing import signing
    config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    try:
        config.set_hashing_config(_every_file()).sign(model_path, signature_path)
    except (OSError, ValueError) as error:
        raise SignatureError(f"{model_path} cannot be signed: {error}") from error


def verify(model_uri: str, signature_uri: str, public_key: str) -> None:
    """Checks that a model is, file by file, the one that was signed.

    Args:
      model_uri: Folder of the model; one in an object store is copied first.
      signature_uri: Its signature.
      public_key: Path of the public key of whoever signed it, PEM.

    Raises:
      KeyFileError: If the public key cannot be read.
      SignatureError: If there is no signature, it was made with another key or is damaged, or a
        file was changed, added or removed since; the message names the file.
    """
    from cryptography.exceptions import InvalidSignature

    key = _load_public_key(public_key)
    with tempfile.TemporaryDirectory() as work:
        model = local_path(model_uri)
        signature_path = os.path.join(work, SIGNATURE_FILE)
        signature = _Signature.copy(signature_uri, signature_path)
        if model is None:
            model = os.path.join(work, "model")
            copy_tree(model_uri, model)
        with _model_signing():
            from model_signing import verifying
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        try:
            config.set_hashing_config(_every_file()).verify(model, signature_path)
        except InvalidSignature as error:
            raise SignatureError(f"{signature_uri} was itself changed since it was made") from error
        # Whoever can write a signature can have its parsing fail in any way: what does not verify
        # is refused.
        except Exception as error:
            if signature.key_hash != hashlib.sha256(_public_pem(key)).hexdigest():
                reason = f"{signature_uri} was made with another key than that of {public_key}"
            else:
                reason = _explain(model, signature.digests, error)
            raise SignatureError(reason) from error


@dataclass(frozen=True)
class _Signature:
    """What a signature says, whether or not that is true.

    Attributes:
      key_hash: SHA-256 of the PEM of the public key, hexadecimal.
      digests: SHA-256 of each file by its path in the model, hexadecimal.
    """

    key_hash: str
    digests: Mapping[str, str]

    @classmethod
    def copy(cls, uri: str, path: str) -> _Signature:
        """Reads a signature, and copies it to a local path, where nobody changes it meanwhile.

        Raises:
          SignatureError: If there is none, it is not one that `sign` makes, or it leaves files out.
        """
        try:
            content = read_file(uri)
            bundle = json.loads(content)
            key_hash = bundle["verificationMaterial"]["publicKey"]["hint"]
            statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
            predicate = statement["predicate"]
            digests = {str(file["name"]): file["digest"] for file in predicate["resources"]}
            if not isinstance(key_hash, str) or not key_hash:
                raise ValueError("it does not name its key")
            left_out = [str(path) for path in predicate["serialization"].get("ignore_paths", ())]
        except FileNotFoundError:
            raise SignatureError(f"there is no signature {uri}") from None
        except OSError as error:
            raise SignatureError(f"{uri} cannot be read: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SignatureError(f"{uri} is not the signature of a model: {error!r}") from error
        if left_out:
            raise SignatureError(f"{uri} leaves files unsigned: {_list(left_out)}")
        with open(path, "wb") as file:
            file.write(content)
        return cls(key_hash, digests)


def _explain(model: str, expected: Mapping[str, str], error: Exception) -> str:
    """Why a model does not verify, by name of the file where one is to blame."""
    try:
        found = {
            resource.identifier: resource.digest.digest_hex
            for resource in _every_file().hash(model).resource_descriptors()
        }
    except (OSError, ValueError) as unreadable:
        return _printable(f"the model cannot be read: {unreadable}")
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


@contextlib.contextmanager
def _model_signing() -> Iterator[None]:
    """For importing `model_signing`: it brings google.auth, which warns of grpcio's version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grpcio <", FutureWarning)
        yield


def _every_file() -> hashing.Config:
    """Has each file hashed; by default those of git are left out."""
    with _model_signing():
        from model_signing import hashing
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _make_private_key(path: str) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_whole(path, pem, mode=0o600, replace=False)


def _write_whole(path: str, content: bytes, *, mode: int, replace: bool = True) -> None:
    """Writes the file of a key, so that nobody ever sees a part of it.

    Args:
      path: The file.
      content: What is to be in it.
      mode: Its mode.
      replace: Whether a file that is there by now, made by a faster process, is replaced.

    Raises:
      KeyFileError: If it cannot be written.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)  # Mode 0600.
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            if replace:
                os.replace(part, path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(part, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(part)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error


def _load_private_key(path: str) -> ec.EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise KeyFileError(f"the private key {path} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(
            f"the private key {path} has mode {mode:04o}, so that others can use it; "
            f"allow its owner alone: chmod 600 {path}"
        )
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise KeyFileError(
            f"the private key {path} has a password; one without is needed"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _wrong_kind(key, path)
    return key


def _load_public_key(path: str) -> ec.EllipticCurvePublicKey:
    try:
        with open(path, "rb") as file:
            return _parse_public_key(file.read(), path)
    except OSError as error:
        raise KeyFileError(f"the public key {path} cannot be read: {error.strerror}") from error


def _parse_public_key(content: bytes, path: str) -> ec.EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no public key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise _wrong_kind(key, path)
    return key


def _wrong_kind(key: Any, path: str) -> KeyFileError:
    found = f"on the curve {key.curve.name}" if hasattr(key, "curve") else type(key).__name__
    return KeyFileError(
        f"{path} holds a key {found}; elliptic-curve keys on {', '.join(_CURVES)} are allowed"
    )


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem
