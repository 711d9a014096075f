"""Calls a function in a process of its own, forked from the server that has TFX imported."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import traceback
from multiprocessing.connection import Connection
from typing import Any

from orchestration.local.node_process import begin, clean_up, redirect_output
from storage.errors import UserError


class HelperError(UserError):
    """The function raised an exception, or its process died."""


class Helper:
    """One call, which goes on while its caller does other things."""

    def __init__(self, function: str, arguments: tuple[Any, ...], log_path: str):
        """Starts the call.

        Args:
          function: Import path `module.function`; what it is given and returns can be pickled.
          arguments: What it is given.
          log_path: File that takes everything the process prints and logs.
        """
        self._function = function
        self._log_path = log_path
        self._answer, theirs = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_call, args=(function, arguments, log_path, theirs), name=function
        )
        self._process.start()
        theirs.close()

    def result(self) -> Any:
        """Waits for what the function returns.

        Raises:
          HelperError: Naming the function, its error, and the log.
        """
        try:
            error, value = self._answer.recv()
        except (EOFError, OSError):
            error, value = "its process died", None
        self.stop()
        if error:
            raise HelperError(f"{self._function}: {error}\n  log: {self._log_path}")
        return value

    def stop(self) -> None:
        """Ends the process; nothing happens if it has ended."""
        self._process.terminate()
        self._process.join()
        self._answer.close()


def _call(function: str, arguments: tuple[Any, ...], log_path: str, answer: Connection) -> None:
    begin()
    redirect_output(log_path)
    module, _, name = function.rpartition(".")
    try:
        result = ("", getattr(importlib.import_module(module), name)(*arguments))
    except Exception as error:
        traceback.print_exc()
        result = (f"{type(error).__name__}: {error}", None)
    clean_up()  # First: the caller ends this process when it has the answer.
    answer.send(result)
    answer.close()
    os._exit(0)  # Threads that libraries left behind must not hold it up.
