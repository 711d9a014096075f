"""Digests of everything that the result of a node or a run depends on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from storage.errors import UserError
from storage.import_closure import ImportClosure, import_paths


@dataclass(frozen=True)
class CodeVersion:
    """Versions of the code and files that nodes depend on.

    A node depends on the libraries, on the project's code that its executor and the functions named
    by its parameters import, and on the `files` that its parameters name. Comments do not matter.

    Attributes:
      root: Folder of the project.
      files: Files that parameters name by path.
    """

    root: Path
    files: tuple[str, ...] = ()

    def __call__(self, executor: str, parameters: str) -> str:
        """The version of a node's code, 16 hexadecimal digits.

        Args:
          executor: Import path of its executor.
          parameters: Text of its parameters.

        Raises:
          UserError: If a file cannot be read.
        """
        named = [name for name in self.files if name in parameters]
        return self._digest([executor, *import_paths(parameters)], named)

    def run_key(self, code: Iterable[str], settings: Mapping[str, Any], data: str) -> str:
        """Identifies everything that a run's result depends on, by 16 hexadecimal digits.

        Args:
          code: Import paths of what makes the pipeline, and so imports what its nodes run, and of
            the functions that they name.
          settings: The configuration.
          data: Fingerprint of the data.

        Raises:
          UserError: If a file cannot be read.
        """
        return self._digest(code, self.files, json.dumps(settings, sort_keys=True), data)

    def modules(self, code: Iterable[str]) -> dict[str, str]:
        """The version of each module that is imported, directly or not, by path: 16 digits.

        Args:
          code: Import paths.

        Raises:
          UserError: If a module cannot be read.
        """
        texts = self._imports.code(code)
        return {n: hashlib.sha256(text.encode()).hexdigest()[:16] for n, text in texts.items()}

    @functools.cached_property
    def _imports(self) -> ImportClosure:
        return ImportClosure(self.root)

    def _digest(self, names: Iterable[str], files: Iterable[str], *facts: str) -> str:
        code = self._imports.code(names)
        libraries = {name: version(name) for name in ("tfx", "tensorflow")}
        contents = {name: _read(name) for name in files}
        everything = json.dumps([libraries, code, contents, *facts], sort_keys=True)
        return hashlib.sha256(everything.encode()).hexdigest()[:16]


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().hex()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
