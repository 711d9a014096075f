"""The traffic policy of a model, for reading: how champion and challenger share the requests.

The policy is `.flightdeck/traffic.json`. The versions are those with the labels `champion` and
`challenger`. Where there is a policy, a request that names neither version nor label goes to the
champion, and none to a version for being the newest. As labels are, a policy is not signed: it
chooses among versions that are (docs/security.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from storage.names import CHALLENGER, CHAMPION, TRAFFIC_FILE
from storage.uris import NotAFileError, read_file

if TYPE_CHECKING:
    from storage.versions import ModelVersions

SPLIT, SHADOW, OFF = "split", "shadow", "off"
MODES = (SPLIT, SHADOW, OFF)

HEADER_PREFIX = "header:"
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")

_MOST_BYTES = 1 << 20
LONGEST_TEXT = 500
_LONGEST_KEY = 200
_MOST_NUMBER = 2**63 - 1

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class TakenOut:
    """Why a server takes a challenger out of the traffic until the policy changes.

    Attributes:
      version: The challenger.
      reason: What is wrong with it.
      time: When, in UTC (ISO 8601).
    """

    version: int
    reason: str
    time: str

    def __post_init__(self) -> None:
        _check_version("version", self.version)
        _check_text("reason", self.reason)
        _check_text("time", self.time)


@dataclass(frozen=True)
class TrafficChange:
    """A change of the policy, for people who ask later.

    Attributes:
      time: When, in UTC (ISO 8601).
      by: Who made it: a user, or a part of the system.
      what: What was done.
      champion: The version of that label afterwards; None if no version has it.
      challenger: The same.
    """

    time: str
    by: str
    what: str
    champion: int | None
    challenger: int | None

    def __post_init__(self) -> None:
        for name in ("time", "by", "what"):
            _check_text(name, getattr(self, name))
        for name in (CHAMPION, CHALLENGER):
            if getattr(self, name) is not None:
                _check_version(name, getattr(self, name))


@dataclass(frozen=True)
class TrafficPolicy:
    """How champion and challenger share the requests that name neither version nor label.

    Attributes:
      mode: `split`: each predicts for a share of the requests. `shadow`: the champion predicts for
        all, and the challenger too, but nobody waits for it. `off`: the champion predicts alone.
      challenger_percent: Share of the requests for which the challenger predicts, 0 to 100; 0
        unless the mode is `split`.
      key: What a request is assigned by in a split, so that one with the same value gets the same
        version: name of a feature, or of an HTTP header or an entry of gRPC's metadata, as
        `header:x-user`. None for chance.
      number: Counts the changes.
      taken_out: Set when a server took the challenger out.
      history: The newest changes, oldest first.

    Raises:
      ValueError: If a value is not allowed.

    Example:
      >>> TrafficPolicy("split", challenger_percent=10, key="user").describe()
      'champion 90%, challenger 10%, by the feature user'
      >>> TrafficPolicy("split", challenger_percent=110)
      Traceback (most recent call last):
      ValueError: challenger_percent is 110: a number from 0 to 100 is allowed
    """

    mode: str
    challenger_percent: float = 0.0
    key: str | None = None
    number: int = 0
    taken_out: TakenOut | None = None
    history: tuple[TrafficChange, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {_show(self.mode)}: {', '.join(MODES)} are allowed")
        percent = self.challenger_percent
        if type(percent) not in (int, float) or not 0 <= percent <= 100:
            raise ValueError(
                f"challenger_percent is {_show(percent)}: a number from 0 to 100 is allowed"
            )
        if percent and self.mode != SPLIT:
            raise ValueError(
                f"challenger_percent is {_show(percent)}: only the mode split has a share"
            )
        if self.key is not None:
            _check_key(self.key)
        if type(self.number) is not int or not 0 <= self.number <= _MOST_NUMBER:
            raise ValueError(f"number is {_show(self.number)}: 0 or a positive integer is allowed")

    @property
    def header(self) -> str | None:
        """The header or entry of the metadata that requests are assigned by; None for none."""
        if self.key is None or not self.key.startswith(HEADER_PREFIX):
            return None
        return self.key.removeprefix(HEADER_PREFIX)

    @property
    def feature(self) -> str | None:
        """The feature that requests are assigned by; None for none."""
        return None if self.header is not None else self.key

    def describe(self) -> str:
        """The policy in words."""
        if self.mode == OFF:
            return "off: the champion predicts alone"
        if self.mode == SHADOW:
            return "shadow: the champion predicts, and nobody waits for the challenger"
        percent = self.challenger_percent
        by = f"the feature {self.feature}"
        if self.key is None:
            by = "chance"
        elif self.header is not None:
            by = f"the header {self.header}"
        return f"champion {100 - percent:g}%, challenger {percent:g}%, by {by}"

    def gives_to_challenger(self, model: str, challenger: int, key: bytes) -> bool:
        """Whether a split gives requests with a key to the challenger.

        It is the same in every process and after a restart. A larger share keeps the keys of a
        smaller one. Another challenger gets other keys.

        Args:
          model: Name of the model.
          challenger: Version of the challenger.
          key: Value by which requests are assigned.
        """
        return key_place(model, challenger, key) < self.challenger_percent / 100


def key_place(model: str, challenger: int, key: bytes) -> float:
    """Where a key falls in [0, 1), evenly spread: its BLAKE2 hash as a fraction."""
    text = f"{model}\0{challenger}\0".encode(errors="surrogateescape") + key
    # 53 bits, so that the fraction is exact and below 1.
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 11) / 2**53


def parse_split(text: str) -> float:
    """The challenger's percentage in a split such as `champion=90,challenger=10`.

    Raises:
      ValueError: If it does not name the two, or is not 100% in all.

    Examples:
      >>> parse_split("champion=99.5,challenger=0.5")
      0.5
      >>> parse_split("champion=90,challenger=20")
      Traceback (most recent call last):
      ValueError: the split champion=90,challenger=20 is 110%, not 100%
    """
    shown = _show(text)[1:-1]
    shares: dict[str, Fraction] = {}
    for part in text.split(","):
        label, separator, number = (piece.strip() for piece in part.partition("="))
        if not separator or label not in (CHAMPION, CHALLENGER) or label in shares:
            raise ValueError(f"the split {shown} must be of the form {CHAMPION}=90,{CHALLENGER}=10")
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", number):
            raise ValueError(
                f"the share of the {label} is {_show(number)}: a number from 0 to 100 is allowed"
            )
        shares[label] = Fraction(number)
    if len(shares) < 2:
        raise ValueError(f"the split {shown} must name {CHAMPION} and {CHALLENGER}")
    if total := sum(shares.values()) - 100:
        raise ValueError(f"the split {shown} is {float(total + 100):g}%, not 100%")
    return float(shares[CHALLENGER])


def traffic_uri(directory: ModelVersions) -> str:
    """URI of the file of the policy."""
    return os.path.join(directory.home_uri, TRAFFIC_FILE)


def read_traffic(directory: ModelVersions) -> TrafficPolicy | None:
    """The traffic policy of a model; None if it has none.

    Raises:
      ValueError: If the file is not a policy; the message names the file and the field.
    """
    uri = traffic_uri(directory)
    try:
        return parse_traffic(read_file(uri, _MOST_BYTES))
    except FileNotFoundError:
        return None
    except (NotAFileError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{uri} is not a traffic policy: "
            f"{error or 'it is too deep'}; move it away, and set the traffic again"
        ) from error


def parse_traffic(content: bytes) -> TrafficPolicy:
    """The policy in a file.

    Raises:
      ValueError: If it is none.
      RecursionError: If it is too deep.
    """
    fields = json.loads(content, object_pairs_hook=_unique)
    if isinstance(fields, Mapping):
        fields = dict(fields)
        if fields.get("taken_out") is not None:
            fields["taken_out"] = _make(TakenOut, fields["taken_out"], "taken_out")
        history = fields.get("history", [])
        if not isinstance(history, list):
            raise ValueError("history must be a list")
        fields["history"] = tuple(_make(TrafficChange, one, "history") for one in history)
    return _make(TrafficPolicy, fields, "the policy")


def format_traffic(policy: TrafficPolicy) -> bytes:
    """The file of a policy; see `parse_traffic`."""
    return (json.dumps(dataclasses.asdict(policy), indent=1) + "\n").encode()


def _make(kind: Callable[..., _Record], fields: object, where: str) -> _Record:
    """A record of the fields in a JSON object.

    Raises:
      ValueError: If it is no object, has other fields, or a value is not allowed.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} must be a JSON object")
    try:
        return kind(**fields)
    except TypeError as error:
        known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        raise ValueError(f"{where} must have the fields {', '.join(known)}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _check_version(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= _MOST_NUMBER:
        raise ValueError(f"{name} is {_show(value)}: the number of a version is expected")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} is {_show(value)}: up to {LONGEST_TEXT} letters are allowed")


def _check_key(key: object) -> None:
    is_text = isinstance(key, str) and key.isprintable() and 0 < len(key) <= _LONGEST_KEY
    if not isinstance(key, str) or not is_text:
        raise ValueError(
            f"key is {_show(key)}: the name of a feature, or {HEADER_PREFIX}NAME, is allowed"
        )
    name = key.removeprefix(HEADER_PREFIX)
    if name != key and not _HEADER.fullmatch(name):
        raise ValueError(f"key is {_show(key)}: {name!r} is not the name of a header in lower case")


def _show(value: object) -> str:
    """A value for a message, cut."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
