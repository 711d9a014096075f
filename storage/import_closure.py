"""Finds all project code that a module imports, by static analysis."""

from __future__ import annotations

import ast
import functools
import gc
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from storage.errors import UserError

_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_ONLY_TYPE_CHECKERS = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
_FILE_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True)
class _Module:
    """The imports of a module, files that it may read, and its code as text."""

    imports: frozenset[str]
    syntax: str


@dataclass(frozen=True)
class ImportClosure:
    """The imports between the modules below a folder.

    Imports inside functions count too; imports for type checkers do not. Three kinds of strings
    count as
    imports: a dotted path (`"package.module.function"`), the argument after `"-m"` in a command,
      and
    the name of a file in the module's folder, such as a template.

    Attributes:
      root: Folder that holds the packages.
      packages: Those that are followed; None follows all that there are.
    """

    root: Path
    packages: frozenset[str] | None = None
    _read: dict[Path, _Module] = field(default_factory=dict, repr=False)
    _followed: dict[Path, frozenset[Path]] = field(default_factory=dict, repr=False)

    def code(self, names: Iterable[str]) -> dict[str, str]:
        """The syntax trees of the files that run when modules are imported, by path below `root`.

        As text, to be compared: comments and layout make no difference to it. See `files`.
        """
        return {
            str(file.relative_to(self.root)): self._module(file).syntax
            for file in sorted(self.files(names))
        }

    def files(self, names: Iterable[str]) -> frozenset[Path]:
        """The files that run when modules are imported.

        Args:
          names: Dotted paths of modules, or of what is in them; those of other projects count for
            nothing.

        Returns:
          Their files, and those of all that they import, directly or not.

        Raises:
          UserError: If a file cannot be read, or is not Python.
        """
        found: set[Path] = set()
        waiting = {file for name in names for file in self._resolve(name)}
        while waiting:
            file = waiting.pop()
            found.add(file)
            if file not in self._followed:
                self._followed[file] = self._imports(file)
            waiting |= self._followed[file] - found
        return frozenset(found)

    def _imports(self, file: Path) -> frozenset[Path]:
        names = self._module(file).imports
        near = {file.parent / name for name in names if "." in name}
        modules = {found for name in names for found in self._resolve(name)}
        return frozenset(modules | {path for path in near if path.is_file()})

    def _module(self, file: Path) -> _Module:
        if file not in self._read:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file} cannot be read: {error.strerror}") from error
            self._read[file] = self._parse(file, content)
        return self._read[file]

    def _parse(self, file: Path, content: bytes) -> _Module:
        if file.suffix != ".py":
            return _Module(frozenset(), content.hex())
        try:
            return _parse(content, file.relative_to(self.root).parent.parts)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"{file} is not Python: {error}") from error

    def _resolve(self, name: str) -> Iterator[Path]:
        """The files that run when a dotted path is imported, as far as it is one of modules."""
        folder = self.root
        parts = name.split(".")
        if self.packages is not None and parts[0] not in self.packages:
            return
        for part in parts:
            if (module := folder / f"{part}.py").is_file():
                yield module
                return
            folder = folder / part
            if not folder.is_dir():
                return
            if (package := folder / "__init__.py").is_file():
                yield package


def import_paths(text: str) -> list[str]:
    """All that looks like a dotted import path in a text.

    Example:
      >>> import_paths('run_fn: "package.model.run_fn", rate: 0.5')
      ['package.model.run_fn']
    """
    return _IMPORT_PATH.findall(text)


# A process that lives through many runs reads the same code for each.
@functools.lru_cache(maxsize=2000)
def _parse(content: bytes, package: tuple[str, ...]) -> _Module:
    collects = gc.isenabled()
    gc.disable()  # A tree has no cycles; to look for some in it takes as long as to make it.
    try:
        tree = ast.parse(content)
        return _Module(frozenset(_imported(tree, package)), ast.dump(tree))
    finally:
        if collects:
            gc.enable()


def _imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted paths that a module of a package imports, and what may be names of files."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in _ONLY_TYPE_CHECKERS:
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parts = (*base, *([node.module] if node.module else []))
            yield from (".".join((*parts, alias.name)) for alias in node.names)
        elif isinstance(node, ast.List | ast.Tuple):
            values = [item.value if isinstance(item, ast.Constant) else None for item in node.elts]
            yield from (f"{name!s}.__main__" for flag, name in pairwise(values) if flag == "-m")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from filter(_FILE_NAME.fullmatch, [node.value])
