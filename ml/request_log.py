"""Reads the request log of a model server: rows of tf.Examples, in files by model.

The format is that of the embedded server (docs/serving.md): the features of the request, and
`prediction.<output>`, `request.time` and `request.version`. Encrypted files are decrypted in
memory, one at a time.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import tensorflow as tf
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from ml.examples import first_values
from ml.vectors import pack
from storage.encryption import decrypt, key_of
from storage.encryption_keys import EncryptionError, Keys
from storage.errors import DataError
from storage.memory import in_memory
from storage.names import REQUEST_LOG_SUFFIX, SHADOW_FEATURE, TIME_FEATURE, VERSION_FEATURE
from storage.tfrecords import read_records

_BATCH = 8192
_PART_BYTES = 1 << 20
_MICROSECONDS = 1_000_000
_DAY = 24 * 60 * 60
# Monday, 5 January 1970, so that periods of 7 days are weeks.
_FIRST_PERIOD = 4 * _DAY
# The server closes a file after an hour: older requests are all in the log.
_SETTLED = 60 * 60


@dataclass(frozen=True)
class Period:
    """A period of time.

    Attributes:
      since: Start, in seconds since the Unix epoch.
      until: End, exclusive.
    """

    since: int
    until: int

    @property
    def previous(self) -> Period:
        """The period of the same length before it."""
        return Period(2 * self.since - self.until, self.since)

    def __str__(self) -> str:
        return f"{show_time(self.since)} to {show_time(self.until)}"


@dataclass(frozen=True)
class Survey:
    """The requests of a period in a log.

    Attributes:
      period: The period.
      versions: Number of rows by version, most first.
    """

    period: Period
    versions: dict[int, int]


def show_time(seconds: int) -> str:
    """Formats a time in UTC: as a date if it is midnight, else with the time of day."""
    shown = datetime.fromtimestamp(seconds, UTC)
    return f"{shown:%Y-%m-%d}" if seconds % _DAY == 0 else f"{shown:%Y-%m-%dT%H:%M:%S}Z"


def survey(
    uri: str,
    model: str,
    *,
    since: int | None,
    until: int | None,
    days: int,
    now: float,
    keys: Keys | None = None,
) -> Survey:
    """Chooses a period, and counts its rows.

    Predictions that nobody waited for (a shadow's) do not count, unless there are no others.

    Args:
      uri: Directory of the log, with a folder for each model.
      model: Name of the model.
      since: Start of the period, in seconds since the Unix epoch; None for `days` before `until`.
      until: End of the period; None for `days` after `since`. If both are None, the period is the
        newest complete one with requests, of the consecutive periods from a Monday in 1970 on: with
        7 days the weeks, Monday to Sunday in UTC.
      days: Length of the period unless both are given.
      now: The time, seconds since the epoch.
      keys: Keys of an encrypted log.

    Returns:
      The period and its rows.

    Raises:
      DataError: If there is no log, it cannot be read, or it has no request in the period.
    """
    rows = pd.concat(read(uri, model, {SHADOW_FEATURE: schema_pb2.INT}, keys), ignore_index=True)
    if (answered := rows[SHADOW_FEATURE] != 1).any():
        rows = rows[answered]
    seconds = rows[TIME_FEATURE] // _MICROSECONDS
    period = _choose_period(seconds, since, until, days, now)
    if period is None:
        last = show_time(int(seconds.max()))
        raise DataError(
            f"the request log {uri} has no complete period of {days} day(s) yet; its newest "
            f"request to {model} is of {last}: name a period by --since and --until"
        )
    chosen = rows.loc[within(rows, period), VERSION_FEATURE]
    if chosen.empty:
        first, last = show_time(int(seconds.min())), show_time(int(seconds.max()))
        raise DataError(
            f"the request log {uri} has no request to {model} of {period}; it has {len(rows):,}, "
            f"of {first} to {last}"
        )
    counts = chosen.value_counts()
    return Survey(period, {int(version): int(count) for version, count in counts.items()})


def busiest(versions: Mapping[int, int], served: Sequence[int], serving_dir: str) -> int:
    """Chooses the version with the most requests of those in the Serving directory.

    Args:
      versions: Number of requests by version.
      served: The versions in the Serving directory.
      serving_dir: URI of the Serving directory, for the message.

    Raises:
      DataError: If none of them is in the Serving directory.
    """
    known = [version for version in versions if version in served]
    if not known:
        log, there = (", ".join(map(str, sorted(some))) for some in (versions, served))
        raise DataError(
            f"the requests were to version {log}, but {serving_dir} has {there or 'none'}: the "
            "training statistics of the version are missing"
        )
    return max(known, key=lambda version: versions[version])


def _choose_period(
    seconds: pd.Series, since: int | None, until: int | None, days: int, now: float
) -> Period | None:
    length = days * _DAY
    if since is not None:
        return Period(since, since + length if until is None else until)
    if until is not None:
        return Period(until - length, until)
    complete = int(now - _SETTLED - _FIRST_PERIOD) // length * length + _FIRST_PERIOD
    old = seconds[seconds < complete]
    if old.empty:
        return None
    begin = int(old.max() - _FIRST_PERIOD) // length * length + _FIRST_PERIOD
    return Period(begin, begin + length)


def read(
    uri: str,
    model: str,
    types: dict[str, int],
    keys: Keys | None = None,
    widths: Mapping[str, int] | None = None,
) -> Iterator[pd.DataFrame]:
    """Reads the rows of a model in batches.

    Args:
      uri: Directory of the log.
      model: Name of the model.
      types: TFMD type of each feature to read, besides time and version.
      keys: Keys of an encrypted log.
      widths: Number of values of features that have several.

    Yields:
      A column for each feature, with its first value (NaN or None if it is absent, NaN or ""), or
      of one that has several the packed vector (see `ml.vectors`; None if it has another number of
      values), and columns for the time in microseconds since the epoch and the version.

    Raises:
      DataError: If there is no log, a file is truncated or of another kind, or a key is missing.
    """
    kinds = {TIME_FEATURE: schema_pb2.INT, VERSION_FEATURE: schema_pb2.INT, **types}
    features = [schema_pb2.Feature(name=name, type=kind) for name, kind in kinds.items()]
    decoder = example_coder.ExamplesToRecordBatchDecoder(
        schema_pb2.Schema(feature=features).SerializeToString()
    )
    for path in _files(uri, model):
        for records in _read_records(path, keys):
            try:
                batch = decoder.DecodeBatch(records)
            except Exception as error:  # The decoder may raise anything.
                reason = str(error).splitlines()[0]
                raise DataError(f"{path} is not a file of a request log: {reason}") from error
            yield _to_frame(path, batch, kinds, widths or {})


def count_features(uri: str, model: str, keys: Keys | None = None) -> Counter[str]:
    """Counts the rows with each feature, in the first batch of the log's newest file."""
    *_, newest = _files(uri, model)
    counts: Counter[str] = Counter()
    for record in next(_read_records(newest, keys), []):
        counts.update(tf.train.Example.FromString(record).features.feature.keys())
    return counts


def _files(uri: str, model: str) -> list[str]:
    gfile = tf.io.gfile
    if not gfile.isdir(uri):
        raise DataError(f"there is no request log {uri}; a server writes one with --request-log")
    folder = os.path.join(uri, model)
    names = sorted(gfile.listdir(folder)) if gfile.isdir(folder) else []
    files = [os.path.join(folder, name) for name in names if name.endswith(REQUEST_LOG_SUFFIX)]
    if not files:
        models = sorted(
            name.rstrip("/") for name in gfile.listdir(uri) if gfile.isdir(os.path.join(uri, name))
        )
        of = f"; it has folders of {', '.join(models)}" if models else ""
        raise DataError(f"the request log {uri} has no file {model}/*{REQUEST_LOG_SUFFIX}{of}")
    return files


def _read_records(path: str, keys: Keys | None) -> Iterator[list[bytes]]:
    with _decrypted(path, keys) as readable:
        _check_whole(readable, path)
        batches = read_records(readable).batch(_BATCH).as_numpy_iterator()
        while True:
            try:
                records = next(batches, None)
            except tf.errors.OpError as error:
                raise _unreadable(path, error.message) from error
            if records is None:
                return
            yield list(records)


@contextlib.contextmanager
def _decrypted(path: str, keys: Keys | None) -> Iterator[str]:
    """Yields a path under which a file can be read decrypted."""
    with contextlib.ExitStack() as stack:
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                if key_of(file.read(128)) is not None:
                    file.seek(0)
                    name = "/".join(path.rsplit("/", 2)[-2:])
                    content = b"".join(decrypt(file, name, keys))
                    path = stack.enter_context(in_memory(content))
        except EncryptionError as error:
            raise DataError(f"the request log cannot be read: {error}") from error
        except tf.errors.OpError as error:
            raise _unreadable(path, error.message) from error
        yield path


def _check_whole(readable: str, path: str) -> None:
    """Reads a gzip file to its end: TensorFlow accepts one truncated between two records."""
    size = 0
    try:
        with tf.io.gfile.GFile(readable, "rb") as file, gzip.open(file) as content:
            while part := content.read(_PART_BYTES):
                size += len(part)
    except (OSError, EOFError, zlib.error, tf.errors.OpError) as error:
        raise _unreadable(path, str(error)) from error
    if not size:
        raise _unreadable(path, "it is empty")


def _unreadable(path: str, reason: str) -> DataError:
    return DataError(
        f"{path} is truncated or not a file of a request log ({reason.splitlines()[0]}): "
        "repair or remove it"
    )


def _to_frame(
    path: str, batch: pa.RecordBatch, kinds: dict[str, int], widths: Mapping[str, int]
) -> pd.DataFrame:
    table = pa.Table.from_batches([batch])
    rows = pd.DataFrame(
        {
            name: pack(table[name], widths[name], kinds[name])
            if name in widths
            else first_values(table[name])
            for name in table.column_names
        }
    )
    if rows[[TIME_FEATURE, VERSION_FEATURE]].isna().to_numpy().any():
        raise DataError(
            f"{path} is not a file of a request log: it has rows without {TIME_FEATURE} or "
            f"{VERSION_FEATURE}"
        )
    for name in (name for name, kind in kinds.items() if kind == schema_pb2.BYTES):
        rows[name] = rows[name].where(rows[name] != b"", None)
    return rows.astype({TIME_FEATURE: "int64", VERSION_FEATURE: "int64"})


def within(rows: pd.DataFrame, period: Period) -> pd.Series:
    """Which rows are within a period."""
    seconds = rows[TIME_FEATURE] // _MICROSECONDS
    return (seconds >= period.since) & (seconds < period.until)


def features_of(schema: schema_pb2.Schema, names: Sequence[str]) -> dict[str, int]:
    """The TFMD type of each of some features.

    Raises:
      DataError: If the schema does not have one of them.
    """
    types = {feature.name: feature.type for feature in schema.feature}
    if unknown := [name for name in names if name not in types]:
        raise DataError(f"the schema has no feature {', '.join(unknown)}")
    return {name: types[name] for name in names}
