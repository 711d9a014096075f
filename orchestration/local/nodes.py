"""Runs the nodes of a pipeline on this machine, and shows them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from orchestration.local.cache_keys import CodeVersion
from orchestration.local.dag_runner import ConcurrentDagRunner
from orchestration.local.display import RunDisplay, show_error, show_log
from orchestration.local.fork_server import start_fork_server
from orchestration.local.node_process import FAILED, NodeResult, redirect_output
from orchestration.local.output_directory import OutputDirectory
from pipeline.config import Config
from terminal.imports import lasting_imports

if TYPE_CHECKING:
    from tfx import v1 as tfx


def begin(logs: Path, console: Console, log: str = "runner.log") -> None:
    """Sends the output of libraries to a folder of logs, and imports TFX, which takes long.

    Args:
      logs: The folder; it is made.
      console: Where to show that it takes long.
      log: Name of the file in the folder that takes the output of this process.
    """
    logs.mkdir(parents=True, exist_ok=True)
    start_fork_server(logs / "imports.log")
    redirect_output(str(logs / log))
    spinner = Spinner("dots", "Importing TFX …")
    shown = Live(
        spinner, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    )
    with shown, lasting_imports():
        import pipeline.pipeline  # noqa: F401


def run_nodes(
    pipeline: tfx.dsl.Pipeline,
    config: Config,
    directory: OutputDirectory,
    run_id: str,
    console: Console,
    code_version: CodeVersion,
    environment: Mapping[str, str],
    only: Collection[str] = (),
) -> dict[str, NodeResult]:
    """Runs the nodes of a pipeline; call `begin` before.

    Args:
      pipeline: The pipeline.
      config: Says how long nodes may take.
      directory: Where the run keeps its files.
      run_id: Identifies the run.
      console: Where to show it.
      code_version: Versions of the code that nodes depend on.
      environment: Environment variables of the nodes.
      only: The nodes to run, with all that they need; none for the whole pipeline.

    Returns:
      How each node ended.

    Raises:
      KeyboardInterrupt: After all node processes were stopped.
    """
    from orchestration.local import tfx_internals

    store = tfx_internals.LockedMetadata(str(directory.metadata), str(directory.metadata_lock))
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, code_version)
    upstream = {
        node_id: needs
        for node_id, needs in tfx_internals.node_ids(compiled).items()
        if not only or node_id in only
    }
    tfx_internals.cancel_unfinished(store)
    try:
        with RunDisplay(console, list(upstream)) as display:
            runner = ConcurrentDagRunner(
                directory,
                run_id,
                "orchestration.local.summaries.summarize",
                display,
                dict(environment),
                time_limits={node_id: config.node_timeout_seconds(node_id) for node_id in upstream},
            )
            return runner.run(compiled.SerializeToString(), upstream)
    finally:
        tfx_internals.cancel_unfinished(store)


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
