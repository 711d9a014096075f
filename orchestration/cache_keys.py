"""Digests of what a result depends on: the code of a node, and all that goes into a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from components.errors import UserError


@dataclass(frozen=True)
class CodeVersion:
    """Versions of the code and files that nodes depend on.

    All nodes depend on the generic code and the libraries, those whose parameters name an import
    path in the user code also on that, and those whose parameters name one of `files` on it.

    Attributes:
      generic: Folder of the components.
      user: Folder of the code that is named by import path, called as its package is.
      files: Files that parameters name by path.
    """

    generic: Path
    user: Path
    files: tuple[str, ...] = ()

    def __call__(self, parameters: str) -> str:
        """The version of a node's code, 16 hexadecimal digits, from the text of its parameters.

        Raises:
          UserError: If a file cannot be read.
        """
        files = [*self.generic.rglob("*.py")]
        if f"{self.user.name}." in parameters:
            files += self.user.rglob("*.py")
        files += [Path(name) for name in self.files if name in parameters]
        libraries = " ".join(f"{name} {version(name)}" for name in ("tfx", "tensorflow"))
        return _digest([libraries, *_read(files)])

    def run_key(self, settings: Mapping[str, Any], data: str) -> str:
        """Identifies all that a run's result depends on, by 16 hexadecimal digits.

        Args:
          settings: The configuration.
          data: Fingerprint of the data.

        Raises:
          UserError: If a file cannot be read.
        """
        everything = " ".join([f"{self.user.name}.", *self.files])
        return _digest([json.dumps(settings, sort_keys=True), data, self(everything)])


def _read(files: Iterable[Path]) -> list[str]:
    try:
        return [path.read_text(encoding="utf-8") for path in sorted(files)]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
