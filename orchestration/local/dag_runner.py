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

    def started(self, name: str) -> None:
        """A node's process has started."""

    def progressed(self, name: str, text: str) -> None:
        """A running node has reported its progress."""

    def finished(self, name: str, result: NodeResult) -> None:
        """A node has ended, or is skipped."""

    def tick(self) -> None:
        """Time has passed; called about ten times a second."""


@dataclass(frozen=True)
class Node:
    """A node of a compiled pipeline.

    Attributes:
      node_id: Its id in the pipeline.
      pipeline: Serialized intermediate representation of its run.
      run_id: Identifies its run; names the folder of its log.
      needs: Names of the nodes that have to be done before it starts; if one fails, it is skipped.
      after: Names of the nodes that have to have ended before it starts, done or not.
      niceness: How far it gives way to other nodes; niceness of its process over the runner's.
    """

    node_id: str
    pipeline: bytes
    run_id: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    niceness: int = 0


@dataclass
class _Running:
    process: ForkServerProcess
    answer: connection.Connection
    limit: float
    deadline: float = math.inf
    is_stopping: bool = False
    family: list[psutil.Process] = field(default_factory=list)
    result: NodeResult | None = None


@dataclass
class ConcurrentDagRunner:
    """Runs nodes of compiled pipelines, each as soon as the nodes that it needs are done.

    If a node fails, the nodes that depend on it are skipped and all others run. A node whose
    inputs, parameters and code did not change is taken from the cache, so a second run resumes
    where the first one failed or was stopped.

    Attributes:
      output: The output directory.
      summarize: Import path of the function that describes a node's outputs, see `NodeTask`.
      observer: Observes the run.
      environment: Environment variables of the nodes, over those of this process.
      workers: Largest number of nodes that run at the same time; one more than there are cores,
        since nodes also wait for files.
      time_limits: Seconds that a node may take, by id, before it is stopped; any time if absent.
    """

    output: OutputDirectory
    summarize: str
    observer: RunObserver
    environment: dict[str, str] = field(default_factory=dict)
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)) + 1)
    time_limits: Mapping[str, float] = field(default_factory=dict)

    def run(self, nodes: Mapping[str, Node]) -> dict[str, NodeResult]:
        """Runs nodes.

        Args:
          nodes: The nodes by name, in topological order. Of those that may start, the first do.

        Returns:
          How each node ended, by name.

        Raises:
          KeyboardInterrupt: After all node processes were stopped.
        """
        with temporary_folder(self.output) as temporary:
            return self._run(nodes, temporary)

    def _run(self, nodes: Mapping[str, Node], temporary: Path) -> dict[str, NodeResult]:
        results: dict[str, NodeResult] = {}
        running: dict[str, _Running] = {}
        # Done, and cleaning up, which the next nodes do not wait for.
        ending: list[_Running] = []
        try:
            while len(results) < len(nodes):
                for name in self._ready(nodes, results, running):
                    self._start(name, nodes[name], running, temporary)
                self._skip_unreachable(nodes, results, running)
                self._listen(running)
                self._end_overdue(running)
                for name in [n for n, r in running.items() if r.result]:
                    ending.append(running.pop(name))
                    self._finish(name, ending[-1], results)
                ending = [node for node in ending if not self._has_ended(node)]
                self.observer.tick()
        except BaseException:
            self._stop(running)
            raise
        finally:
            for node in ending:
                end(node.process, node.deadline - time.monotonic())
        return results

    def _ready(
        self,
        nodes: Mapping[str, Node],
        results: dict[str, NodeResult],
        running: dict[str, _Running],
    ) -> list[str]:
        done = {name for name, result in results.items() if result.state not in (FAILED, SKIPPED)}
        ready = [
            name
            for name, node in nodes.items()
            if name not in results
            and name not in running
            and done.issuperset(node.needs)
            and results.keys() >= set(node.after)
        ]
        return ready[: self.workers - len(running)]

    def _start(self, name: str, node: Node, running: dict[str, _Running], temporary: Path) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        task = NodeTask(
            node_id=node.node_id,
            pipeline=node.pipeline,
            metadata_path=str(self.output.metadata),
            lock_path=str(self.output.metadata_lock),
            log_path=str(self.output.node_log(node.run_id, node.node_id)),
            summarize=self.summarize,
            environment={**self.environment, "TMPDIR": tempfile.mkdtemp(dir=temporary, prefix="")},
            niceness=node.niceness,
        )
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=run_node, args=(task, theirs), name=name)
        # Before it starts, so that `_stop` finds it.
        limit = self.time_limits.get(node.node_id, math.inf)
        running[name] = started = _Running(process, ours, limit)
        process.start()
        started.deadline = time.monotonic() + limit
        theirs.close()
        self.observer.started(name)

    def _skip_unreachable(
        self,
        nodes: Mapping[str, Node],
        results: dict[str, NodeResult],
        running: dict[str, _Running],
    ) -> None:
        for name, node in nodes.items():
            broken = [
                n for n in node.needs if n in results and results[n].state in (FAILED, SKIPPED)
            ]
            if broken and name not in results and name not in running:
                results[name] = NodeResult(SKIPPED, Summary(f"needs {', '.join(broken)}"))
                self.observer.finished(name, results[name])

    def _listen(self, running: dict[str, _Running]) -> None:
        """Receives messages of node processes, waiting a moment for them."""
        answers = [node.answer for node in running.values()]
        # A child of a node's process may outlive it and hold its end of the pipe.
        deaths = [node.process.sentinel for node in running.values()]
        ready = connection.wait([*answers, *deaths], _POLL_SECONDS) if running else []
        for name, node in running.items():
            dead = node.process.sentinel in ready
            if node.answer in ready or (dead and node.answer.poll()):
                self._hear(name, node)
            elif dead:
                node.result = death(node.process)

    def _hear(self, name: str, node: _Running) -> None:
        try:
            message = node.answer.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message.
            node.result = death(node.process)
            return
        if isinstance(message, NodeResult):
            node.result = message
        else:
            self.observer.progressed(name, message)

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

    def _finish(self, name: str, node: _Running, results: dict[str, NodeResult]) -> None:
        node.answer.close()
        assert node.result is not None
        if node.is_stopping:
            end(node.process, STOP_SECONDS)
            kill_each(node.family)
        if node.is_stopping and node.result.state == FAILED:
            seconds = node.limit
            limit = f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} minutes"
            line = f"it was stopped because it took longer than {limit}"
            node.result = NodeResult(FAILED, Summary(line), "TookTooLong")
        node.deadline = time.monotonic() + STOP_SECONDS
        results[name] = node.result
        self.observer.finished(name, node.result)

    @staticmethod
    def _has_ended(node: _Running) -> bool:
        """Whether the process of a node has ended; it is killed if it takes too long."""
        if node.process.is_alive() and time.monotonic() < node.deadline:
            return False
        end(node.process, 0.0)
        return True

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
