"""Runs the nodes of a pipeline on this machine, and shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from orchestration.local.cache_keys import CodeVersion
from orchestration.local.dag_runner import ConcurrentDagRunner, Node
from orchestration.local.display import RunDisplay, show_error, show_log
from orchestration.local.fork_server import start_fork_server
from orchestration.local.helper_process import Helper
from orchestration.local.node_process import FAILED, NodeResult, redirect_output
from orchestration.local.output_directory import OutputDirectory
from pipeline.config import Config
from storage.errors import UserError
from terminal.imports import lasting_imports


@dataclass(frozen=True)
class Recipe:
    """What the pipeline of a run is made from.

    Attributes:
      run_id: Identifies the run.
      arguments: Arguments of `create_pipeline`.
    """

    run_id: str
    arguments: dict[str, Any]


def begin(logs: Path, log: str = "runner.log") -> None:
    """Sends the output of libraries to a folder of logs, and has a server import TFX.

    Args:
      logs: The folder; it is made.
      log: Name of the file in the folder that takes the output of this process.
    """
    start_fork_server(logs / "imports.log")
    redirect_output(str(logs / log))


@contextlib.contextmanager
def show_imports(console: Console) -> Iterator[None]:
    """Shows that TFX is being imported, which takes long, by this process or its server."""
    spinner = Spinner("dots", "Importing TFX …")
    shown = Live(
        spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with shown, lasting_imports():
        yield


def compile_apart(
    recipe: Recipe,
    code_version: CodeVersion,
    directory: OutputDirectory,
    following: Recipe | None = None,
) -> dict[str, Node]:
    """Makes the nodes of a run in another process, so that this one need not import TFX.

    Args:
      recipe: The run.
      code_version: Versions of the code that nodes depend on.
      directory: Where the run keeps its files.
      following: A later run with the same code; see `compilation.make_nodes`.

    Returns:
      The nodes by name, in topological order.

    Raises:
      UserError: What `create_pipeline` raised.
    """
    nodes = _help("make_nodes", (recipe, code_version, following), directory, recipe.run_id)
    if isinstance(nodes, UserError):
        raise nodes
    return cast(dict[str, Node], nodes)


def run_nodes(
    nodes: Mapping[str, Node],
    config: Config,
    directory: OutputDirectory,
    run_id: str,
    console: Console,
    environment: Mapping[str, str],
) -> dict[str, NodeResult]:
    """Runs the nodes of a pipeline, forked from a server that was started before.

    Args:
      nodes: The nodes by name, in topological order. Those of another run go ahead of it.
      config: Says how long nodes may take.
      directory: Where the run keeps its files.
      run_id: Identifies the run.
      console: Where to show it.
      environment: Environment variables of the nodes.

    Returns:
      How each node of the run ended.

    Raises:
      HelperError: If ML Metadata cannot be read.
      KeyboardInterrupt: After all node processes were stopped.
    """
    own = {name for name, node in nodes.items() if node.run_id == run_id}
    for node in nodes.values():
        directory.logs(node.run_id).mkdir(parents=True, exist_ok=True)
    _cancel_unfinished(directory, run_id)
    try:
        with RunDisplay(console, list(nodes)) as display:
            runner = ConcurrentDagRunner(
                directory,
                "orchestration.local.summaries.summarize",
                display,
                dict(environment),
                time_limits={node_id: config.node_timeout_seconds(node_id) for node_id in own},
            )
            results = runner.run(nodes)
    finally:
        _cancel_unfinished(directory, run_id)
    return {name: result for name, result in results.items() if name in own}


def _cancel_unfinished(directory: OutputDirectory, run_id: str) -> None:
    files = (str(directory.metadata), str(directory.metadata_lock))
    _help("cancel_unfinished", files, directory, run_id)


def _help(
    function: str, arguments: tuple[Any, ...], directory: OutputDirectory, run_id: str
) -> Any:
    """Calls a function of `compilation`, which imports TFX, in a process that has."""
    log = str(directory.logs(run_id) / "runner.log")
    return Helper(f"orchestration.local.compilation.{function}", arguments, log).result()


def show_failures(
    results: Mapping[str, NodeResult], directory: OutputDirectory, run_id: str, console: Console
) -> dict[str, NodeResult]:
    """Shows the nodes that failed, each with its log, and returns them."""
    failed = {node_id: result for node_id, result in results.items() if result.state == FAILED}
    for node_id, result in failed.items():
        show_error(console, "\n".join(error_lines(node_id, result)))
        show_log(console, directory.node_log(run_id, node_id))
    return failed


def error_lines(node_id: str, result: NodeResult) -> list[str]:
    """Why a node failed, in lines for a person."""
    return [f"{node_id}: {result.summary.line}", *result.summary.details]
