"""A stand-in for `tensorflow_model_server`: its flags and protocols, and misbehaviour on demand.

It serves y = 2 x + 1; the environment variable STAND_IN says how it misbehaves.
"""

from __future__ import annotations

import base64
import json
import math
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

FLAGS = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
KNOWN = {
    *("port", "rest_api_port", "rest_api_timeout_in_ms", "model_name", "model_base_path"),
    *("prefer_tflite_model", "max_num_load_retries"),
}
TFLITE = FLAGS.get("prefer_tflite_model") == "true"
BEHAVIOUR = os.environ.get("STAND_IN", "")


def prediction_for(x: float) -> float:
    if BEHAVIOUR == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if BEHAVIOUR == "hangs":
        time.sleep(1000)
    return math.nan if BEHAVIOUR == "answers NaN" else 2 * x + 1


def value_in(serialized: bytes) -> float:
    (x,) = example_pb2.Example.FromString(serialized).features.feature["x"].float_list.value
    return float(x)


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request: Any, context: Any) -> Any:
        assert request.model_spec.name == FLAGS["model_name"]
        states = get_model_status_pb2.ModelVersionStatus
        response = get_model_status_pb2.GetModelStatusResponse()
        version = response.model_version_status.add(version=1, state=states.AVAILABLE)
        if BEHAVIOUR == "never loads":
            version.state = states.LOADING
        if BEHAVIOUR == "cannot load":
            version.state = states.END
            version.status.error_message = "no such operator"
        return response


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        found = get_model_metadata_pb2.SignatureDefMap()
        signature = found.signature_def["other" if BEHAVIOUR == "has others" else "serving_default"]
        info = signature.inputs["x" if TFLITE else "examples"]
        info.dtype = types_pb2.DT_FLOAT if TFLITE else types_pb2.DT_STRING
        info.tensor_shape.dim.add(size=-1)
        signature.outputs["y"].dtype = types_pb2.DT_FLOAT
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response

    def Predict(self, request: Any, context: Any) -> Any:
        if BEHAVIOUR == "refuses":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Could not parse example input")
        if TFLITE:
            given = request.inputs["x"]
            (x,) = given.float_val or memoryview(given.tensor_content).cast("f")
        else:
            x = value_in(request.inputs["examples"].string_val[0])
        response = predict_pb2.PredictResponse()
        response.outputs["y"].dtype = types_pb2.DT_FLOAT
        response.outputs["y"].float_val.append(prediction_for(x))
        for _ in range(2):
            response.outputs["y"].tensor_shape.dim.add(size=1)
        return response


class Rest(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == f"/v1/models/{FLAGS['model_name']}:predict"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (row,) = body["instances"]
        x = row["x"] if TFLITE else value_in(base64.b64decode(row["examples"]["b64"]))
        if BEHAVIOUR == "hangs over REST":
            time.sleep(1000)
        if BEHAVIOUR == "breaks off":
            return
        off = 0.25 if BEHAVIOUR == "is off over REST" else 0.0
        status, response = 200, json.dumps({"predictions": [[prediction_for(x) + off]]})
        if BEHAVIOUR == "refuses":
            status, response = 400, json.dumps({"error": "JSON Value is not an object"})
        if BEHAVIOUR == "talks nonsense":
            response = "<html>"
        self.send_response(status)
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response.encode())


def main() -> None:
    assert set(FLAGS) <= KNOWN, FLAGS
    assert os.path.exists(os.path.join(FLAGS["model_base_path"], "1", "saved_model.pb"))
    print("this is a stand-in", flush=True)
    if BEHAVIOUR == "exits":
        print("Failed to start server. Error: no such operator", file=sys.stderr)
        sys.exit(3)
    rpc = grpc.server(ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), rpc)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), rpc)
    assert rpc.add_insecure_port(f"127.0.0.1:{FLAGS['port']}")
    rpc.start()
    ThreadingHTTPServer(("127.0.0.1", int(FLAGS["rest_api_port"])), Rest).serve_forever()


if __name__ == "__main__":
    main()
