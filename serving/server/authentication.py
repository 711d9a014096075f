"""Authentication by bearer tokens, each with the models and methods that it allows.

Both protocols authenticate here. The files are read at the start, and again on SIGHUP.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import grpc
from pydantic import BaseModel, Field, ValidationError

from serving.server.errors import ServingError
from serving.server.logs import log_event
from serving.server.metrics import ServerMetrics
from storage.protected import read_protected, read_token

Method = Literal["predict", "explain", "classify", "regress", "metadata", "status", "metrics"]
_METHODS: frozenset[str] = frozenset(get_args(Method))
_OF_ALL_MODELS = "metrics"

# A client that tries tokens must not fill the disk that the log is on.
_LOG_SECONDS = 10.0


@dataclass(frozen=True)
class Grant:
    """What a client may use.

    Attributes:
      client: Name of its token, for the log.
      models: Names of the models; None for all.
      methods: Methods, as `Call` has them.
    """

    client: str = ""
    models: frozenset[str] | None = None
    methods: frozenset[str] = _METHODS

    def check(self, method: str, model: str | None = None) -> None:
        """Refuses what the client may not use.

        Args:
          method: The method.
          model: The model; None if it is not known yet, or all are meant.

        Raises:
          ServingError: PERMISSION_DENIED.
        """
        allowed = self.models is None or model is None or model in self.models
        if method not in self.methods or not allowed:
            what = method if model is None else f"{method} of model {model}"
            raise ServingError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the token {self.client!r} does not allow {what}",
            )


NOTHING = Grant(models=frozenset(), methods=frozenset())


class UnauthenticatedError(ServingError):
    """A request that brings no token that is known.

    Attributes:
      reason: "missing", "several" or "wrong".
    """

    def __init__(self, reason: Literal["missing", "several", "wrong"]):
        message = "a bearer token is required"
        if reason == "several":
            message += ", in one authorization header alone"
        super().__init__(grpc.StatusCode.UNAUTHENTICATED, message)
        self.reason = reason


class Authenticator:
    """Knows the tokens that requests have to bring.

    Args:
      token_file: File of a token that allows everything; empty for none.
      tokens_file: TOML file of the SHA-256 of tokens and what each allows; empty for none. Without
        either file, every request is served.
      metrics: Where refusals are counted.

    Raises:
      OSError: If a file cannot be read, or others can read or write it who must not.
      ValueError: If it does not hold what it should.
    """

    def __init__(self, token_file: str, tokens_file: str, metrics: ServerMetrics):
        self._token_file = token_file
        self._tokens_file = tokens_file
        self._metrics = metrics
        self._grants: Mapping[bytes, Grant] = {}
        self._next_line = 0.0
        self._unlogged = 0
        self.reload()

    @property
    def is_needed(self) -> bool:
        """Whether requests have to bring a token."""
        return bool(self._token_file or self._tokens_file)

    def reload(self) -> None:
        """Reads the files again; the tokens from before stay if that fails.

        Raises:
          OSError: As the constructor.
          ValueError: As the constructor.
        """
        grants = read_tokens(self._tokens_file) if self._tokens_file else {}
        if self._token_file:
            grants[_digest(read_token(self._token_file))] = Grant()
        self._grants = grants

    def authenticate(self, headers: Sequence[str | bytes]) -> Grant:
        """What a request may use.

        Args:
          headers: The values of all of its authorization headers.

        Raises:
          UnauthenticatedError: If it has to bring a token, and does not.
        """
        if not self.is_needed:
            return Grant()
        if len(headers) > 1:
            raise UnauthenticatedError("several")
        header = headers[0] if headers else b""
        if isinstance(header, str):
            header = header.encode(errors="surrogateescape")
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise UnauthenticatedError("missing")
        given = _digest(token.strip())
        found = None
        for digest, grant in self._grants.items():  # All of them, however early one fits.
            if hmac.compare_digest(digest, given):
                found = grant
        if found is None:
            raise UnauthenticatedError("wrong")
        return found

    def record(self, error: UnauthenticatedError, protocol: str, peer: str) -> None:
        """Counts a refused request, and logs it unless another one just was."""
        self._metrics.unauthenticated.labels(protocol, error.reason).inc()
        now = time.monotonic()
        if now < self._next_line:
            self._unlogged += 1
            return
        log_event(
            "unauthenticated",
            logging.WARNING,
            protocol=protocol,
            peer=peer,
            reason=error.reason,
            unlogged_before=self._unlogged,
        )
        self._next_line, self._unlogged = now + _LOG_SECONDS, 0


class _Token(BaseModel, extra="forbid"):
    name: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    models: frozenset[str] | None = None
    methods: frozenset[Method] | None = None


class _Tokens(BaseModel, extra="forbid"):
    token: Annotated[list[_Token], Field(min_length=1)]


def read_tokens(path: str) -> dict[bytes, Grant]:
    """What each token of a file allows, by its SHA-256.

    Raises:
      OSError: If the file cannot be read, or more than its owner can write it.
      ValueError: If it is not of the form that docs/serving.md shows.
    """
    try:
        content = tomllib.loads(read_protected(path, secret=False).decode("utf-8-sig"))
        tokens = _Tokens.model_validate(content).token
    except ValidationError as error:
        # What was given is not repeated: it may be a token.
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from None
    except ValueError as error:  # No text, or no TOML.
        raise ValueError(f"{path}: {error}") from None
    grants: dict[bytes, Grant] = {}
    for one in tokens:
        if one.models is not None and _OF_ALL_MODELS in (one.methods or ()):
            raise ValueError(
                f"{path}: the token {one.name!r} has the method {_OF_ALL_MODELS}, which tells of "
                "all models: leave out its models, or the method"
            )
        methods: frozenset[str] = one.methods if one.methods is not None else _METHODS
        if one.models is not None:
            methods -= {_OF_ALL_MODELS}
        digest = bytes.fromhex(one.sha256)
        if digest in grants or one.name in {grant.client for grant in grants.values()}:
            raise ValueError(f"{path}: the token {one.name!r} is there twice")
        grants[digest] = Grant(one.name, one.models, methods)
    return grants


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
