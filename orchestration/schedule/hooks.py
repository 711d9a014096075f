"""Tells the outcome of a run to a command and a web address."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

_COMMAND_SECONDS = 30.0
_WEBHOOK_SECONDS = 10.0
_WEBHOOK_TRIES = 3
_WEBHOOK_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Hooks:
    """Who is told the outcome of a run, as one JSON object.

    Attributes:
      command: A command that gets it on its standard input, split as a shell would, without one.
      webhook: An address that it is posted to.
    """

    command: str = ""
    webhook: str = ""

    def tell(self, outcome: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Tells both. What fails is said, and harms nothing."""
        text = json.dumps(outcome, ensure_ascii=False)
        if self.command:
            try:
                _run(self.command, text)
            except Exception as error:  # Whatever it is: the run is done, and others are to come.
                say(f"--notify {self.command}: {error}")
        for number in range(1, _WEBHOOK_TRIES + 1) if self.webhook else ():
            try:
                _post(self.webhook, text)
                break
            except Exception as error:
                # Not the address and not the message, which may hold it: a part may be secret.
                problem = str(error) if isinstance(error, _Refused) else type(error).__name__
                say(f"--webhook: {problem} (try {number} of {_WEBHOOK_TRIES})")
            if number < _WEBHOOK_TRIES:
                time.sleep(_WEBHOOK_PAUSE_SECONDS)


class _Refused(Exception):
    """A hook was reached, and did not do its part."""


def _run(command: str, text: str) -> None:
    words = shlex.split(command)
    if not words:
        raise _Refused("no command")
    # A file, not a pipe: the command may not read it.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write(text + "\n")
        file.seek(0)
        process = subprocess.Popen(words, stdin=file, start_new_session=True)
    try:
        status = process.wait(_COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        kill_session(process)
        raise _Refused(f"did not end within {_COMMAND_SECONDS:g} s") from error
    if status:
        raise _Refused(f"exit status {status}")


def _post(url: str, text: str) -> None:
    import httpx  # Here, because a firing that finds nothing new needs it not.

    headers = {"Content-Type": "application/json"}
    try:
        response = httpx.post(url, content=text.encode(), headers=headers, timeout=_WEBHOOK_SECONDS)
    except ImportError as error:  # httpx speaks SOCKS by a library that is not there.
        raise _Refused("the proxy that the environment names cannot be used") from error
    if not response.is_success:
        raise _Refused(f"status {response.status_code}")


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, and all processes that did not leave the session."""
    for other in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(other.pid) == process.pid:
                other.kill()
    process.wait()
