"""Requests of many kinds that a model server has to refuse, for benchmarks/serving.py.

Each is a good one with one thing wrong, so that nothing but the server's checks stops it, or no
request at all.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any
from urllib.parse import quote

import grpc
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

GRPC, REST = "gRPC", "REST"
PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"
_MODEL_SERVICE = "/tensorflow.serving.ModelService/"
_HOST = "127.0.0.1"
_SECONDS = 40  # longer than the server's own deadline
_MEGABYTE = 1 << 20

# What became of a request that was not answered with a status.
CLOSED, NO_ANSWER = "closed", "no answer"

Make = Callable[[Random], bytes]


@dataclass(frozen=True)
class Kind:
    """A kind of bad request.

    Attributes:
      protocol: `GRPC` or `REST`.
      name: What is wrong.
      make: Makes one.
      method: Full name of the gRPC method that it is for; empty sends the bytes as they are to the
        protocol's port.
      cut_off: Whether nothing more is sent although more was promised.
      compressed: Whether gRPC compresses it.
    """

    protocol: str
    name: str
    make: Make
    method: str = ""
    cut_off: bool = False
    compressed: bool = False

    @property
    def label(self) -> str:
        """What tells it from all others of its protocol."""
        return f"{self.name} ({self.method.rpartition('/')[2]})" if self.method else self.name


class Sender:
    """Sends bad requests, one at a time.

    Args:
      grpc_port: Port of the server's gRPC interface.
      rest_port: Port of its REST interface.
    """

    def __init__(self, grpc_port: int, rest_port: int):
        self._ports = {GRPC: grpc_port, REST: rest_port}
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"{_HOST}:{grpc_port}", options=options)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def send(self, kind: Kind, content: bytes) -> str:
        """Sends a request.

        Args:
          kind: Its kind.
          content: What `kind.make` made.

        Returns:
          The status of gRPC ("INVALID_ARGUMENT") or HTTP ("400"), `CLOSED` if the server closed the
          connection, or `NO_ANSWER`.
        """
        if kind.method:
            compression = grpc.Compression.Gzip if kind.compressed else None
            try:
                call = self._channel.unary_unary(kind.method)
                call(content, timeout=_SECONDS, compression=compression)
            except grpc.RpcError as error:
                return str(error.code().name)
            return grpc.StatusCode.OK.name
        with socket.create_connection((_HOST, self._ports[kind.protocol]), _SECONDS) as connection:
            try:
                try:
                    connection.sendall(content)
                    if kind.cut_off:
                        connection.shutdown(socket.SHUT_WR)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # It may have answered before it closed the connection.
                return _read_status(connection)
            except TimeoutError:
                return NO_ANSWER
            except (OSError, http.client.HTTPException):
                return CLOSED


def _read_status(connection: socket.socket) -> str:
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return str(response.status)


def make_kinds(
    good: predict_pb2.PredictRequest, row: Mapping[str, Any], oversized: int
) -> list[Kind]:
    """All kinds, in turns of gRPC and REST as far as both last.

    Args:
      good: A request about one row, by the raw features.
      row: The same row as JSON has it.
      oversized: More bytes than a request may have.
    """
    name = good.model_spec.name
    over_grpc = [*_predict_kinds(good, oversized), *_other_grpc_kinds(name)]
    over_rest = [*_body_kinds(good, row), *_path_kinds(name), *_http_kinds(name, oversized)]
    both = [kind for pair in zip(over_grpc, over_rest, strict=False) for kind in pair]
    return [*both, *over_grpc[len(both) // 2 :], *over_rest[len(both) // 2 :]]


def _predict_kinds(good: predict_pb2.PredictRequest, oversized: int) -> Iterable[Kind]:
    def spec(**fields: Any) -> Make:
        """A request for another model, version or signature."""
        request = predict_pb2.PredictRequest()
        request.CopyFrom(good)
        request.model_spec.MergeFrom(model_pb2.ModelSpec(**fields))
        return lambda chance: request.SerializeToString()

    def tensor(change: Callable[[tensor_pb2.TensorProto, Random], Any]) -> Make:
        """A request in which one input is another."""

        def make(chance: Random) -> bytes:
            request = predict_pb2.PredictRequest()
            request.CopyFrom(good)
            change(request.inputs[chance.choice(sorted(request.inputs))], chance)
            return request.SerializeToString()

        return make

    def shape(*sizes: int) -> Make:
        other = _shape(*sizes)
        return tensor(lambda proto, chance: proto.tensor_shape.CopyFrom(other))

    def without(chance: Random) -> bytes:
        request = predict_pb2.PredictRequest()
        request.CopyFrom(good)
        del request.inputs[chance.choice(sorted(request.inputs))]
        return request.SerializeToString()

    def more(**fields: Any) -> Make:
        """A request with something besides; concatenated messages are one."""
        extra = predict_pb2.PredictRequest(**fields).SerializeToString()
        return lambda chance: good.SerializeToString() + extra

    def other_dtype(proto: tensor_pb2.TensorProto, chance: Random) -> None:
        was_string = proto.dtype == types_pb2.DT_STRING
        numbers = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1])
        strings = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"1"])
        proto.CopyFrom(numbers if was_string else strings)
        proto.tensor_shape.CopyFrom(_shape(1))

    def content(proto: tensor_pb2.TensorProto, chance: Random) -> None:
        junk = chance.randbytes(chance.choice([1, 3, 7, 1000]))
        proto.CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64, tensor_content=junk))
        proto.tensor_shape.CopyFrom(_shape(1))

    def dtype(proto: tensor_pb2.TensorProto, chance: Random) -> None:
        kinds = (types_pb2.DT_INVALID, types_pb2.DT_RESOURCE, types_pb2.DT_COMPLEX64, 77, 1 << 20)
        proto.dtype = chance.choice(kinds)

    whole = good.SerializeToString()
    known = sorted(good.inputs)[0]
    large = tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, tensor_content=bytes(oversized // 2))
    large.tensor_shape.CopyFrom(_shape(oversized // 16))
    predict = {
        "random bytes": lambda chance: chance.randbytes(chance.randrange(1, 2000)),
        "no bytes": lambda chance: b"",
        "message cut off": lambda chance: whole[: chance.randrange(len(whole))],
        "unknown model": spec(name="no_such_model"),
        "model name of 100 kB": spec(name="x" * 100_000),
        "unknown version": spec(version={"value": 1}),
        "unknown label": spec(version_label="no_such_label"),
        "unknown signature": spec(signature_name="no_such_signature"),
        "feature missing": without,
        "unknown feature": more(inputs={"no_such_feature": good.inputs[known]}),
        "other dtype": tensor(other_dtype),
        "no such dtype": tensor(dtype),
        "other rank": shape(1, 1, 1),
        "other number of rows": shape(2),
        "negative size": shape(-1),
        "unknown rank": tensor(lambda proto, chance: proto.tensor_shape.MergeFrom(_NO_RANK)),
        "huge shape": shape(1 << 40),
        "shape past 64 bits": shape(1 << 62, 1 << 62, 1 << 62),
        "shape of 100,000 sizes": shape(*[1] * 100_000),
        "no values": tensor(lambda proto, chance: _empty(proto)),
        "content of other length": tensor(content),
        "unknown output": more(output_filter=["no_such_output"]),
        "large, of other dtype": more(inputs={known: large}),
        "too large": lambda chance: bytes(oversized),
    }
    method = f"{PREDICTION_SERVICE}Predict"
    for name, make in predict.items():
        yield Kind(GRPC, name, make, method)
    yield Kind(GRPC, "too large, compressed", predict["too large"], method, compressed=True)


def _other_grpc_kinds(name: str) -> Iterable[Kind]:
    spec = model_pb2.ModelSpec(name=name)
    ask = partial(Kind, GRPC)
    classify = classification_pb2.ClassificationRequest(model_spec=spec)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec)
    odd = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["x"])
    status = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "no_such_model"})
    yield ask("no examples", _always(classify), f"{PREDICTION_SERVICE}Classify")
    yield ask("no examples", _always(classify), f"{PREDICTION_SERVICE}Regress")
    yield ask("random bytes", _junk, f"{PREDICTION_SERVICE}Classify")
    yield ask("not implemented", lambda chance: b"", f"{PREDICTION_SERVICE}MultiInference")
    yield ask("no metadata field", _always(metadata), f"{PREDICTION_SERVICE}GetModelMetadata")
    yield ask("unknown metadata", _always(odd), f"{PREDICTION_SERVICE}GetModelMetadata")
    yield ask("unknown model", _always(status), f"{_MODEL_SERVICE}GetModelStatus")
    yield ask("unknown method", _junk, f"{PREDICTION_SERVICE}NoSuchMethod")
    yield ask("unknown service", _junk, "/no.such.Service/Method")
    yield ask("random bytes, no HTTP/2", _junk, cut_off=True)
    # The beginning of every connection of HTTP/2.
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield ask("random frames", lambda chance: preface + chance.randbytes(500), cut_off=True)


def _body_kinds(good: predict_pb2.PredictRequest, row: Mapping[str, Any]) -> Iterable[Kind]:
    path = f"/v1/models/{quote(good.model_spec.name)}"
    strings = [name for name, proto in good.inputs.items() if proto.dtype == types_pb2.DT_STRING]
    numbers = sorted(row.keys() - set(strings))
    integers = [name for name, proto in good.inputs.items() if proto.dtype == types_pb2.DT_INT64]
    signature = good.model_spec.signature_name

    def body(**fields: Any) -> bytes:
        return json.dumps({"signature_name": signature, **fields}).encode()

    def value(names: Iterable[str], *values: Any) -> Make:
        """A row in which one of some features has one of some values."""
        known, options = sorted(names), list(values)
        return lambda chance: body(
            instances=[{**row, chance.choice(known): chance.choice(options)}]
        )

    def without(chance: Random) -> bytes:
        gone = chance.choice(sorted(row))
        return body(instances=[{name: v for name, v in row.items() if name != gone}])

    def columns(chance: Random) -> bytes:
        longer = chance.choice(sorted(row))
        return body(inputs={name: [v] * (1 + (name == longer)) for name, v in row.items()})

    whole = body(instances=[dict(row)])
    names = dict.fromkeys((f"no_such_feature_{number}" for number in range(10_000)), 1)
    one_feature = {name: row[name] for name in sorted(row)[:1]}
    unknown, rows = body(instances=[names]), body(instances=[one_feature] * 50_000)
    predict: dict[str, Make] = {
        "random bytes": lambda chance: chance.randbytes(chance.randrange(1, 2000)),
        "no bytes": lambda chance: b"",
        "JSON cut off": lambda chance: whole[: chance.randrange(1, len(whole))],
        "no object": lambda chance: chance.choice([b"[]", b"1", b'"x"', b"null", b"NaN"]),
        "lists in 100,000 lists": lambda chance: b'{"instances": ' + b"[" * 100_000,
        "number of 100,000 digits": lambda chance: b'{"instances": [' + b"9" * 100_000 + b"]}",
        "string that is not UTF-8": lambda chance: (
            json.dumps({"instances": [{**row, strings[0]: "~"}]})
            .encode()
            .replace(b"~", b"\xff\xfe")
        ),
        "key twice": lambda chance: whole[:-1] + b', "instances": []}',
        "rows and columns": lambda chance: body(instances=[dict(row)], inputs={}),
        "neither rows nor columns": lambda chance: body(),
        "no rows": lambda chance: body(instances=[]),
        "signature of no string": lambda chance: body(instances=[dict(row)], signature_name=[1]),
        "unknown signature": lambda chance: body(instances=[dict(row)], signature_name="none"),
        "feature missing": without,
        "unknown feature": lambda chance: body(instances=[{**row, "no_such_feature": 1}]),
        "number for a string": value(strings, 1, 1.5, True),
        "string for a number": value(numbers, "1", "NaN"),
        "null": value(row, None),
        "list for a value": value(row, [[1], [2, 3]], [[[]]]),
        "object for a value": value(row, {"b65": "AA=="}, {"b64": 1}, {}),
        "no base64": value(strings, {"b64": "?"}),
        "integer past 64 bits": value(integers, 1e300, 2**64, -(2**70), 0.5),
        "rows of other number": columns,
        "10,000 unknown features": lambda chance: unknown,
        "50,000 rows of one feature": lambda chance: rows,
    }
    for name, make in predict.items():
        yield Kind(REST, name, _posted(f"{path}:predict", make))
    yield Kind(REST, "no examples", _posted(f"{path}:classify", lambda chance: body(examples=[])))
    yield Kind(
        REST,
        "no object for an example",
        _posted(f"{path}:regress", lambda chance: body(examples=[1])),
    )


def _path_kinds(model: str) -> Iterable[Kind]:
    path = f"/v1/models/{quote(model)}"
    paths = {
        "unknown model": "/v1/models/no_such_model:predict",
        "model name of 10 kB": f"/v1/models/{'x' * 10_000}:predict",
        "unknown version": f"{path}/versions/1:predict",
        "version past 64 bits": f"{path}/versions/{10**30}:predict",
        "version of no number": f"{path}/versions/x:predict",
        "unknown label": f"{path}/labels/no_such_label:predict",
        "unknown verb": f"{path}:explain",
        "no such page": "/v2/health",
        "odd characters": "/v1/models/%00%ff%2e%2e/%2e%2e:predict",
        "folders upwards": "/v1/models/../../../../etc/passwd",
    }
    for name, target in paths.items():
        yield Kind(REST, name, _posted(target, lambda chance: b'{"instances": [1]}'))
    for method in ("DELETE", "PUT", "GET"):
        head = f"{method} {path}:predict HTTP/1.1\r\nHost: {_HOST}\r\n\r\n".encode()
        yield Kind(REST, f"{method} for POST", partial(_same, head))


def _http_kinds(model: str, oversized: int) -> Iterable[Kind]:
    start = f"POST /v1/models/{quote(model)}:predict HTTP/1.1\r\nHost: {_HOST}\r\n"

    def with_head(lines: str, rest: bytes = b"") -> Make:
        return lambda chance: f"{start}{lines}\r\n\r\n".encode() + rest

    chunked = "Transfer-Encoding: chunked"
    chunk = b"%x\r\n" % _MEGABYTE + b" " * _MEGABYTE + b"\r\n"
    chunks = chunk * (oversized // _MEGABYTE) + b"0\r\n\r\n"
    target = f"/v1/models/{quote(model)}:predict"
    yield Kind(REST, "too large", _posted(target, lambda chance: b" " * oversized))
    yield Kind(REST, "too large, in chunks", with_head(chunked, chunks))
    yield Kind(REST, "random bytes, no HTTP", _junk, cut_off=True)
    yield Kind(REST, "head cut off", lambda chance: start.encode(), cut_off=True)
    yield Kind(REST, "body cut off", with_head("Content-Length: 1000", b"{"), cut_off=True)
    yield Kind(REST, "100 MB promised", with_head("Content-Length: 100000000"), cut_off=True)
    yield Kind(REST, "length below zero", with_head("Content-Length: -5", b"{}"))
    yield Kind(REST, "length of no number", with_head("Content-Length: x", b"{}"))
    yield Kind(REST, "two lengths", with_head("Content-Length: 2\r\nContent-Length: 3", b"{}"))
    yield Kind(REST, "chunk of no size", with_head(chunked, b"zz\r\n{}\r\n0\r\n\r\n"))
    yield Kind(REST, "header of 100 kB", with_head(f"X: {'x' * 100_000}\r\nContent-Length: 0"))
    yield Kind(REST, "no version of HTTP", lambda chance: b"GET /\r\n\r\n", cut_off=True)


_NO_RANK = tensor_shape_pb2.TensorShapeProto(unknown_rank=True)


def _shape(*sizes: int) -> tensor_shape_pb2.TensorShapeProto:
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in sizes]
    return tensor_shape_pb2.TensorShapeProto(dim=dims)


def _empty(proto: tensor_pb2.TensorProto) -> None:
    proto.CopyFrom(tensor_pb2.TensorProto(dtype=proto.dtype, tensor_shape=proto.tensor_shape))


def _always(message: Any) -> Make:
    return partial(_same, message.SerializeToString())


def _same(content: bytes, chance: Random) -> bytes:
    return content


def _junk(chance: Random) -> bytes:
    return chance.randbytes(500)


def _posted(path: str, make: Make) -> Make:
    def posted(chance: Random) -> bytes:
        body = make(chance)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    return posted
