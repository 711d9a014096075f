"""Requests predictions, or explanations, for the rows of a file over the REST interface."""

from __future__ import annotations

import csv
import json
import math
import reprlib
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from serving.http_client import Client, ClientError, request
from storage.names import RAW_SIGNATURE
from storage.parquet import open_file

_BATCH = 500
_EXPLAINED_BATCH = 50

# Types of a column that an input of a dtype is filled with, and what stands for an absent value.
_TYPES = {
    "DT_FLOAT": (pa.float32(), math.nan),
    "DT_DOUBLE": (pa.float64(), math.nan),
    "DT_INT64": (pa.int64(), None),
    "DT_INT32": (pa.int32(), None),
    "DT_BOOL": (pa.bool_(), None),
    "DT_STRING": (pa.string(), ""),
}


# The signature that names the classes.
_CLASSIFY = "classify"
_SCORES = ("DT_FLOAT", "DT_DOUBLE")


@dataclass(frozen=True)
class _Tensor:
    """Dtype, and shape of one row, of an input or output."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> _Tensor:
        sizes = [int(dim["size"]) for dim in info.get("tensor_shape", {}).get("dim", ())][1:]
        return cls(info["dtype"], tuple(sizes) if min(sizes, default=1) > 0 else ())


def print_predictions(
    file: str,
    *,
    server: str,
    model: str,
    version: int | None = None,
    label: str | None = None,
    signature: str | None = None,
    rows: int | None = None,
    token: str = "",
    ca_file: str | None = None,
) -> None:
    """Prints the predictions for the rows of a file as CSV: the row's number, then each output.

    Of a model that has several classes, and names them by its signature `classify`, it prints the
    most probable class, and a column `<output>.<class>` for each.

    Args:
      file: A CSV or Parquet file.
      server: URL of the REST interface.
      model: Name of the model.
      version: Version that predicts; None for the live one.
      label: Label of the version that predicts.
      signature: Name of the signature; None for the first that the columns fit.
      rows: How many rows to read; None for all.
      token: Bearer token; empty for none.
      ca_file: Certificates to trust; None for the usual ones.

    Raises:
      ClientError: If the file does not fit the model, or the server does not respond.

    Example:
      With a server on this machine,
      `print_predictions("rows.csv", server="http://127.0.0.1:8501", model="taxi")` prints

          row,probability
          0,0.31
          1,0.72
    """
    with _open_rows(
        *(file, server, model, version, label, signature, rows, token, ca_file)
    ) as opened:
        writer = None
        for start, found in opened.batches("predict", _BATCH):
            outputs = found["outputs"]
            if not isinstance(outputs, dict):
                (output,) = opened.outputs
                outputs = {output: outputs}
            if opened.classes:
                outputs = _by_class(outputs, opened.wide, opened.classes)
            if writer is None:
                writer = csv.writer(sys.stdout)
                writer.writerow(["row", *outputs])
            for offset, values in enumerate(zip(*outputs.values(), strict=True)):
                writer.writerow([start + offset, *map(_flat, values)])


def print_explanations(
    file: str,
    *,
    server: str,
    model: str,
    version: int | None = None,
    label: str | None = None,
    rows: int | None = None,
    token: str = "",
    ca_file: str | None = None,
) -> None:
    """Prints the explanations of the predictions for the rows of a file, as CSV.

    A line has the row's number, the output, or the class where the model names them, its
    prediction, the base value, and the SHAP value of each feature. Base and SHAP values sum to the
    prediction.

    Args:
      file: A CSV or Parquet file.
      server: URL of the REST interface of an embedded server.
      model: Name of the model.
      version: Version that predicts; None for the live one.
      label: Label of the version that predicts.
      rows: How many rows to read; None for all.
      token: Bearer token; empty for none.
      ca_file: Certificates to trust; None for the usual ones.

    Raises:
      ClientError: If the file does not fit the model, the server does not respond, or it cannot
        explain the model.

    Example:
      With a server on this machine,
      `print_explanations("rows.csv", server="http://127.0.0.1:8501", model="taxi")` prints

          row,output,prediction,base_value,company,distance
          0,probability,0.31,0.25,0.02,0.04
    """
    with _open_rows(
        *(file, server, model, version, label, RAW_SIGNATURE, rows, token, ca_file)
    ) as opened:
        writer = None
        for start, found in opened.batches("explain", _EXPLAINED_BATCH):
            pairs = zip(found["outputs"], found["explanations"], strict=True)
            for row, (prediction, explanation) in enumerate(pairs, start):
                values, base = explanation["shap_values"], explanation["base_values"]
                if writer is None:
                    writer = csv.writer(sys.stdout)
                    writer.writerow(["row", "output", "prediction", "base_value", *values])
                predictions = prediction if isinstance(prediction, list) else [prediction]
                names = opened.classes or list(opened.outputs) * len(base)
                columns = zip(names, predictions, base, *values.values(), strict=True)
                writer.writerows([row, *column] for column in columns)


@dataclass(frozen=True)
class _Opened:
    """The rows of a file, and a signature that takes them.

    Attributes:
      client: A client of the server.
      url: Of the model.
      signature: Name of the signature.
      outputs: Its outputs.
      columns: Its inputs, each with a value for each row.
      wide: The output that has a number for each class; "" if there is none.
      classes: The names of the classes; none if they are not known.
    """

    client: Client
    url: str
    signature: str
    outputs: Mapping[str, Any]
    columns: Mapping[str, list[Any]]
    wide: str
    classes: Sequence[str]

    def batches(self, method: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Requests so many rows at a time; yields the number of the first, and the response."""
        for start in range(0, len(next(iter(self.columns.values()))), size):
            part = {key: values[start : start + size] for key, values in self.columns.items()}
            body = json.dumps({"signature_name": self.signature, "inputs": part})
            yield start, request(self.client, "POST", f"{self.url}:{method}", body)


@contextmanager
def _open_rows(
    file: str,
    server: str,
    model: str,
    version: int | None,
    label: str | None,
    signature: str | None,
    rows: int | None,
    token: str,
    ca_file: str | None,
) -> Iterator[_Opened]:
    """Reads the rows of a file as a model takes them; see `print_predictions`."""
    table = _read(file)
    url = f"{server.rstrip('/')}/v1/models/{quote(model, safe='')}"
    if version is not None:
        url += f"/versions/{version}"
    if label is not None:
        url += f"/labels/{quote(label, safe='')}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    trusted = ssl.create_default_context(cafile=ca_file)
    with Client(server, headers, trusted) as client:
        metadata = request(client, "GET", f"{url}/metadata")["metadata"]
        signatures = metadata["signature_def"]["signature_def"]
        name, inputs = _choose(signatures, table, signature)
        texts = [key for key, one in inputs.items() if one.dtype == "DT_STRING" or one.shape]
        table = _read(file, texts).slice(0, rows)
        columns = {key: _fill(table, key, one, file) for key, one in inputs.items()}
        wide, width = _wide_output(signatures[name]) or ("", 0)
        classes: list[str] = []
        if wide and table.num_rows:
            classes = _class_names(client, url, signatures, columns)
        classes = classes if len(classes) == width else []
        outputs = signatures[name]["outputs"]
        yield _Opened(client, url, name, outputs, columns, wide, classes)


def _read(file: str, texts: Sequence[str] = ()) -> pa.Table:
    """Reads the rows of a file; the columns `texts` stay strings."""
    suffix = Path(file).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ClientError(f"{file}: a .csv or .parquet file is expected")
    try:
        if suffix == ".parquet":
            return open_file(file).read()
        return pa_csv.read_csv(
            file,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string())),
        )
    except (pa.ArrowException, OSError) as error:
        raise ClientError(f"{file}: {error}") from error


def _choose(
    signatures: Mapping[str, Any], table: pa.Table, wanted: str | None
) -> tuple[str, dict[str, _Tensor]]:
    """A signature whose inputs are columns of a table, and its inputs."""
    if wanted is not None and wanted not in signatures:
        raise ClientError(f"there is no signature {wanted!r}: there are {', '.join(signatures)}")
    misses = []
    for name in [wanted] if wanted else sorted(signatures):
        inputs = {key: _Tensor.of(info) for key, info in signatures[name]["inputs"].items()}
        missing = sorted(inputs.keys() - set(table.column_names))
        if inputs and not missing:
            return name, inputs
        if inputs:  # Those without are for the loader.
            misses.append(f"{name} needs {', '.join(missing)}")
    raise ClientError(f"no signature fits the columns of the file: {'; '.join(misses)} besides")


def _fill(table: pa.Table, name: str, wanted: _Tensor, file: str) -> list[Any]:
    """The values of a column as an input takes them."""
    if wanted.dtype not in _TYPES:
        raise ClientError(
            f"the input {name} is of {wanted.dtype}; only {', '.join(_TYPES)} can be sent"
        )
    kind, absent = _TYPES[wanted.dtype]
    column = table[name]
    is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
    if math.prod(wanted.shape) > 1 or (wanted.shape and is_list):
        return _fill_vectors(column, name, kind, wanted.shape, file)
    try:
        column = pc.cast(column, kind)
    except pa.ArrowException as error:
        raise ClientError(f"{file}: column {name} is {table[name].type}: {error}") from error
    values: list[Any] = column.to_pylist()
    if absent is None and None in values:
        raise ClientError(f"{file}: column {name} is empty in row {values.index(None)}")
    filled = [absent if value is None else value for value in values]
    for _ in wanted.shape:
        filled = [[value] for value in filled]
    return filled


def _fill_vectors(
    column: pa.ChunkedArray, name: str, kind: pa.DataType, shape: tuple[int, ...], file: str
) -> list[Any]:
    """The lists of a column, or its texts that are JSON lists, each in the shape of the input."""
    rows = column.to_pylist()
    size = math.prod(shape)
    for number, row in enumerate(rows):
        try:
            values = json.loads(row) if isinstance(row, str) else row
            found = pa.array(values, kind, from_pandas=False).to_pylist()
        except (ValueError, TypeError, pa.ArrowException, RecursionError):
            found = []
        if len(found) != size or None in found:
            shown = reprlib.repr(row)
            raise ClientError(
                f"{file}: column {name} is {shown} in row {number}; a list of {size} values is "
                "expected"
            )
        for width in reversed(shape[1:]):
            found = [found[i : i + width] for i in range(0, len(found), width)]
        rows[number] = found
    return rows


def _wide_output(signature: Mapping[str, Any]) -> tuple[str, int] | None:
    """The output of a signature that has several numbers for a row, and how many, if it has one."""
    found = [(name, _Tensor.of(info)) for name, info in signature["outputs"].items()]
    wide = [
        (name, one.shape[0])
        for name, one in found
        if one.dtype in _SCORES and len(one.shape) == 1 and one.shape[0] > 1
    ]
    return wide[0] if len(wide) == 1 else None


def _class_names(
    client: Client, url: str, signatures: Mapping[str, Any], columns: Mapping[str, list[Any]]
) -> list[str]:
    """The names by which the model classifies the first row; none if it does not do that."""
    if {"classes", "scores"} != set(signatures.get(_CLASSIFY, {}).get("outputs", ())):
        return []
    first = {name: values[0] for name, values in columns.items()}
    example = {name: value for name, value in first.items() if value == value and value != ""}
    body = json.dumps({"signature_name": _CLASSIFY, "examples": [example]})
    try:
        (row,) = request(client, "POST", f"{url}:classify", body)["results"]
        return [str(name) for name, _ in row]
    except (ClientError, ValueError, KeyError, TypeError):
        return []  # Only the names are missing.


def _by_class(outputs: Mapping[str, Any], wide: str, classes: Sequence[str]) -> dict[str, Any]:
    """Outputs, with the most probable class and a column for each in place of the wide one."""
    found = {name: values for name, values in outputs.items() if name != wide}
    scores = outputs[wide]
    found["class"] = [classes[max(range(len(row)), key=row.__getitem__)] for row in scores]
    for place, name in enumerate(classes):
        found[f"{wide}.{name}"] = [row[place] for row in scores]
    return found


def _flat(value: Any) -> Any:
    """A list of one value as that value; a longer one, or bytes in base64, as JSON."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return json.dumps(value) if isinstance(value, list | dict) else value
