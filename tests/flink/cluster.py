"""A Flink cluster on this machine: a JobManager, TaskManagers and Beam's job server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestration.local.proxies import spare_loopback
from tests.conftest import PROJECT

FLINK = PROJECT / "orchestration" / "flink"
WORKER = FLINK / "worker.py"
_RUNTIME = "org.apache.flink.runtime"
_SECONDS = 120


@dataclass
class Cluster:
    """Processes of a cluster; all of them end with `stop`.

    Attributes:
      jar: Beam's job server for Flink, which has Flink in it.
      folder: Takes logs and temporary files.
      task_managers: The TaskManagers that were started, and not killed.
    """

    jar: Path
    folder: Path
    task_managers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, task_managers: int) -> None:
        """Starts all of it and waits until it takes jobs."""
        self._ports = dict(zip(("rpc", "rest", "jobs", "artifacts"), free_ports(4), strict=True))
        self._run("jobmanager", f"{_RUNTIME}.entrypoint.StandaloneSessionClusterEntrypoint", 640)
        for _ in range(task_managers):
            self.add_task_manager()
        self.start_job_server()
        self.wait(lambda: self.get("/overview")["taskmanagers"] == task_managers)

    def start_job_server(self) -> None:
        """Starts the job server, and waits until it takes jobs."""
        command = [
            *("java", "-Xmx512m", "-jar", self.jar, "--flink-master", self.address),
            *("--job-port", self._ports["jobs"], "--artifact-port", self._ports["artifacts"]),
            *("--expansion-port", -1, "--artifacts-dir", self.folder / "artifacts"),
        ]
        self._job_server = self._launch("jobserver", command)
        self.wait(lambda: is_open(self._ports["jobs"]))

    def kill_job_server(self) -> None:
        """Kills the job server; the cluster stays."""
        self._job_server.kill()
        self._job_server.wait()

    def add_task_manager(self) -> None:
        """Starts one more TaskManager, which offers its slot when it is up."""
        name = f"taskmanager-{len(self._started)}"
        # What Flink's own scripts work out from the configuration.
        limits = ("-XX:MaxDirectMemorySize=896m", "-XX:MaxMetaspaceSize=256m")
        main = f"{_RUNTIME}.taskexecutor.TaskManagerRunner"
        self.task_managers.append(self._run(name, main, 640, *limits))

    def kill_task_manager(self) -> None:
        """Kills a TaskManager and its workers as a machine that fails does."""
        process = self.task_managers.pop(0)
        family = psutil.Process(process.pid).children(recursive=True)
        for each in [psutil.Process(process.pid), *family]:
            each.kill()
        process.wait()

    def _run(self, name: str, main: str, heap: int, *limits: str) -> subprocess.Popen[bytes]:
        options = {
            "jobmanager.rpc.port": self._ports["rpc"],
            "rest.port": self._ports["rest"],
            "io.tmp.dirs": self.folder,
            "taskmanager.resource-id": name,
        }
        command = [
            *("java", f"-Xmx{heap}m", *limits, *opened_packages(self.jar), "-cp", self.jar, main),
            *("--configDir", FLINK, *(f"-D{key}={value}" for key, value in options.items())),
        ]
        return self._launch(name, command)

    def _launch(self, name: str, command: list[Any]) -> subprocess.Popen[bytes]:
        # Workers are started as `python` by what they inherit this from.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path}
        spare_loopback(environment)
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                list(map(str, command)), env=environment, stdout=log, stderr=log, cwd=self.folder
            )
        self._started.append(process)
        return process

    @property
    def address(self) -> str:
        """Address of the JobManager, for what submits jobs."""
        return f"localhost:{self._ports['rest']}"

    @property
    def job_endpoint(self) -> str:
        """Address of the job server."""
        return f"localhost:{self._ports['jobs']}"

    @property
    def beam_args(self) -> tuple[str, ...]:
        """Arguments of nodes that run here: a worker process at each TaskManager."""
        return (
            *("--runner=FlinkRunner", f"--job_endpoint={self.job_endpoint}", "--parallelism=2"),
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(WORKER)})}",
            # The image is named for TFX, which else packages itself for the workers.
            "--sdk_container_image=flightdeck",
        )

    def get(self, path: str) -> Any:
        """What the JobManager's REST interface says."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.address}{path}", timeout=10) as response:
                return json.load(response)
        except OSError:  # It is not up yet.
            return {"taskmanagers": 0, "jobs": []}

    def jobs(self) -> dict[str, str]:
        """State of each job by its id."""
        return {job["id"]: job["status"] for job in self.get("/jobs")["jobs"]}

    def restarts(self, job: str) -> int:
        """How many times a task of a job was started again, at most."""
        vertices = [vertex["id"] for vertex in self.get(f"/jobs/{job}")["vertices"]]
        tasks = [self.get(f"/jobs/{job}/vertices/{vertex}")["subtasks"] for vertex in vertices]
        return max(subtask["attempt"] for each in tasks for subtask in each)

    def workers(self) -> list[set[int]]:
        """The worker processes of each TaskManager."""
        managers = [psutil.Process(each.pid) for each in self.task_managers]
        return [{worker.pid for worker in manager.children()} for manager in managers]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition; the test fails if a process ends or that takes too long."""
        deadline = time.monotonic() + _SECONDS
        while not condition():
            dead = [each for each in self._started if each.poll() not in (None, -signal.SIGKILL)]
            if dead or time.monotonic() > deadline:
                pytest.fail(f"the cluster does not come up:\n{self.last_lines()}")
            time.sleep(0.2)

    def last_lines(self) -> str:
        """The end of each log."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def stop(self) -> None:
        """Ends all of it."""
        for process in reversed(self._started):
            family = psutil.Process(process.pid).children() if process.poll() is None else []
            process.kill()
            process.wait()
            for each in family:
                each.kill()


def opened_packages(jar: Path) -> list[str]:
    """Options that open to Flink what the jar's manifest opens for `java -jar`."""
    with zipfile.ZipFile(jar) as archive:
        manifest = archive.read("META-INF/MANIFEST.MF").decode().replace("\r\n ", "")
    (line,) = [line for line in manifest.splitlines() if line.startswith("Add-Opens: ")]
    return [f"--add-opens={package}=ALL-UNNAMED" for package in line.split()[1:]]


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def is_open(port: int) -> bool:
    """Whether somebody listens at a port."""
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0
