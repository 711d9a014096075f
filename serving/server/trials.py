"""Has challengers predict, in threads of their own, so that no request waits for one in vain.

In a split the challenger predicts in the champion's place, for a limited time. What it does not
predict in time, or predicts as NaN, the champion predicts. In shadow mode it predicts after the
champion, for nobody; what there is no room for is dropped. Failures over requests that the champion
managed take the challenger out, as a circuit breaker does.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from serving.server.calls import Call
from serving.server.challenger_threads import ChallengerThreads
from serving.server.errors import ServingError
from serving.server.metrics import ServerMetrics
from serving.server.model_request import ModelRequest, count_rows, unfolded
from serving.server.models import Arrays, Served
from serving.server.request_log import RequestLog
from serving.server.request_records import TrafficFields
from serving.server.traffic import Assignment, Challenger, Failure, Traffic, is_finite
from serving.server.work_queue import Task
from storage.names import CHALLENGER, CHAMPION, RAW_SIGNATURE
from storage.traffic import SHADOW, SPLIT

OK, FAILED, NAN, TOO_SLOW, DROPPED = "OK", "FAILED", "NAN", "TOO_SLOW", "DROPPED"
_SHADOW_ROLE = "shadow"
_NOT_FINITE = "NaN or infinite"

# A shadow begins so many seconds later, so that the champion's response is on its way.
_SHADOW_PAUSE = 0.002


@dataclass(eq=False)
class Trial:
    """A request that a challenger predicts in the champion's place.

    Attributes:
      task: The request.
      request: The same as the champion gets it.
      challenger: Who predicts.
      seconds: Time that it has.
      large: Whether it is one of the large requests.
      settled: Set when the challenger has predicted or failed.
    """

    task: Task
    request: ModelRequest
    challenger: Challenger
    seconds: float
    large: bool
    settled: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Whether the caller is the first to settle it."""
        with self._lock:
            if self.settled.is_set():
                return False
            self.settled.set()
            return True


class TrialRunner:
    """Has challengers predict.

    Args:
      metrics: Where predictions are counted.
      request_log: Where requests and predictions are written, if anywhere.
      on_taken_out: Called with a challenger that was taken out, and the reason.
      finish: Ends a task with its response.
      put_back: Has the champion compute a task; told whether it is large.
      seconds: Longest time for a challenger's prediction.
      failures: See `Challenger`.
      most_waiting: Requests that may wait for a challenger.
      threads: Requests that a challenger computes at a time.
    """

    def __init__(
        self,
        metrics: ServerMetrics,
        request_log: RequestLog | None,
        on_taken_out: Callable[[Challenger, str], None],
        finish: Callable[[Task, Any], None],
        put_back: Callable[[Task, bool], None],
        *,
        seconds: float,
        failures: int,
        most_waiting: int,
        threads: int,
    ):
        self._metrics = metrics
        self._request_log = request_log
        self._on_taken_out = on_taken_out
        self._finish = finish
        self._put_back = put_back
        self._seconds = seconds
        self._too_slow = f"no prediction within {seconds:g} seconds"
        self._failures = failures
        self._most_waiting = most_waiting
        self._threads = threads
        self._lock = threading.Lock()
        self._challengers: dict[str, Challenger] = {}
        self._workers: dict[str, tuple[Served, ChallengerThreads, ChallengerThreads]] = {}

    def is_for_challenger(self, call: Call, request: ModelRequest) -> bool:
        """Whether a challenger predicts in the champion's place."""
        assignment = call.assignment
        return (
            assignment is not None
            and assignment.traffic.policy.mode == SPLIT
            and request.is_logged
            and self._decide(assignment, call, request) is not None
        )

    def hand_over(self, task: Task, request: ModelRequest, *, large: bool = False) -> Trial | None:
        """Hands a request to the challenger, if it is for it; else the champion predicts."""
        assignment = task.call.assignment
        if assignment is None or not self.is_for_challenger(task.call, request):
            return None
        challenger = assignment.challenger
        assert challenger is not None
        # So that the champion has as much time.
        trial = Trial(task, request, challenger, min(self._seconds, task.left() / 2), large)
        workers = self._workers_of(challenger)[0]
        if not workers.offer(lambda: self._try(trial), request.bytes):
            self._fail(assignment, challenger, workers)
            return None
        # Not itself, so that the memory of a request goes when it has its prediction.
        task.loop.call_soon_threadsafe(
            task.loop.call_later, trial.seconds, self._time_out, weakref.ref(trial)
        )
        return trial

    def predicted(self, call: Call, request: ModelRequest, outputs: Arrays, seconds: float) -> None:
        """Logs and counts a prediction of the version that a request names, or of the champion.

        Args:
          call: The request.
          request: The same as the version got it.
          outputs: The prediction.
          seconds: Time that the model took.
        """
        assignment = call.assignment
        if assignment is None or not request.is_logged:
            self._log(request, outputs)
            return
        self._count(request.served, CHAMPION, OK, seconds)
        self._log(request, outputs, assignment, CHAMPION, seconds)
        if failure := assignment.failure:
            challenger = failure.challenger
            self._count(challenger.served, CHALLENGER, failure.outcome)
            # What the champion cannot do either is the request's fault.
            if failure.counts and seconds < self._seconds and is_finite(outputs):
                challenger.failed(failure.reason)
        if assignment.traffic.policy.mode == SHADOW:
            self._shadow(assignment, call, request, outputs, seconds)

    def close(self) -> None:
        """Ends the threads."""
        with self._lock:
            for _, *both in self._workers.values():
                for workers in both:
                    workers.close()

    def _decide(
        self, assignment: Assignment, call: Call, request: ModelRequest
    ) -> Challenger | None:
        if not assignment.decided:
            assignment.decided = True
            if assignment.takes(call.header, request.inputs):
                challenger = self._challenger_of(assignment.traffic)
                assignment.challenger = None if challenger.is_out else challenger
        return assignment.challenger

    def _challenger_of(self, traffic: Traffic) -> Challenger:
        served, number = traffic.challenger, traffic.policy.number
        assert served is not None
        known = self._challengers.get(served.name)
        if known is not None and known.number == number and known.served is served:
            return known
        with self._lock:
            known = self._challengers.get(served.name)
            # A request may have come under an older policy.
            if known is None or known.number < number or known.served is not served:
                known = Challenger(served, number, self._failures, self._on_taken_out)
                self._challengers[served.name] = known
            return known

    def _workers_of(self, challenger: Challenger) -> tuple[ChallengerThreads, ChallengerThreads]:
        """The threads of a challenger: in the champion's place, and in its shadow."""
        served = challenger.served
        with self._lock:
            known = self._workers.get(served.name)
            if known is None or known[0] is not served:
                # What hangs in the threads of another one must not keep this one.
                for workers in known[1:] if known is not None else ():
                    workers.close()
                known = (
                    served,
                    ChallengerThreads("challenger", self._threads, self._most_waiting),
                    ChallengerThreads("shadow", 1, self._most_waiting, _SHADOW_PAUSE),
                )
                self._workers[served.name] = known
            return known[1], known[2]

    def _fail(
        self, assignment: Assignment, challenger: Challenger, workers: ChallengerThreads
    ) -> None:
        """Notes that there is no room for a request; it is a failure where a prediction hangs."""
        assignment.challenger = None
        hangs = workers.longest() > self._seconds
        outcome = TOO_SLOW if hangs else DROPPED
        assignment.failure = Failure(challenger, outcome, self._too_slow, hangs)

    def _time_out(self, reference: weakref.ref[Trial]) -> None:
        trial = reference()
        if trial is not None and trial.claim():
            self._fall_back(trial, TOO_SLOW, self._too_slow)

    def _fall_back(self, trial: Trial, outcome: str, reason: str) -> None:
        """Has the champion predict."""
        task = trial.task
        # A client may give less time than a challenger has.
        counts = outcome != TOO_SLOW or trial.seconds >= self._seconds
        failure = Failure(trial.challenger, outcome, reason, counts)
        assert task.call.assignment is not None
        task.call.assignment.challenger = None
        task.call.assignment.failure = failure
        task.read = unfolded(trial.request)
        self._put_back(task, trial.large)

    def _try(self, trial: Trial) -> None:
        if trial.settled.is_set():
            return  # Its time was over before its turn came.
        served, call = trial.challenger.served, trial.task.call
        try:
            request, outputs, seconds = _run(served, trial.request, trial.seconds)
            finite = is_finite(outputs)
        except Exception as error:
            if trial.claim():
                self._fall_back(trial, *self._explain(error))
            return
        if not trial.claim():
            return
        if not finite:
            self._fall_back(trial, NAN, _NOT_FINITE)
            return
        champion, call.version = call.version, served.version
        try:
            response = request.write(outputs)
        except Exception as error:
            call.version = champion
            self._fall_back(trial, *self._explain(error))
            return
        call.rows = count_rows(outputs)
        trial.challenger.predicted()
        self._count(served, CHALLENGER, OK, seconds)
        self._log(request, outputs, call.assignment, CHALLENGER, seconds)
        self._finish(trial.task, response)

    def _shadow(
        self,
        assignment: Assignment,
        call: Call,
        request: ModelRequest,
        outputs: Arrays,
        seconds: float,
    ) -> None:
        """Has the challenger predict too, later and for nobody."""
        challenger = self._decide(assignment, call, request)
        if challenger is None or challenger.is_out:
            return
        workers = self._workers_of(challenger)[1]
        # What the champion cannot do, or not in time, the challenger need not.
        counts = seconds < self._seconds and is_finite(outputs)
        if not workers.offer(
            lambda: self._run_shadow(challenger, assignment, request, counts), request.bytes
        ):
            self._count(challenger.served, _SHADOW_ROLE, DROPPED)
            if workers.longest() > self._seconds:
                challenger.failed(self._too_slow)

    def _run_shadow(
        self, challenger: Challenger, assignment: Assignment, request: ModelRequest, counts: bool
    ) -> None:
        if challenger.is_out:
            return
        served = challenger.served
        outcome, reason, seconds = OK, "", None
        try:
            request, outputs, seconds = _run(served, request, self._seconds)
            if not is_finite(outputs):
                outcome, reason = NAN, _NOT_FINITE
            elif seconds > self._seconds:
                outcome, reason = TOO_SLOW, self._too_slow
        except Exception as error:
            outcome, reason = self._explain(error)
        else:
            self._log(request, outputs, assignment, CHALLENGER, seconds, shadow=True)
        self._count(served, _SHADOW_ROLE, outcome, seconds)
        if outcome == OK:
            challenger.predicted()
        elif counts:
            challenger.failed(reason)

    def _explain(self, error: Exception) -> tuple[str, str]:
        """The outcome and the reason of an error, without what may quote the request."""
        if not isinstance(error, ServingError):
            return FAILED, type(error).__name__
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TOO_SLOW, self._too_slow
        return FAILED, error.code.name if error.quotes else str(error)

    def _count(self, served: Served, role: str, outcome: str, seconds: float | None = None) -> None:
        version = str(served.version)
        self._metrics.traffic.labels(served.name, version, role, outcome).inc()
        if seconds is not None:
            self._metrics.model_seconds.labels(served.name, version, role).observe(seconds)

    def _log(
        self,
        request: ModelRequest,
        outputs: Arrays,
        assignment: Assignment | None = None,
        role: str = "",
        seconds: float = 0.0,
        *,
        shadow: bool = False,
    ) -> None:
        """Offers a request and its prediction to the request log."""
        if self._request_log is None or not request.is_logged:
            return
        fields, sampled = None, None
        if assignment is not None:
            if assignment.sampled is None:
                assignment.sampled = self._request_log.samples()
            sampled = assignment.sampled
            fields = TrafficFields(assignment.id, role, shadow, int(seconds * 1e6))
        served = request.served
        raw = served.model.signatures.get(RAW_SIGNATURE)
        # A TFLite model has only such signatures.
        by_name = raw is not None and raw.inputs.keys() == request.inputs.keys()
        self._request_log.offer(
            served.name,
            served.version,
            request.inputs,
            outputs,
            by_name=by_name,
            traffic=fields,
            sampled=sampled,
        )


def _run(
    served: Served, request: ModelRequest, seconds: float
) -> tuple[ModelRequest, Arrays, float]:
    """The request as a version gets it, its prediction, and the seconds that it took."""
    request = dataclasses.replace(request, served=served)
    start = time.perf_counter()
    outputs = served.model.run(request.signature, request.inputs, request.outputs, seconds)
    return request, outputs, time.perf_counter() - start
