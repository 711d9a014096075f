"""Keys of signatures: private ones that sign versions, and public ones that a server trusts.

A key is an elliptic-curve key in PEM form. Where a private key or its password is may be said as
the path of a file, as `env:NAME` for an environment variable, or as `fd:NUMBER` for a file
descriptor; the secret itself is never an argument. A private key that a hardware module keeps is
named by its PKCS #11 URI (`pkcs11:...`). Importing `cryptography` takes a while, so the functions
here do it when they are called.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.atomic_write import whole_file
from storage.memory import in_memory
from storage.uris import local_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

PRIVATE_KEY_FILE = "signing.key"

# The curves that signatures are made with: P-256, P-384 and P-521.
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_PKCS11 = "pkcs11:"
_SHOWN = 16


class SignatureError(Exception):
    """A version cannot be signed, or is not what was signed."""


class KeyFileError(SignatureError):
    """A key is missing, unreadable, no such key, or open to others."""


@dataclass(frozen=True)
class KeyPair:
    """Where a private key and its public key are."""

    private: str
    public: str


class TrustStore:
    """The public keys of those who may sign versions.

    They are read once, so that replacing a file swaps no trust while a process runs; `reload`
    reads them again. Several keys may sign at a time, so that a key can be replaced without signing
    every version again.

    Args:
      paths: Files of public keys (PEM), and folders of them (`*.pub`).

    Raises:
      KeyFileError: If there is no key, or one cannot be read, or anybody could replace it.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)
        self._keys: Mapping[str, bytes] = {}
        self.reload()

    @property
    def key_ids(self) -> list[str]:
        """The ids of the keys: each the SHA-256 of its PEM, as a signature names its key."""
        return list(self._keys)

    def find(self, key_id: str) -> bytes | None:
        """The PEM of a key that is trusted, or None."""
        return self._keys.get(key_id)

    def reload(self) -> None:
        """Reads the keys again; those that were trusted before stay if that fails.

        Raises:
          KeyFileError: As the constructor.
        """
        keys = {}
        for path in self.paths:
            for file in _public_key_files(path):
                pem = _parse_public_key(_read_public(file), file)
                keys[hashlib.sha256(pem).hexdigest()] = pem
        if not keys:
            raise KeyFileError(f"{', '.join(self.paths)}: no file there ends in .pub")
        self._keys = keys

    def __str__(self) -> str:
        return ", ".join(map(short_id, self._keys))


def short_id(key_id: str) -> str:
    """As much of the id of a key as a person compares."""
    return key_id[:_SHOWN]


def default_trust(serving_dir: str) -> str:
    """Where the public keys for a Serving directory are by default: the folder `keys` beside it."""
    folder = os.path.dirname(local_path(serving_dir) or serving_dir.rstrip("/"))
    return os.path.join(folder, "keys")


def is_file(private_key: str) -> bool:
    """Whether a private key is named by the path of its file."""
    return not private_key.startswith(("env:", "fd:", _PKCS11))


def public_key_of(private_key: str) -> str:
    """Path of the public key that belongs to the file of a private one."""
    return os.path.splitext(private_key)[0] + ".pub"


def ensure_key_pair(private_key: str, password_from: str = "") -> KeyPair:
    """Makes a key pair (P-256, PEM) where there is none.

    The public key lies beside the private one and ends in `.pub`. Processes that do this at the
    same time end up with the same pair.

    Args:
      private_key: Path of the private key.
      password_from: Where its password is; "" for none.

    Returns:
      Where both keys are.

    Raises:
      KeyFileError: If the private key cannot be made or read, is open to others than its owner, or
        is not the one that belongs to the public key that is there.
    """
    public_key = public_key_of(private_key)
    if private_key == public_key:
        raise KeyFileError(f"{private_key} is the name of a public key: name the private key")
    password = read_password(password_from)
    if not os.path.exists(private_key):
        if os.path.exists(public_key):
            raise KeyFileError(
                f"the private key {private_key} is missing, but its public key {public_key} is "
                "there: bring it back, or move the public key away to begin with a new pair"
            )
        _make_private_key(private_key, password)
    pem = _public_pem(_parse_private_key(_read_secret(private_key), password, private_key))
    try:
        found = Path(public_key).read_bytes()
    except FileNotFoundError:
        _write(public_key, pem, mode=0o644)
    except OSError as error:
        raise KeyFileError(f"{public_key} cannot be read: {error.strerror}") from error
    else:
        if _parse_public_key(found, public_key) != pem:
            raise KeyFileError(f"{public_key} is not the public key of {private_key}")
    return KeyPair(private_key, public_key)


def read_password(source: str) -> bytes | None:
    """The password of a private key; None for a key without.

    Args:
      source: `env:NAME`, `fd:NUMBER`, or the path of a file that its owner alone can read; "" for
        none. A line end after it is no part of it.

    Raises:
      KeyFileError: If there is none.
    """
    if not source:
        return None
    password = _read_secret(source).rstrip(b"\r\n")
    if not password:
        raise KeyFileError(f"there is no password in {source}: it is empty")
    return password


@contextlib.contextmanager
def signing_config(private_key: str, password_from: str = "") -> Iterator[Any]:
    """What `model_signing` signs with, while the private key is at hand.

    Args:
      private_key: Path of the private key, `env:NAME`, `fd:NUMBER`, or a PKCS #11 URI.
      password_from: Where its password is; "" for none.

    Raises:
      KeyFileError: If the key cannot be used.
    """
    with model_signing_imports():
        from model_signing import signing
    config = signing.Config()
    if private_key.startswith(_PKCS11):
        yield _use_hardware(config, private_key)
        return
    # Read once: what was looked at is what signs.
    content, password = _read_secret(private_key), read_password(password_from)
    _parse_private_key(content, password, private_key)
    with in_memory(content) as path:
        # It wants bytes, whatever its type hint says: `cryptography` takes no other password.
        yield config.use_elliptic_key_signer(private_key=path, password=password)  # type: ignore[arg-type]


def _use_hardware(config: Any, uri: str) -> Any:
    if "pin-value" in uri:
        raise KeyFileError(
            "a PKCS #11 URI with pin-value shows the PIN to everybody: have it read from a file "
            "with pin-source"
        )
    try:
        return config.use_pkcs11_signer(pkcs11_uri=uri)
    except Exception as error:  # The module's own, or that model_signing lacks its extra.
        raise KeyFileError(f"the key {uri} cannot be used: {error}") from error


@contextlib.contextmanager
def model_signing_imports() -> Iterator[None]:
    """For importing `model_signing`: it brings google.auth, which warns of grpcio's version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grpcio <", FutureWarning)
        yield


def _read_secret(source: str) -> bytes:
    """What is in the file, variable or descriptor of a secret."""
    kind, separator, name = source.partition(":")
    try:
        if separator and kind == "env":
            if name not in os.environ:
                raise KeyFileError(f"the environment variable {name} is not set")
            return os.environb[os.fsencode(name)]
        if separator and kind == "fd":
            if not (name.isascii() and name.isdigit()):
                raise KeyFileError(f"{source} names no file descriptor: fd:NUMBER is expected")
            with open(int(name), "rb", closefd=False) as file:
                return file.read()
        with open(source, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise KeyFileError(f"{source} cannot be read: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(
            f"{source} has mode {mode:04o}, so that others can use what is in it; "
            f"allow its owner alone: chmod 600 {source}"
        )
    return content


def _parse_private_key(
    content: bytes, password: bytes | None, source: str
) -> ec.EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(content, password)
    except TypeError:
        reason = "has no password" if password else "has a password: say where it is"
        raise KeyFileError(f"the private key {source} {reason}") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = " or its password is another one" if password else ""
        raise KeyFileError(f"{source} is no private key in PEM form{reason}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _wrong_kind(key, source)
    return key


def _public_key_files(path: str) -> list[str]:
    """The files that a path names: itself, or those of a folder that end in `.pub`.

    Raises:
      KeyFileError: If it is not there, or everybody may replace it.
    """
    try:
        _refuse_writable(path)
        if not os.path.isdir(path):
            return [path]
        files = [os.path.join(path, n) for n in sorted(os.listdir(path)) if n.endswith(".pub")]
        for file in files:
            _refuse_writable(file)
    except OSError as error:
        raise KeyFileError(f"the public key {path} cannot be read: {error.strerror}") from error
    return files


def _read_public(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise KeyFileError(f"the public key {path} cannot be read: {error.strerror}") from error


def _refuse_writable(path: str) -> None:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o002 and os.access(path, os.W_OK):  # Not so where it is mounted to be read only.
        raise KeyFileError(
            f"{path} has mode {mode:04o}, so that anybody can replace a public key: "
            f"chmod o-w {path}"
        )


def _parse_public_key(content: bytes, path: str) -> bytes:
    """The PEM of a public key, in the one form that is hashed to its id."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no public key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise _wrong_kind(key, path)
    return _pem(key)


def _wrong_kind(key: Any, path: str) -> KeyFileError:
    found = f"on the curve {key.curve.name}" if hasattr(key, "curve") else type(key).__name__
    return KeyFileError(
        f"{path} holds a key {found}; elliptic-curve keys on {', '.join(_CURVES)} are allowed"
    )


def _public_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return _pem(private.public_key())


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def _make_private_key(path: str, password: bytes | None) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )
    _write(path, pem, mode=0o600, replace=False)


def _write(path: str, pem: bytes, *, mode: int, replace: bool = True) -> None:
    """Writes the file of a key.

    Raises:
      KeyFileError: If it cannot be written.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with whole_file(path, mode=mode, replace=replace) as file:
            file.write(pem)
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from error
