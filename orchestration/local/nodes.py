"""Runs the nodes of a pipeline on this machine, and shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from orchestration.local.cache_keys import CodeVersion
from orchestration.local.dag_runner import ConcurrentDagRunner, Node
from orchestration.local.display import RunDisplay, show_error, show_log
from orchestration.local.fork_server import start_fork_server
from orchestration.local.node_process import FAILED, NodeResult, redirect_output
from orchestration.local.output_directory import OutputDirectory
from pipeline.config import Config
from terminal.imports import lasting_imports

if TYPE_CHECKING:
    from tfx import v1 as tfx
    from tfx.proto.orchestration import pipeline_pb2


@dataclass(frozen=True)
class Ahead:
    """A later run, whose data nodes run beside the training of this one.

    It finds their results in the cache. A node that fails ahead runs, and fails, again there.

    Attributes:
      run_id: Its id, which it has to be run with.
      name: The span that it is as of, for the screen.
      pipeline: Its pipeline.
    """

    run_id: str
    name: str
    pipeline: tfx.dsl.Pipeline


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
    ahead: Ahead | None = None,
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
      only: The nodes to run, which wait for each other alone; none for the whole pipeline.
      ahead: A later run with the same code, whose data nodes run too.

    Returns:
      How each node of the pipeline ended.

    Raises:
      KeyboardInterrupt: After all node processes were stopped.
    """
    from orchestration.local import tfx_internals

    store = tfx_internals.LockedMetadata(str(directory.metadata), str(directory.metadata_lock))
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, code_version)
    nodes = own = _nodes(compiled, run_id, only)
    if ahead:
        directory.logs(ahead.run_id).mkdir(parents=True, exist_ok=True)
        compiled = tfx_internals.compile_pipeline(
            ahead.pipeline, ahead.run_id, code_version, ahead=True
        )
        nodes = _with_ahead(own, _nodes(compiled, ahead.run_id), ahead.name)
    tfx_internals.cancel_unfinished(store)
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
        tfx_internals.cancel_unfinished(store)
    return {name: result for name, result in results.items() if name in own}


def _nodes(
    compiled: pipeline_pb2.Pipeline, run_id: str, only: Collection[str] = ()
) -> dict[str, Node]:
    from orchestration.local import tfx_internals

    serialized = compiled.SerializeToString()
    return {
        node_id: Node(node_id, serialized, run_id, tuple(n for n in needs if not only or n in only))
        for node_id, needs in tfx_internals.node_ids(compiled).items()
        if not only or node_id in only
    }


def _with_ahead(own: Mapping[str, Node], later: Mapping[str, Node], name: str) -> dict[str, Node]:
    """Adds the data nodes of a later run.

    They begin when those of this run are done, and the node that measures times waits for them.
    """
    from pipeline.pipeline import DATA_NODES, TIMED_NODE

    data = [node_id for node_id in later if node_id in DATA_NODES]
    names = {node_id: f"{node_id} of {name}" for node_id in data}
    ahead = {
        names[node_id]: dataclasses.replace(
            later[node_id],
            needs=(*data, *(names[other] for other in later[node_id].needs if other in names)),
        )
        for node_id in data
    }
    timed = dataclasses.replace(own[TIMED_NODE], after=tuple(ahead))
    return {**own, TIMED_NODE: timed, **ahead}


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
