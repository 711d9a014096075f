"""Tests of a request in the service: its place in the queue, deadline, metrics and log.

The model computes the function that a test gives it; the interfaces are those of the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.server.authentication import Authenticator
from serving.server.errors import ServingError
from serving.server.explaining import Background
from serving.server.form import Form
from serving.server.health import HealthService
from serving.server.manager import ModelManager
from serving.server.metrics import ServerMetrics
from serving.server.models import Arrays
from serving.server.request_log import RequestLog
from serving.server.rest import RestInterface
from serving.server.rpc import make_server
from serving.server.service import Service
from serving.server.signatures import Signature, TensorInfo
from tests.serving.server.running import PATIENCE, predict_request
from tests.serving.server.toys import f32

SIGNATURE = Signature(
    {"x": TensorInfo(types_pb2.DT_FLOAT, (None,))}, {"y": TensorInfo(types_pb2.DT_FLOAT, (None,))}
)
REQUEST = predict_request("toy", "", x=f32([1, 2]))
DOCUMENT = {"instances": [1.0, 2.0]}


class FunctionModel:
    """A model that computes a given function.

    Attributes:
      seconds: The time that each run was given.
    """

    signatures: Mapping[str, Signature] = {"serving_default": SIGNATURE}
    signature_defs: Mapping[str, Any] = {"serving_default": SIGNATURE.to_proto()}
    ends_by_itself = True
    key_id = ""
    form = Form()
    background: Background | None = None

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray]):
        self.batched: set[str] = set()
        self._compute = compute
        self.seconds: list[float] = []

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> Arrays:
        self.seconds.append(seconds)
        return {"y": self._compute(inputs["x"])}


class Gate:
    """A computation that waits until the gate is open."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        assert self._open.wait(PATIENCE)
        return 2 * x

    def open(self) -> None:
        self._open.set()


@dataclass
class RunningService:
    """A service, and clients of its interfaces."""

    service: Service
    model: FunctionModel
    rest: httpx.AsyncClient
    predictions: prediction_service_pb2_grpc.PredictionServiceStub
    channel: grpc.aio.Channel

    async def until_waiting(self, requests: int) -> None:
        """Waits until so many requests are being computed or wait for it."""
        async with asyncio.timeout(PATIENCE):
            while self.value("waiting_requests") != requests:
                await asyncio.sleep(0.005)

    def value(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        name = f"flightdeck_serving_{name}"
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0

    def post(self) -> asyncio.Task[httpx.Response]:
        """Begins a request over REST."""
        return asyncio.create_task(self.rest.post("/v1/models/toy:predict", json=DOCUMENT))

    def predict(self, **options: Any) -> Any:
        """Begins a request over gRPC."""
        return self.predictions.Predict(REQUEST, **options)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """Opens a service whose model computes a function; see `Service` for the options."""
    folder = tmp_path / "models" / "toy" / "3"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()

    @asynccontextmanager
    async def opened(
        compute: Callable[[np.ndarray], np.ndarray],
        workers: int = 1,
        max_queue: int = 1,
        deadline_seconds: float = PATIENCE,
        request_log: RequestLog | None = None,
    ) -> AsyncIterator[RunningService]:
        model, metrics = FunctionModel(compute), ServerMetrics()
        manager = ModelManager(str(tmp_path / "models"), (), lambda *_: model, metrics)
        manager.look()
        manager.decided.result(PATIENCE)
        service = Service(
            manager,
            metrics,
            workers=workers,
            max_queue=max_queue,
            request_memory=64 << 20,
            deadline_seconds=deadline_seconds,
            access_log=True,
            request_log=request_log,
        )
        anybody = Authenticator("", "", metrics)
        app = RestInterface(
            service,
            max_bytes=10**6,
            max_rows=1000,
            deadline_seconds=deadline_seconds,
            authenticator=anybody,
        ).make_app()
        rpc = make_server(
            service,
            HealthService(),
            max_bytes=10**6,
            max_rows=1000,
            max_connections=100,
            authenticator=anybody,
        )
        port = rpc.add_insecure_port("127.0.0.1:0")
        await rpc.start()
        async with (
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://toy", timeout=PATIENCE
            ) as rest,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            yield RunningService(service, model, rest, stub, channel)
        await rpc.stop(None)
        service.close()

    return opened


def test_service_refuses_a_request_above_the_queue_at_once(
    serve: Callable[..., Any],
) -> None:
    async def run() -> None:
        gate = Gate()
        async with serve(gate, workers=1, max_queue=2) as tested:
            over_rest, over_grpc, another = tested.post(), tested.predict(), tested.predict()
            await tested.until_waiting(3)
            refused = await tested.post()
            assert refused.status_code == 503
            assert refused.json()["error"].startswith("the queue is full: 3 requests")
            with pytest.raises(grpc.aio.AioRpcError, match="the queue is full") as error:
                await tested.predict()
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            gate.open()
            assert (await over_rest).json() == {"predictions": [2.0, 4.0]}
            for call in (over_grpc, another, tested.predict()):
                assert list((await call).outputs["y"].float_val) == [2, 4]
            await tested.until_waiting(0)

    asyncio.run(run())


def test_service_batches_waiting_requests_and_keeps_their_errors_apart(
    serve: Callable[..., Any],
) -> None:
    sizes: list[int] = []
    gate = Gate()

    def compute(x: np.ndarray) -> np.ndarray:
        if not sizes:
            gate(x)
        sizes.append(len(x))
        if 13 in x:
            raise ServingError(grpc.StatusCode.OUT_OF_RANGE, "13 is no good number")
        return 2 * x

    async def run() -> None:
        async with serve(compute, workers=1, max_queue=20) as tested:
            tested.model.batched.add("serving_default")
            first = tested.predict()
            await tested.until_waiting(1)
            calls = [
                tested.predictions.Predict(predict_request("toy", "", x=f32(values)))
                for values in ([1], [2, 3], [13], [5])
            ]
            await tested.until_waiting(5)
            gate.open()
            await first
            with pytest.raises(grpc.aio.AioRpcError, match="13 is no good number"):
                await calls.pop(2)
            found = [list((await call).outputs["y"].float_val) for call in calls]
            assert found == [[2], [4, 6], [10]]
            # Together, and then each alone, since one of them has an error.
            assert (sizes[:2], sorted(sizes[2:])) == ([2, 5], [1, 1, 1, 2])
            sizes.append(0)
            again = [tested.predict(), tested.predict()]
            assert [list((await call).outputs["y"].float_val) for call in again] == [[2, 4]] * 2

    asyncio.run(run())


def test_service_does_not_delay_small_requests_behind_a_large_one(
    serve: Callable[..., Any],
) -> None:
    gate = Gate()

    async def run() -> None:
        async with serve(lambda x: gate(x) if 7 in x else x, workers=1, max_queue=9) as tested:
            # Its rows are few, but an unknown field makes it large.
            large = predict_request("toy", "", x=f32([7] * 999)).SerializeToString()
            large += b"\xfa\x7f\xe0\xa7\x12" + bytes(300_000)
            call = tested.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            slow = call(large)
            await tested.until_waiting(1)
            assert list((await tested.predict()).outputs["y"].float_val) == [1, 2]
            gate.open()
            response = predict_pb2.PredictResponse.FromString(await slow)
            assert len(response.outputs["y"].float_val) == 999

    asyncio.run(run())


def test_service_runs_a_quick_model_in_the_event_loop_until_it_is_slow(
    serve: Callable[..., Any],
) -> None:
    threads = []

    def compute(x: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread())
        return x

    async def run() -> None:
        async with serve(compute) as tested:
            await tested.predict()
            assert threads[-1] is not threading.main_thread()
            tested.service._quick_runs[tested.model]["serving_default"] = 100
            await tested.predict()
            assert threads[-1] is threading.main_thread()
            await tested.predictions.Predict(predict_request("toy", "", x=f32([1] * 100)))
            assert threads[-1] is not threading.main_thread()
            tested.service._quick_runs[tested.model]["serving_default"] = 100
            tested.model.ends_by_itself = False
            await tested.predict()
            assert threads[-1] is not threading.main_thread()

    asyncio.run(run())


def test_service_gives_up_a_slow_run_and_keeps_its_worker_busy_until_the_end(
    serve: Callable[..., Any],
) -> None:
    async def run() -> None:
        gate = Gate()
        async with serve(gate, workers=2, deadline_seconds=0.1) as tested:
            over_rest, over_grpc = tested.post(), tested.predict()
            response = await over_rest
            assert response.status_code == 504
            assert response.json() == {"error": "no answer within 0.1 seconds"}
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await over_grpc
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert tested.value("waiting_requests") == 2
            gate.open()
            await tested.until_waiting(0)

    asyncio.run(run())


def test_service_does_not_run_a_request_that_waited_too_long(serve: Callable[..., Any]) -> None:
    async def run() -> None:
        gate = Gate()
        async with serve(gate, workers=1, deadline_seconds=0.2) as tested:
            first = tested.post()
            await tested.until_waiting(1)
            assert (await tested.post()).status_code == 504
            assert (await first).status_code == 504
            gate.open()
            await tested.until_waiting(0)
            assert len(tested.model.seconds) == 1

    asyncio.run(run())


def test_service_gives_the_model_no_more_time_than_the_client(serve: Callable[..., Any]) -> None:
    async def run() -> None:
        async with serve(lambda x: x, deadline_seconds=PATIENCE) as tested:
            await tested.predict(timeout=PATIENCE / 2)
            await tested.predict(timeout=PATIENCE * 2)
            await tested.predict()
            short, *longer = tested.model.seconds
            assert 0 < short < PATIENCE / 2 + 1  # gRPC rounds it up.
            assert all(PATIENCE / 2 < seconds <= PATIENCE for seconds in longer)

    asyncio.run(run())


def test_service_gives_the_place_of_a_lost_client_to_another(serve: Callable[..., Any]) -> None:
    async def run() -> None:
        gate = Gate()
        async with serve(gate, workers=1, max_queue=1) as tested:
            first = tested.post()
            await tested.until_waiting(1)
            second = tested.predict()
            waiting = asyncio.create_task(second.code())
            await tested.until_waiting(2)
            second.cancel()
            await waiting
            await tested.until_waiting(1)
            third = tested.post()
            await tested.until_waiting(2)
            gate.open()
            assert [(await task).status_code for task in (first, third)] == [200, 200]

    asyncio.run(run())


def test_service_reports_and_logs_an_unexpected_error_as_internal(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of luck")

    async def run() -> None:
        async with serve(fail) as tested:
            response = await tested.post()
            assert response.status_code == 500
            assert "out of luck" in response.json()["error"]
            with pytest.raises(grpc.aio.AioRpcError, match="out of luck") as error:
                await tested.predict()
            assert error.value.code() is grpc.StatusCode.INTERNAL
            await tested.until_waiting(0)

    asyncio.run(run())
    failures = [
        record.__dict__["fields"] for record in caplog.records if record.levelname == "ERROR"
    ]
    assert [failure["error"] for failure in failures] == ["RuntimeError", "RuntimeError"]
    assert all("test_service.py" in failure["at"][-1] for failure in failures)
    # Its message may quote the request.
    assert "out of luck" not in str([record.__dict__ for record in caplog.records])


def test_service_counts_and_logs_each_request(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving")

    async def run() -> None:
        async with serve(lambda x: x) as tested:
            await tested.predict()
            await tested.post()
            await tested.rest.get("/v1/models/toy")
            assert (await tested.rest.post("/v1/models/nobody:predict", json={})).status_code == 404
            assert (await tested.rest.post("/v1/models/toy:predict", content="x")).is_error
            labels = {"model": "toy", "method": "predict"}
            for protocol in ("grpc", "rest"):
                found = tested.value("requests_total", **labels, protocol=protocol, status="OK")
                assert found == 1
            for name, status in (("toy", "INVALID_ARGUMENT"), ("(unknown)", "NOT_FOUND")):
                labels = {"model": name, "method": "predict", "protocol": "rest", "status": status}
                assert tested.value("requests_total", **labels) == 1
            assert tested.value("rows_total", model="toy", version="3") == 4
            labels = {"model": "toy", "method": "predict", "protocol": "grpc"}
            assert tested.value("latency_seconds_count", **labels) == 1

    asyncio.run(run())
    lines = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "request"]
    keys = ("protocol", "method", "model", "version", "rows", "status")
    assert [tuple(line[key] for key in keys) for line in lines] == [
        ("grpc", "predict", "toy", 3, 2, "OK"),
        ("rest", "predict", "toy", 3, 2, "OK"),
        ("rest", "status", "toy", None, 0, "OK"),
        ("rest", "predict", "nobody", None, 0, "NOT_FOUND"),
        ("rest", "predict", "toy", 3, 0, "INVALID_ARGUMENT"),
    ]
    assert all(json.dumps(line) and line["ms"] >= 0 for line in lines)
    assert lines[3]["reason"].startswith("Servable not found")


def test_service_counts_and_logs_a_body_that_is_too_large(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "serving")

    async def run() -> None:
        async with serve(lambda x: x) as tested:
            response = await tested.rest.post("/v1/models/toy:predict", content=bytes(10**6 + 1))
            assert response.status_code == 413
            labels = {"model": "toy", "method": "predict", "protocol": "rest"}
            assert tested.value("requests_total", **labels, status="RESOURCE_EXHAUSTED") == 1

    asyncio.run(run())
    (line,) = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "request"]
    assert (line["model"], line["status"]) == ("toy", "RESOURCE_EXHAUSTED")
    assert line["reason"] == "the request is larger than the 1,000,000 bytes allowed"
