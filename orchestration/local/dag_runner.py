"""Runs a TFX pipeline on one machine, each node in a process, independent nodes in parallel."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

import psutil

from orchestration.local.node_process import FAILED, NodeResult, NodeTask, Summary, run_node
from orchestration.local.output_directory import OutputDirectory
from orchestration.local.processes import (
    STOP_SECONDS,
    death,
    descendants,
    end,
    kill,
    kill_each,
    signal_group,
)
from orchestration.local.temporary import temporary_folder

SKIPPED = "skipped"

_POLL_SECONDS = 0.1


class RunObserver(Protocol):
    """Observes a run."""

    def started(self, node_id: str) -> None:
        """A node's process has started."""

    def progressed(self, node_id: str, text: str) -> None:
        """A running node has reported its progress."""

    def finished(self, node_id: str, result: NodeResult) -> None:
        """A node has ended, or is skipped."""

    def tick(self) -> None:
        """Time has passed; called about ten times a second."""


@dataclass
class _Running:
    process: ForkServerProcess
    answer: connection.Connection
    deadline: float
    is_stopping: bool = False
    family: list[psutil.Process] = field(default_factory=list)
    result: NodeResult | None = None


@dataclass
class ConcurrentDagRunner:
    """Runs the nodes of a compiled pipeline, each as soon as its upstream nodes are done.

    If a node fails, the nodes that depend on it are skipped and all others run. A node whose
    inputs, parameters and code did not change is taken from the cache, so a second run resumes
    where the first one failed or was stopped.

    Attributes:
      output: The output directory.
      run_id: Identifies the run; names its folder of logs.
      summarize: Import path of the function that describes a node's outputs, see `NodeTask`.
      observer: Observes the run.
      environment: Environment variables of the nodes, over those of this process.
      workers: Largest number of nodes that run at the same time; one more than there are cores,
        since nodes also wait for files.
      time_limits: Seconds that a node may take, by id, before it is stopped; any time if absent.
    """

    output: OutputDirectory
    run_id: str
    summarize: str
    observer: RunObserver
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)) + 1)
    time_limits: Mapping[str, float] = field(default_factory=dict)

    def run(self, pipeline: bytes, upstream: dict[str, tuple[str, ...]]) -> dict[str, NodeResult]:
        """Runs a pipeline.

        Args:
          pipeline: Serialized intermediate representation of the run.
          upstream: For each node, in topological order, the nodes it must wait for.

        Returns:
          How each node ended.

        Raises:
          KeyboardInterrupt: After all node processes were stopped.
        """
        with temporary_folder(self.output) as temporary:
            return self._run(pipeline, upstream, temporary)

    def _run(
        self, pipeline: bytes, upstream: dict[str, tuple[str, ...]], temporary: Path
    ) -> dict[str, NodeResult]:
        results: dict[str, NodeResult] = {}
        running: dict[str, _Running] = {}
        try:
            while len(results) < len(upstream):
                for node_id in self._ready(upstream, results, running):
                    self._start(node_id, pipeline, running, temporary)
                self._skip_unreachable(upstream, results, running)
                self._listen(running)
                self._end_overdue(running)
                for node_id in [n for n, r in running.items() if r.result]:
                    self._finish(node_id, running.pop(node_id), results)
                self.observer.tick()
        except BaseException:
            self._stop(running)
            raise
        return results

    def _ready(
        self,
        upstream: dict[str, tuple[str, ...]],
        results: dict[str, NodeResult],
        running: dict[str, _Running],
    ) -> list[str]:
        done = {n for n, result in results.items() if result.state not in (FAILED, SKIPPED)}
        ready = [
            node_id
            for node_id, needs in upstream.items()
            if node_id not in results and node_id not in running and done.issuperset(needs)
        ]
        return ready[: self.workers - len(running)]

    def _start(
        self, node_id: str, pipeline: bytes, running: dict[str, _Running], temporary: Path
    ) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        task = NodeTask(
            node_id=node_id,
            pipeline=pipeline,
            metadata_path=str(self.output.metadata),
            lock_path=str(self.output.metadata_lock),
            log_path=str(self.output.node_log(self.run_id, node_id)),
            summarize=self.summarize,
            environment={**self.environment, "TMPDIR": tempfile.mkdtemp(dir=temporary, prefix="")},
        )
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=run_node, args=(task, theirs), name=node_id)
        # Before it starts, so that `_stop` finds it.
        running[node_id] = node = _Running(process, ours, deadline=math.inf)
        process.start()
        node.deadline = time.monotonic() + self.time_limits.get(node_id, math.inf)
        theirs.close()
        self.observer.started(node_id)

    def _skip_unreachable(
        self,
        upstream: dict[str, tuple[str, ...]],
        results: dict[str, NodeResult],
        running: dict[str, _Running],
    ) -> None:
        for node_id, needs in upstream.items():
            broken = [n for n in needs if n in results and results[n].state in (FAILED, SKIPPED)]
            if broken and node_id not in results and node_id not in running:
                results[node_id] = NodeResult(SKIPPED, Summary(f"needs {', '.join(broken)}"))
                self.observer.finished(node_id, results[node_id])

    def _listen(self, running: dict[str, _Running]) -> None:
        """Receives messages of node processes, waiting a moment for them."""
        answers = [node.answer for node in running.values()]
        # A child of a node's process may outlive it and hold its end of the pipe.
        deaths = [node.process.sentinel for node in running.values()]
        ready = connection.wait([*answers, *deaths], _POLL_SECONDS) if running else []
        for node_id, node in running.items():
            dead = node.process.sentinel in ready
            if node.answer in ready or (dead and node.answer.poll()):
                self._hear(node_id, node)
            elif dead:
                node.result = death(node.process)

    def _hear(self, node_id: str, node: _Running) -> None:
        try:
            message = node.answer.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message.
            node.result = death(node.process)
            return
        if isinstance(message, NodeResult):
            node.result = message
        else:
            self.observer.progressed(node_id, message)

    def _end_overdue(self, running: dict[str, _Running]) -> None:
        """Stops nodes that exceed their time limit: by SIGTERM, then by SIGKILL."""
        now = time.monotonic()
        for node in running.values():
            if node.result or now < node.deadline:
                continue
            if node.is_stopping:
                kill(node.process)
            else:
                node.is_stopping, node.deadline = True, now + STOP_SECONDS
                node.family = descendants(node.process)
                signal_group(node.process, signal.SIGTERM)

    def _finish(self, node_id: str, node: _Running, results: dict[str, NodeResult]) -> None:
        end(node.process, STOP_SECONDS)
        kill_each(node.family)
        node.answer.close()
        assert node.result is not None
        if node.is_stopping and node.result.state == FAILED:
            seconds = self.time_limits[node_id]
            limit = f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} minutes"
            line = f"it was stopped because it took longer than {limit}"
            node.result = NodeResult(FAILED, Summary(line), "TookTooLong")
        results[node_id] = node.result
        self.observer.finished(node_id, node.result)

    def _stop(self, running: dict[str, _Running]) -> None:
        """Stops all node processes: politely, then, or on a second Ctrl-C, for good."""
        processes = [node.process for node in running.values() if node.process.pid]
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in processes:
                end(process, 0.0)
