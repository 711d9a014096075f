"""Runs a model server in its own process, which ends with the node even if the node is killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

MODEL_SERVER = "tensorflow_model_server"
EMBEDDED_SERVER = "embedded server"
HOST = "127.0.0.1"

_PROJECT = Path(__file__).parents[2]
# Linux gives none of these ports to an outgoing connection, which could take one before the server.
_PORTS = range(20_000, 32_768)
_GRACE_SECONDS = 5.0
_LOG_LINES = 3
_LOG_CHARACTERS = 600
# Becomes the server, which the kernel kills when the node has ended (PR_SET_PDEATHSIG).
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class ServerProcess:
    """A model server that was started; see `run_server`."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: str):
        self._process = process
        self._log_path = log_path

    def ending(self, seconds: float = 0.0) -> str:
        """How the server ended, and the end of its log; empty if it still runs.

        Args:
          seconds: How long to wait for its end.

        Returns:
          A clause: "the server ended with exit status 1; ...".
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        code = self._process.returncode
        if code is None:
            return ""
        how = f"with exit status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        return f"the server ended {how}; {self._last_words()}"

    def peak_memory_mb(self) -> float:
        """Peak of the resident memory of the server and its children, in MB (10^6 bytes)."""
        process = psutil.Process(self._process.pid)
        family = [process.pid, *(child.pid for child in process.children(recursive=True))]
        return sum(map(_peak_bytes, family)) / 1e6

    def stop(self) -> None:
        """Terminates the server, and waits a few seconds for its end."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)

    def kill(self) -> None:
        """Kills the server and all processes of its session."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _last_words(self) -> str:
        text = Path(self._log_path).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()][-_LOG_LINES:]
        said = " | ".join(lines)[-_LOG_CHARACTERS:]
        return f"its log ends with: {said}" if said else "it logged nothing"


@contextlib.contextmanager
def run_server(command: Sequence[str], log_path: str) -> Iterator[ServerProcess]:
    """Runs a server as long as the context lasts; an exception ends it at once.

    Args:
      command: Program and arguments.
      log_path: File for all its output.

    Yields:
      The running server.
    """
    search = [str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
            # A Python server looks for modules in the folder that it is started in.
            cwd=os.path.dirname(log_path),
            start_new_session=True,
        )
    server = ServerProcess(process, log_path)
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def find_model_server() -> str | None:
    """Path of TensorFlow Serving's model server, or None if it is not installed."""
    return shutil.which(MODEL_SERVER)


def server_command(
    serving_dir: str,
    model_name: str,
    grpc_port: int,
    rest_port: int,
    *,
    prefer_tflite: bool,
    deadline_seconds: float,
) -> list[str]:
    """The command that starts TensorFlow Serving's model server, or the embedded one without it.

    Args:
      serving_dir: Local folder that holds a folder of versions by the name of the model.
      model_name: Name of the model.
      grpc_port: Port for gRPC.
      rest_port: Port for REST.
      prefer_tflite: Serve `model.tflite`.
      deadline_seconds: Time after which the server itself gives up a request.

    Returns:
      Program and arguments.
    """
    if program := find_model_server():
        return [
            program,
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            f"--model_name={model_name}",
            f"--model_base_path={os.path.join(serving_dir, model_name)}",
            f"--prefer_tflite_model={str(prefer_tflite).lower()}",
            f"--rest_api_timeout_in_ms={int(deadline_seconds * 1000)}",
            "--max_num_load_retries=0",
        ]
    return [
        *(sys.executable, "-m", "serving", "serve", serving_dir),
        *("--model", model_name, "--host", HOST),
        *("--grpc-port", str(grpc_port), "--rest-port", str(rest_port), "--no-verify"),
        *("--deadline-seconds", str(deadline_seconds), "--no-access-log", "--no-ui"),
        *(["--prefer-tflite"] if prefer_tflite else []),
    ]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface on which nothing listens."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
    return found


def _peak_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):  # A child may have ended.
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
