"""Makes a pipeline into nodes that the local runner runs; imports TFX."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Collection, Mapping

from tfx import v1 as tfx
from tfx.proto.orchestration import pipeline_pb2

from orchestration.local import tfx_internals
from orchestration.local.cache_keys import CodeVersion
from orchestration.local.dag_runner import Node
from orchestration.local.nodes import Recipe
from pipeline.pipeline import DATA_NODES, TIMED_NODE, create_pipeline
from storage.errors import UserError

# Of nodes that go ahead: a process without any gets nine times the time on a core.
_NICENESS = 10


def make_nodes(
    recipe: Recipe, code_version: CodeVersion, following: Recipe | None = None
) -> dict[str, Node] | UserError:
    """Makes the nodes of a run, see `nodes.compile_apart`.

    Args:
      recipe: The run.
      code_version: Versions of the code that nodes depend on.
      following: A later run with the same code, whose data nodes go ahead; see `add_ahead`. One
        whose pipeline cannot be made is left out: that run will show why.

    Returns:
      The nodes by name, in topological order; or the error of who configured the pipeline.
    """
    try:
        pipeline = create_pipeline(**recipe.arguments)
        nodes = compile_nodes(pipeline, recipe.run_id, code_version)
    except UserError as error:
        return error
    if following:
        try:
            later = create_pipeline(**following.arguments)
        except Exception:
            traceback.print_exc()
        else:
            name = str(following.arguments["config"].data.as_of)
            nodes = add_ahead(nodes, later, following.run_id, name, code_version)
    return nodes


def compile_nodes(
    pipeline: tfx.dsl.Pipeline,
    run_id: str,
    code_version: CodeVersion,
    only: Collection[str] = (),
) -> dict[str, Node]:
    """Compiles a pipeline to nodes.

    Args:
      pipeline: The pipeline.
      run_id: Identifies the run.
      code_version: Versions of the code that nodes depend on.
      only: The nodes to run, which wait for each other alone; none for the whole pipeline.

    Returns:
      The nodes by name, in topological order.
    """
    return _nodes(tfx_internals.compile_pipeline(pipeline, run_id, code_version), run_id, only)


def add_ahead(
    nodes: Mapping[str, Node],
    pipeline: tfx.dsl.Pipeline,
    run_id: str,
    name: str,
    code_version: CodeVersion,
) -> dict[str, Node]:
    """Adds the data nodes of a later run to those of a run.

    They begin when those of this run are done, and take what its other nodes leave of the cores.
    The node that measures times waits for them. The later run finds their results in the cache; a
    node that fails ahead runs again there.

    Args:
      nodes: The nodes of the run.
      pipeline: The pipeline of the later run.
      run_id: Its id, which it has to be run with.
      name: The span that it is as of, for the screen.
      code_version: Versions of the code that nodes depend on.
    """
    compiled = tfx_internals.compile_pipeline(pipeline, run_id, code_version, ahead=True)
    later = _nodes(compiled, run_id)
    data = [node_id for node_id in later if node_id in DATA_NODES]
    names = {node_id: f"{node_id} of {name}" for node_id in data}
    ahead = {
        names[node_id]: dataclasses.replace(
            later[node_id],
            needs=(*data, *(names[other] for other in later[node_id].needs if other in names)),
            niceness=_NICENESS,
        )
        for node_id in data
    }
    timed = dataclasses.replace(nodes[TIMED_NODE], after=tuple(ahead))
    return {**nodes, TIMED_NODE: timed, **ahead}


def _nodes(
    compiled: pipeline_pb2.Pipeline, run_id: str, only: Collection[str] = ()
) -> dict[str, Node]:
    serialized = compiled.SerializeToString()
    return {
        node_id: Node(node_id, serialized, run_id, tuple(n for n in needs if not only or n in only))
        for node_id, needs in tfx_internals.node_ids(compiled).items()
        if not only or node_id in only
    }


def cancel_unfinished(sqlite_path: str, lock_path: str) -> None:
    """Marks executions that a stopped run left running as canceled.

    Args:
      sqlite_path: SQLite file of ML Metadata.
      lock_path: Its lock file.
    """
    tfx_internals.cancel_unfinished(tfx_internals.LockedMetadata(sqlite_path, lock_path))
