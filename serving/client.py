"""Requests predictions for the rows of a file, over TensorFlow Serving's REST interface."""

from __future__ import annotations

import csv
import ipaddress
import json
import math
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from storage.parquet import open_file

_BATCH = 500
_SECONDS = 60.0

# Types of a column that an input of a dtype is filled with, and what stands for an absent value.
_TYPES = {
    "DT_FLOAT": (pa.float32(), math.nan),
    "DT_DOUBLE": (pa.float64(), math.nan),
    "DT_INT64": (pa.int64(), None),
    "DT_INT32": (pa.int32(), None),
    "DT_BOOL": (pa.bool_(), None),
    "DT_STRING": (pa.string(), ""),
}


class ClientError(Exception):
    """The rows of a file do not fit the model, or the server does not respond."""


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
    table = _read(file)
    url = f"{server.rstrip('/')}/v1/models/{quote(model, safe='')}"
    if version is not None:
        url += f"/versions/{version}"
    if label is not None:
        url += f"/labels/{quote(label, safe='')}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    trusted = ssl.create_default_context(cafile=ca_file)
    with _Client(server, headers, trusted) as client:
        metadata = _request(client, "GET", f"{url}/metadata")["metadata"]
        signatures = metadata["signature_def"]["signature_def"]
        name, inputs = _choose(signatures, table, signature)
        table = _read(file, [key for key, kind in inputs.items() if kind == "DT_STRING"])
        table = table.slice(0, rows)
        columns = {key: _fill(table, key, kind, file) for key, kind in inputs.items()}
        writer = None
        for start in range(0, table.num_rows, _BATCH):
            part = {key: values[start : start + _BATCH] for key, values in columns.items()}
            body = json.dumps({"signature_name": name, "inputs": part})
            outputs = _request(client, "POST", f"{url}:predict", body)["outputs"]
            if not isinstance(outputs, dict):
                (output,) = signatures[name]["outputs"]
                outputs = {output: outputs}
            if writer is None:
                writer = csv.writer(sys.stdout)
                writer.writerow(["row", *outputs])
            for offset, values in enumerate(zip(*outputs.values(), strict=True)):
                writer.writerow([start + offset, *map(_flat, values)])


def _read(file: str, texts: Sequence[str] = ()) -> pa.Table:
    """The rows of a file; the columns `texts` as they are written, whatever they look like."""
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


class _Client(httpx.Client):
    """Sends requests to a server through the proxy that the environment names for it.

    Raises:
      ClientError: If the proxy cannot be used.
    """

    def __init__(self, server: str, headers: Mapping[str, str], trusted: ssl.SSLContext):
        proxy = _find_proxy(server)
        self.through = _through(proxy)
        try:
            # Given the environment, it fails over proxies that it does not need.
            super().__init__(
                headers=headers, timeout=_SECONDS, verify=trusted, proxy=proxy, trust_env=False
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ClientError(f"{server} cannot be reached{self.through}: {error}") from error


def _find_proxy(server: str) -> str | None:
    """The proxy through which a server is reached; none for one on this machine."""
    try:
        address = urlsplit(server)
        host, port = address.hostname or "", address.port
    except ValueError:
        return None  # It is no address, which the request will say.
    if _is_loopback(host) or proxy_bypass(f"{host}:{port}" if port else host):
        return None
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _through(proxy: str | None) -> str:
    """Says through which proxy, if through any; without its password."""
    if proxy is None:
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]} (no_proxy exempts servers)"


def _request(client: _Client, method: str, url: str, body: str | None = None) -> dict[str, Any]:
    try:
        response = client.request(method, url, content=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ClientError(f"{url} does not respond{client.through}: {reason}") from error
    try:
        content: dict[str, Any] = response.json()
    except ValueError:
        content = {"error": response.text[:200]}
    if response.status_code != 200:
        reason = content.get("error", content)
        raise ClientError(f"{url}: {response.status_code}{client.through}: {reason}")
    return content


def _choose(
    signatures: Mapping[str, Any], table: pa.Table, wanted: str | None
) -> tuple[str, dict[str, str]]:
    """A signature whose inputs are columns of a table, and their dtypes."""
    if wanted is not None and wanted not in signatures:
        raise ClientError(f"there is no signature {wanted!r}: there are {', '.join(signatures)}")
    misses = []
    for name in [wanted] if wanted else sorted(signatures):
        inputs = {key: info["dtype"] for key, info in signatures[name]["inputs"].items()}
        missing = sorted(inputs.keys() - set(table.column_names))
        if inputs and not missing:
            return name, inputs
        if inputs:  # Those without are for the loader.
            misses.append(f"{name} needs {', '.join(missing)}")
    raise ClientError(f"no signature fits the columns of the file: {'; '.join(misses)} besides")


def _fill(table: pa.Table, name: str, dtype: str, file: str) -> list[Any]:
    """The values of a column as an input takes them."""
    if dtype not in _TYPES:
        raise ClientError(f"the input {name} is of {dtype}; only {', '.join(_TYPES)} can be sent")
    kind, absent = _TYPES[dtype]
    try:
        column = pc.cast(table[name], kind)
    except pa.ArrowException as error:
        raise ClientError(f"{file}: column {name} is {table[name].type}: {error}") from error
    values: list[Any] = column.to_pylist()
    if absent is None and None in values:
        raise ClientError(f"{file}: column {name} is empty in row {values.index(None)}")
    return [absent if value is None else value for value in values]


def _flat(value: Any) -> Any:
    """A list of one value as that value; a longer one, or bytes in base64, as JSON."""
    while isinstance(value, list) and len(value) == 1:
        (value,) = value
    return json.dumps(value) if isinstance(value, list | dict) else value
